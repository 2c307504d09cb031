"""Bringing small host tensors to the device without making the host wait."""

from __future__ import annotations

import torch
from torch import Tensor


def placed(x: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return a host tensor on `device`, in `dtype` if given, without waiting for work queued there.

    A plain `.to` waits on CUDA until the device is done with all before it, so that it then idles until the
    host has issued more. CUDA takes its own copy of pageable host memory before it returns, so `x` may go.
    """
    x = x if dtype is None else x.to(dtype)
    return x.to(device, non_blocking=torch.device(device).type == "cuda" and not x.is_cuda)

"""Devices: whether one is there, and how small host tensors come to it without making the host wait."""

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


def check_device(device: str) -> None:
    """Raise `ValueError` where torch knows no device of this name or the machine has none."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not a torch device name such as 'cpu' or 'cuda'") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but torch finds no CUDA device; use device='cpu'")

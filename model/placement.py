"""Devices: whether one is there, and how small host tensors come to it without making the host wait."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_FOUND: dict[str, tuple[str, Callable[[], int]]] = {
    "cuda": ("CUDA", lambda: torch.cuda.device_count() if torch.cuda.is_available() else 0),
    "xpu": ("XPU", lambda: torch.xpu.device_count() if torch.xpu.is_available() else 0),
}


def placed(x: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return a host tensor on `device`, in `dtype` if given, without waiting for work queued there.

    A plain `.to` waits on CUDA until the device is done with all before it, so that it then idles until the
    host has issued more. CUDA takes its own copy of pageable host memory before it returns, so `x` may go;
    "meta", on which the path of a step is checked, has no memory at all.
    """
    x = x if dtype is None else x.to(dtype)
    return x.to(device, non_blocking=torch.device(device).type in ("cuda", "meta") and x.device.type == "cpu")


def check_device(device: str | torch.device) -> None:
    """Raise `ValueError` where there is no device of this name, or none that the worlds run on.

    That is a CPU, an NVIDIA or AMD GPU ("cuda") or an Intel one ("xpu"). Poses are float64, which Apple's GPU
    ("mps") does not have.
    """
    if not isinstance(device, str | torch.device):
        raise ValueError(
            f"device={device!r:.60} is a {type(device).__name__}; expected a name such as 'cpu' or 'cuda'"
        )
    name = f"device={str(device)!r:.60}"
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{name} is not a torch device name such as 'cpu' or 'cuda'") from error
    index = parsed.index or 0
    if parsed.type == "cpu":
        if index:
            raise ValueError(f"{name}: there is one CPU; use device='cpu'")
        return
    if parsed.type == "mps":
        raise ValueError(f"{name} has no float64 numbers, which poses need; use device='cpu'")
    if parsed.type not in _FOUND:
        raise ValueError(f"{name} is none of cpu, {', '.join(_FOUND)}; use device='cpu'")
    called, count = _FOUND[parsed.type]
    found = count()
    if not found:
        raise ValueError(f"{name} was asked for, but torch finds no {called} device; use device='cpu'")
    if index >= found:
        raise ValueError(f"{name} was asked for, but torch finds {found} of them, the last is {found - 1}")

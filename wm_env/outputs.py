"""What an environment hands out: NumPy arrays on the host, or tensors where the world computes.

    output="numpy"     the default: observations, rewards and ends are arrays, as Gymnasium's are
    output="torch"     tensors on the world's device, equal numbers; the frames of a step never visit the host

Poses, tasks and `info` are small and stay on the host in both.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Output = Literal["numpy", "torch"]
OUTPUTS: tuple[Output, ...] = ("numpy", "torch")


def kept(output: str, tensor: Tensor) -> Tensor:
    """Return what a state keeps of what a world made: on the host for arrays, where it is for tensors."""
    return tensor if output == "torch" else tensor.cpu()


def handed(output: str, value: Tensor | np.ndarray, device: torch.device) -> Any:
    """Return a fresh array, or a fresh tensor on `device`, of a value that an environment keeps."""
    if output == "torch":
        return torch.as_tensor(value).to(device, copy=True)
    return value.numpy().copy() if isinstance(value, Tensor) else value

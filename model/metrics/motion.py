"""How much pictures move: motion energy, frozen frames, seams between chunks.

Definitions: docs/reference/evaluation.md#reference-free-statistics. Frames are uint8 RGB, energies grey
levels. Legend: `B` clips, `F` frames, `h, w` pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FREEZE_MOTION = 0.1  # a frame is frozen below this share of the motion it should have
TRUE_MOTION = 1.0  # grey levels; below it a view does not move and cannot freeze


def motion_energy(frames: Tensor) -> Tensor:
    """Return mean |f_t - f_{t-1}| `(F - 1,)` float32 of one clip of frames `(F, h, w, 3)`."""
    return (frames[1:].float() - frames[:-1].float()).abs().flatten(1).mean(1)


def frozen(own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return 1 where a frame moves less than a tenth of what it should, 0 where it moves, float64.

    own, wanted: motion energies of equal shape. NaN where nothing should move: there is nothing to freeze.
    """
    return np.where(wanted > TRUE_MOTION, own < FREEZE_MOTION * wanted, np.nan)


def freeze_share(frames: Tensor, truth: Tensor) -> np.ndarray:
    """Return the share of frozen frames `(B,)` float64 of clips `(B, F, h, w, 3)`; NaN where the truth stays.

    Only frames in which the truth moves are counted.
    """
    shares = []
    for clip, true in zip(frames, truth, strict=True):
        found = frozen(motion_energy(clip).numpy(), motion_energy(true).numpy())
        counted = found[np.isfinite(found)]
        shares.append(float(counted.mean()) if len(counted) else float("nan"))
    return np.array(shares)


def seam(frames: Tensor, chunk: int) -> float:
    """Return the motion across chunk boundaries over the motion inside chunks of `(1 + F, h, w, 3)`."""
    change = motion_energy(frames)  # (F,)
    boundary = torch.arange(len(change)) % chunk == 0  # frame 1 is the first of chunk 0
    boundary[0] = False  # the start image is given, not made
    inside = torch.arange(len(change)) % chunk != 0
    if not bool(boundary.any()) or not bool(inside.any()) or float(change[inside].mean()) < 1e-6:
        return float("nan")
    return float(change[boundary].mean() / change[inside].mean())

"""Pixels as the networks see them: colours in [-1, 1] and inverse depth, and the way there and back.

    colour = rgb / 127.5 - 1,        d = clip(1.2 / z, 0, 3) - 1,   z in metres along the optical axis

A pixel of the embedded worlds is p = (r, g, b, d); released worlds have colours alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEPTH_SCALE = 1.2  # metres; z = 1.2 m is d = 0
MAX_INVERSE = 3.0  # nearest representable depth: 0.4 m
PIXEL_CHANNELS = 4  # r, g, b, inverse depth


def from_uint8(rgb: Tensor) -> Tensor:
    """Return colours float32 in [-1, 1] of uint8 values, axes as they are."""
    return rgb.float() / 127.5 - 1


def to_uint8(colour: Tensor) -> Tensor:
    """Return uint8 values of colours, those outside [-1, 1] cut off, axes as they are."""
    return ((colour.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def inverse_depth(depth: Tensor) -> Tensor:
    """Return d = clip(1.2 / z, 0, 3) - 1 of depth z in metres; infinity is allowed."""
    return (DEPTH_SCALE / depth.clamp_min(1e-3)).clamp(max=MAX_INVERSE) - 1


def metric_depth(inverse: Tensor) -> Tensor:
    """Return depth in metres of inverse depth d; beyond 60 m is 60 m, nearer than 0.4 m is 0.4 m."""
    return DEPTH_SCALE / (inverse + 1).clamp(DEPTH_SCALE / 60, MAX_INVERSE)


def to_pixels(rgb: Tensor, depth: Tensor) -> Tensor:
    """Return `(..., 4, h, w)` float32 pixels of rgb uint8 `(..., h, w, 3)` and depth `(..., h, w)` metres."""
    colour = from_uint8(rgb).movedim(-1, -3)  # (..., 3, h, w)
    return torch.cat([colour, inverse_depth(depth.float()).unsqueeze(-3)], dim=-3)


def to_rgb(pixels: Tensor) -> Tensor:
    """Return uint8 rgb `(..., h, w, 3)` of pixels `(..., >=3, h, w)`."""
    return to_uint8(pixels[..., :3, :, :]).movedim(-3, -1)


def within_range(pixels: Tensor) -> Tensor:
    """Return pixels `(..., 4, h, w)` cut to the range of inverse depth, [-1, 2], which holds the colours'."""
    return pixels.clamp(-1, MAX_INVERSE - 1)

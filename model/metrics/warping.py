"""How well the camera's motion and a frame's depth explain the frame that comes after.

A pixel p of frame i at depth z is at q = K (R K^-1 (p, 1) z + t) in frame j, (R | t) = c2w_j^-1 c2w_i. Where
that is in the picture and not behind what frame j has there,

    warped = |i(p) - j(q)|,    still = |i(p) - j(p)|.

warped / still is near 0 where motion and depth are right and the frames are of one place, 1 or more where
they are not. Haze has little of either, and noise that is new in every frame as much of both.

Legend: `P` pairs of frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.geometry import invert_rigid, pixel_rays

NEAREST = 0.05  # metres
HIDDEN = 1.1  # a point this much farther than what frame j has there is behind it


class WarpErrors(NamedTuple):
    """Mean grey levels over the pixels that count, `(P,)` float64 each, 0 where there are none."""

    warped: Tensor
    still: Tensor


def warp_errors(
    first: Tensor, second: Tensor, depths: tuple[Tensor, Tensor], poses: tuple[Tensor, Tensor],
    intrinsics: Tensor,
) -> WarpErrors:  # fmt: skip
    """Return both errors of pairs of frames uint8 `(P, h, w, 3)`.

    depths: `(P, h, w)` metres along z of either frame. poses: `(P, 4, 4)` camera-to-world. intrinsics: `(P,
    4)` pixels.
    """
    height, width = first.shape[1:3]
    rays = pixel_rays(intrinsics.double(), height, width, 0.5)  # (P, h, w, 3)
    motion = invert_rigid(poses[1].double()) @ poses[0].double()
    points = (rays * depths[0].double()[..., None]).flatten(1, 2)  # (P, N, 3)
    points = points @ motion[:, :3, :3].mT + motion[:, None, :3, 3]
    z = points[..., 2].clamp_min(NEAREST)
    fx, fy, cx, cy = (x[:, None] for x in intrinsics.double().unbind(-1))
    u, v = fx * points[..., 0] / z + cx, fy * points[..., 1] / z + cy  # pixel centres at 0.5
    place = torch.stack([2 * u / width - 1, 2 * v / height - 1], -1).float()[:, None]  # (P, 1, N, 2)
    inside = (points[..., 2] > NEAREST) & (place.abs().amax(-1)[:, 0] < 1)
    a, b = (x.float().flatten(1, 2) for x in (first, second))  # (P, N, 3)
    there = F.grid_sample(second.float().movedim(-1, 1), place, padding_mode="border", align_corners=False)
    surface = F.grid_sample(depths[1].float()[:, None], place, mode="nearest", padding_mode="border",
                            align_corners=False)  # fmt: skip
    counted = inside & (points[..., 2] < HIDDEN * surface[:, 0, 0])
    total = counted.sum(1).clamp_min(1)
    errors = [(x.abs().mean(-1).double() * counted).sum(1) / total for x in (a - there[:, :, 0].mT, a - b)]
    return WarpErrors(*errors)

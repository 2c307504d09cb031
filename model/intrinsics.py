"""The user's intrinsics as one `(fx, fy, cx, cy)` row per pixel frame.

Intrinsics are in pixels of a stated image; cropping and scaling that image changes them. See
docs/reference/pipeline.md#intrinsics.
"""

from __future__ import annotations

import torch
from torch import Tensor


def intrinsics_per_frame(intrinsics: Tensor, frames: int) -> Tensor:
    """Return `(F, 4)` rows fx, fy, cx, cy of any accepted form: `(4,)`, `(3, 3)`, `(n, 4)` or `(n, 3, 3)`.

    A sequence longer than F is cut, one row is repeated, a shorter one is resampled linearly over
    normalised time (first row at the first frame, last row at the last).
    """
    shape = tuple(intrinsics.shape)
    if shape[-2:] == (3, 3):  # (4,) and (n, 4) have no such ending
        intrinsics = torch.stack(
            [intrinsics[..., 0, 0], intrinsics[..., 1, 1], intrinsics[..., 0, 2], intrinsics[..., 1, 2]],
            dim=-1,
        )
    rows = intrinsics[None] if intrinsics.ndim == 1 else intrinsics
    if rows.ndim != 2 or rows.shape[-1] != 4 or not len(rows):
        raise ValueError(f"intrinsics have shape {shape}; expected (4,), (3, 3), (F, 4) or (F, 3, 3)")
    if len(rows) >= frames:
        return rows[:frames]
    if len(rows) == 1:
        return rows.expand(frames, 4)
    place = torch.linspace(0, len(rows) - 1, frames, dtype=torch.float64, device=rows.device)  # (F,)
    before = place.floor().long().clamp(max=len(rows) - 2)
    part = (place - before)[:, None]
    return torch.lerp(rows[before].double(), rows[before + 1].double(), part).to(rows.dtype)


def crop_intrinsics(
    intrinsics: Tensor, source: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> Tensor:
    """Return `(..., 4)` intrinsics after resizing an image and cutting it at `corner`.

    fx' = fx sx, fy' = fy sy, cx' = cx sx - left, cy' = cy sy - top; source, resized `(height, width)`,
    corner `(top, left)` in resized pixels.
    """
    sy, sx = resized[0] / source[0], resized[1] / source[1]
    top, left = corner
    scale = intrinsics.new_tensor([sx, sy, sx, sy])
    return intrinsics * scale - intrinsics.new_tensor([0.0, 0.0, left, top])


def cover_crop(source: tuple[int, int], target: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the resized size and the crop corner that make an image cover `target`, centred.

    scale = max(target / source) over both axes; sizes `(height, width)`, corner `(top, left)`.
    """
    scale = max(target[0] / source[0], target[1] / source[1])
    resized = (max(target[0], round(source[0] * scale)), max(target[1], round(source[1] * scale)))
    return resized, ((resized[0] - target[0]) // 2, (resized[1] - target[1]) // 2)

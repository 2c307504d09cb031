"""Intrinsics `(fx, fy, cx, cy)` of a pinhole camera: from an angle, per frame, scaled, cropped, checked.

They are in pixels of a stated image; cropping and scaling that image changes them. See
docs/reference/pipeline.md#intrinsics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_FOV_DEG, MAX_FOV_DEG = 25.0, 120.0


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


def intrinsics_from_fov(fov_x_deg: float, width: int, height: int) -> tuple[float, float, float, float]:
    """Return centred square-pixel `(fx, fy, cx, cy)` of a horizontal field of view in degrees."""
    if not MIN_FOV_DEG <= fov_x_deg <= MAX_FOV_DEG:
        raise ValueError(
            f"field of view {fov_x_deg:g} deg is outside [{MIN_FOV_DEG:g}, {MAX_FOV_DEG:g}]; "
            "give the horizontal angle in degrees"
        )
    focal = 0.5 * width / math.tan(math.radians(fov_x_deg) / 2)
    return focal, focal, width / 2, height / 2


def fov_deg(intrinsics: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Return the horizontal and vertical fields of view in degrees of `(..., 4)` pixel intrinsics."""
    fx, fy, _, _ = intrinsics.unbind(-1)
    horizontal = 2 * torch.rad2deg(torch.atan(0.5 * width / fx))
    vertical = 2 * torch.rad2deg(torch.atan(0.5 * height / fy))
    return horizontal, vertical


def scale_intrinsics(intrinsics: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """Return `(..., 4)` intrinsics of the same camera at another size; sizes are `(height, width)`.

    No half-pixel shift (docs/reference/transformer.md#camera-conditions): fx, cx scale with the width, fy, cy
    with the height.
    """
    sy, sx = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return intrinsics * torch.tensor([sx, sy, sx, sy], dtype=intrinsics.dtype, device=intrinsics.device)


def check_intrinsics(intrinsics: Tensor, height: int, width: int) -> None:
    """Raise `ValueError` unless `(..., 4)` pixel intrinsics describe a possible pinhole camera."""
    if intrinsics.shape[-1:] != (4,):
        raise ValueError(f"intrinsics have shape {tuple(intrinsics.shape)}; expected (fx, fy, cx, cy)")
    if not bool(torch.isfinite(intrinsics).all()) or bool((intrinsics[..., :2] <= 0).any()):
        raise ValueError(f"intrinsics {intrinsics.tolist()} are not finite with positive focal lengths")
    for axis, angle in zip(("horizontal", "vertical"), fov_deg(intrinsics, width, height), strict=True):
        low, high = float(angle.min()), float(angle.max())
        if low < MIN_FOV_DEG or high > MAX_FOV_DEG:
            raise ValueError(
                f"intrinsics {intrinsics.tolist()} give a {axis} field of view of {low:.1f}-{high:.1f} deg "
                f"at {width}x{height}; expected {MIN_FOV_DEG:g}-{MAX_FOV_DEG:g} (are they in pixels of this "
                "size?)"
            )

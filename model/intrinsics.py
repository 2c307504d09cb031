"""Intrinsics `(fx, fy, cx, cy)` of a pinhole camera: from an angle, per frame, scaled, cropped, checked.

They are in pixels of a stated image; cropping and scaling that image changes them. See
docs/reference/pipeline.md#intrinsics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wm_env.model.placement import placed

MIN_FOV_DEG, MAX_FOV_DEG = 25.0, 120.0
_CENTRED = 0.02  # of a side: principal points of whole pictures are that near to the middle
_ASIDE = 0.1  # of a side: from here on a coincidence is worth a word
_ORDERS = {"cx, cy, fx, fy": (2, 3, 0, 1), "fx, cx, fy, cy": (0, 2, 1, 3)}  # where fx, fy, cx, cy stand there


def intrinsics_per_frame(intrinsics: Tensor, frames: int) -> Tensor:
    """Return `(F, 4)` rows fx, fy, cx, cy of any accepted form: `(4,)`, `(3, 3)`, `(n, 4)` or `(n, 3, 3)`.

    A sequence longer than F is cut, one row is repeated, a shorter one is resampled linearly over
    normalised time (first row at the first frame, last row at the last). Raises `ValueError` for another
    shape and for a matrix that is no `[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]`.
    """
    shape = tuple(intrinsics.shape)
    if shape[-2:] == (3, 3):  # (4,) and (n, 4) have no such ending
        _check_matrices(intrinsics)
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
    return intrinsics * placed(torch.tensor([sx, sy, sx, sy], dtype=intrinsics.dtype), intrinsics.device)


def check_intrinsics(intrinsics: Tensor, height: int, width: int) -> None:
    """Raise `ValueError` unless `(..., 4)` pixel intrinsics describe a possible pinhole camera."""
    if intrinsics.shape[-1:] != (4,):
        raise ValueError(f"intrinsics have shape {tuple(intrinsics.shape)}; expected (fx, fy, cx, cy)")
    if not bool(torch.isfinite(intrinsics).all()) or bool((intrinsics[..., :2] <= 0).any()):
        raise ValueError(f"intrinsics {_first(intrinsics)} are not finite with positive focal lengths")
    for axis, angle in zip(("horizontal", "vertical"), fov_deg(intrinsics, width, height), strict=True):
        low, high = float(angle.min()), float(angle.max())
        if low < MIN_FOV_DEG or high > MAX_FOV_DEG:
            raise ValueError(
                f"intrinsics {_first(intrinsics)} give a {axis} field of view of {low:.1f}-{high:.1f} deg "
                f"at {width}x{height}; expected {MIN_FOV_DEG:g}-{MAX_FOV_DEG:g} (are they in pixels of this "
                "size?)"
            )
    check_principal_point(intrinsics, height, width)


def check_principal_point(intrinsics: Tensor, height: int, width: int) -> None:
    """Raise `ValueError` where cx, cy of finite `(..., 4)` pixel intrinsics are not of pictures of this size.

    They have to lie inside the picture. Off its middle they are refused where the reason is plain: at one
    share of width and height (pictures of another size), in the middle of the picture laid on its side (cx
    and cy swapped), or where another common order of the four numbers has equal focal lengths and the middle.
    """
    rows = intrinsics.reshape(-1, 4).double()
    aside = (rows[:, 2:] / rows.new_tensor([width, height]) - 0.5).abs().amax(-1)  # (n,) shares of a side
    for row in rows[aside > _CENTRED].unique(dim=0).tolist():
        said = f"the principal point {row[2]:g}, {row[3]:g} of intrinsics {row}"
        reason = _reason(row, height, width)
        if not (0 < row[2] < width and 0 < row[3] < height):
            size = f" (these may be of pictures of about {2 * row[2]:.0f}x{2 * row[3]:.0f})"
            hint = "expected fx, fy, cx, cy in pixels of this size" + size * (min(row[2:]) > 0)
            hint = reason or hint
            raise ValueError(f"{said} lies outside of the picture of {width}x{height}: {hint}")
        if reason is not None:
            raise ValueError(f"{said} cannot be that of a picture of {width}x{height}: {reason}")


def _reason(values: list[float], height: int, width: int) -> str | None:
    """Return which mistake makes a principal point off the middle plain, None where none does."""
    fx, fy, cx, cy = values
    aside = max(abs(cx / width - 0.5), abs(cy / height - 0.5))
    if aside > _ASIDE and cx > 0 and abs(cx / width - cy / height) < _CENTRED * min(1.0, 2 * cx / width):
        size = f"{2 * cx:.0f}x{2 * cy:.0f}"
        return f"it is the middle of pictures of {size}; scale the intrinsics to {width}x{height}"
    turned = max(abs(cx - height / 2) / height, abs(cy - width / 2) / width)
    if turned < _CENTRED and abs(width - height) > _ASIDE * max(width, height):
        return "cx and cy are swapped, or the picture was turned on its side; expected fx, fy, cx, cy"
    if aside > _ASIDE and abs(fx / fy - 1) > _ASIDE:
        for order, places in _ORDERS.items():
            a, b, x, y = (values[place] for place in places)
            middle = max(abs(x / width - 0.5), abs(y / height - 0.5)) < _CENTRED
            if middle and b > 0 and abs(a / b - 1) < _CENTRED:
                return f"they are in the order {order}; expected fx, fy, cx, cy"
    return None


def _check_matrices(matrices: Tensor) -> None:
    """Raise `ValueError` for matrices `(..., 3, 3)` that are not those of a camera without skew."""
    flat = matrices.reshape(-1, 3, 3).double()
    last = flat.new_tensor([0.0, 0.0, 1.0])
    odd = ((flat[:, 2] - last).abs() > 1e-6).any(-1) | (flat[:, 1, 0] != 0)
    odd |= flat[:, 0, 1].abs() > 1e-3 * flat[:, 0, 0].abs()
    odd &= torch.isfinite(flat).flatten(1).all(1)  # NaN is another fault, told by others
    if bool(odd.any()):
        found = flat[int(odd.nonzero()[0, 0])]
        hint = " (it is transposed)" if bool((found[:, 2] == last).all()) else ""
        raise ValueError(
            f"the camera matrix {found.tolist()} is not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]{hint}; pixels "
            "have right angles here"
        )


def _first(intrinsics: Tensor) -> list[float]:
    """Return the first row: a message shows no thousand of them."""
    return intrinsics.reshape(-1, 4)[0].tolist()

"""The user's start image: checked, resized and cropped to a world's frame, with its intrinsics.

scale = max(h / H, w / W), Lanczos; centre crop; fx' = fx sx, cx' = cx sx - left

See docs/reference/pipeline.md#start-image and docs/reference/pipeline.md#intrinsics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from wm_env.model.intrinsics import (
    check_intrinsics,
    cover_crop,
    crop_intrinsics,
    intrinsics_from_fov,
    intrinsics_per_frame,
)
from wm_env.model.pictures import check_opaque, upright_rgb
from wm_env.model.plain_arrays import plain_array
from wm_env.model.storage.atomic import expanded
from wm_env.model.storage.facts import shown

DEFAULT_FOV_DEG = 90.0
MOST_VALUES = 3 * 2**28  # of an image array, as Pillow limits the pixels of a file

Intrinsics = tuple[float, float, float, float]


class StartImage(NamedTuple):
    """A picture at the world's frame size: uint8 `(h, w, 3)`, and its intrinsics `(fx, fy, cx, cy)`."""

    pixels: np.ndarray
    intrinsics: Intrinsics


def start_image(source: Any, intrinsics: Any, frame_size: tuple[int, int]) -> StartImage:
    """Return a path, PIL image or uint8 `(H, W, 3)` array as the start image of a world.

    `intrinsics`: `(fx, fy, cx, cy)` or a 3x3 matrix in pixels of the given picture. None assumes a horizontal
    field of view of 90 degrees for the cropped frame.
    """
    picture = _open(source)
    height, width = frame_size
    source_size = (picture.height, picture.width)
    if source_size[0] < height / 2 or source_size[1] < width / 2:
        raise ValueError(
            f"the image is {picture.width}x{picture.height} pixels; this world needs at least "
            f"{(width + 1) // 2}x{(height + 1) // 2} (its frames are {width}x{height})"
        )
    given = None if intrinsics is None else parse_intrinsics(intrinsics, source_size)

    resized, (top, left) = cover_crop(source_size, frame_size)
    if resized != source_size:
        picture = picture.resize((resized[1], resized[0]), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.uint8)[top : top + height, left : left + width].copy()

    if given is None:
        return StartImage(pixels, intrinsics_from_fov(DEFAULT_FOV_DEG, width, height))
    cropped = crop_intrinsics(torch.tensor(given, dtype=torch.float64), source_size, resized, (top, left))
    check_intrinsics(cropped, height, width)
    fx, fy, cx, cy = cropped.tolist()
    return StartImage(pixels, (fx, fy, cx, cy))


def parse_intrinsics(intrinsics: Any, size: tuple[int, int]) -> Intrinsics:
    """Return the checked `(fx, fy, cx, cy)` of a 4-vector or 3x3 matrix in pixels of `size` `(h, w)`."""
    try:
        array = plain_array(intrinsics, 64).astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"intrinsics are {shown(intrinsics)}; expected four numbers or a 3x3 matrix"
        ) from error
    if array.shape not in ((4,), (3, 3)):
        raise ValueError(f"intrinsics have shape {array.shape}; expected (fx, fy, cx, cy) or a 3x3 matrix")
    row = intrinsics_per_frame(torch.from_numpy(array), 1)[0]
    check_intrinsics(row, *size)
    return tuple(row.tolist())  # type: ignore[return-value]


def _open(source: Any) -> Image.Image:
    """Return an RGB picture, or raise `ValueError` saying why this is none."""
    if isinstance(source, str | Path):
        try:
            there = expanded(source).is_file()
        except OSError as error:  # a name that no disk takes
            raise ValueError(f"the image file {shown(str(source))} cannot be: {error.strerror}") from error
        if not there:
            raise ValueError(f"the image file {shown(str(source))} does not exist")
        try:
            with Image.open(expanded(source)) as opened:
                return upright_rgb(opened)
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{str(source)!r} is not an image that can be read: {error}") from error
    if isinstance(source, Image.Image):
        return upright_rgb(source)
    if not isinstance(source, np.ndarray):
        raise ValueError(
            f"image is a {type(source).__name__}; expected a path, a PIL image or a uint8 (H, W, 3) array"
        )
    if source.size > MOST_VALUES:
        raise ValueError(
            f"an image array of shape {source.shape} is too large; at most {MOST_VALUES} values are read"
        )
    if source.ndim != 3 or source.dtype != np.uint8 or source.shape[2] not in (3, 4):
        raise ValueError(
            f"an image array has shape {source.shape} and dtype {source.dtype}; expected uint8 (H, W, 3)"
        )
    if source.shape[2] == 4:
        check_opaque(source[..., 3])
    return Image.fromarray(np.ascontiguousarray(source[..., :3]))

"""The user's start image: what is accepted, how it is fitted, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wm_env.images import start_image

SIZE = (64, 64)


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_a_picture_of_the_frame_size_passes_unchanged() -> None:
    pixels = picture(64, 64)
    assert np.array_equal(start_image(pixels, None, SIZE).pixels, pixels)


def test_path_pil_and_array_give_the_same_start(tmp_path: Path) -> None:
    pixels = picture(80, 120)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    given = [pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png")]
    starts = [start_image(source, None, SIZE) for source in given]
    assert all(np.array_equal(start.pixels, starts[0].pixels) for start in starts)


def test_without_intrinsics_the_frame_sees_ninety_degrees() -> None:
    assert start_image(picture(128, 200), None, SIZE).intrinsics == pytest.approx((32, 32, 32, 32))


def test_intrinsics_follow_the_resize_and_the_centre_crop() -> None:
    # 128 x 192 scales by 1/2 to 64 x 96; the crop starts at column 16
    start = start_image(picture(128, 192), (100.0, 100.0, 96.0, 64.0), SIZE)
    assert start.intrinsics == pytest.approx((50.0, 50.0, 32.0, 32.0))
    matrix = [[100.0, 0, 96], [0, 100.0, 64], [0, 0, 1]]
    assert start_image(picture(128, 192), matrix, SIZE).intrinsics == start.intrinsics


REFUSED: list[tuple[Any, Any, str]] = [
    (picture(64, 64, 4), None, "alpha"),
    (Image.fromarray(picture(64, 64, 4)), None, "alpha"),
    (picture(31, 64), None, "at least 32x32"),
    (picture(64, 64).astype(np.float32), None, "uint8"),
    (picture(64, 64)[..., 0], None, "uint8"),
    (7, None, "int"),
    ("nowhere.png", None, "does not exist"),
    (picture(64, 64), (1.0, 1.0, 32.0, 32.0), "field of view"),
    (picture(64, 64), (np.nan, 32.0, 32.0, 32.0), "not finite"),
    (picture(64, 64), (32.0, 32.0), "shape"),
]


@pytest.mark.parametrize(("source", "intrinsics", "says"), REFUSED)
def test_unusable_pictures_are_refused(source: Any, intrinsics: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        start_image(source, intrinsics, SIZE)


def test_a_text_file_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match="not an image"):
        start_image(tmp_path / "a.png", None, SIZE)


def test_a_truncated_file_is_not_an_image(tmp_path: Path) -> None:
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not an image"):
        start_image(tmp_path / "a.png", None, SIZE)

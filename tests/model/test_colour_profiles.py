"""Pictures with an ICC profile are read as sRGB: the colours that were meant, not the numbers in the file."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from wm_env.model.pictures import upright_rgb

TOLERANCE = 2  # levels: the profile's numbers are 16-bit fixed point, the conversion rounds twice
D50 = (0.9642, 1.0, 0.8249)
P3 = np.array(
    [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]
)  # Display P3, D50
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
GAMMA = 2.2


def profile(space: bytes = b"RGB ") -> bytes:
    """Return a profile of version 2: primaries of Display P3 (or grey), one gamma."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(8 + 4 + 1 + 67)
    tags = {b"desc": text + bytes(-len(text) % 4), b"wtpt": xyz(D50)}
    if space == b"GRAY":
        tags |= {b"kTRC": curve}
    else:
        tags |= {name: xyz(tuple(P3[:, i])) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    at = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    head = struct.pack(">I4sI4s4s4s", at + len(data), b"\0\0\0\0", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += b"".join(struct.pack(">i", round(v * 65536)) for v in D50)
    return head + bytes(128 - len(head)) + table + data


def saved(pixels: np.ndarray, icc: bytes | None) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", icc_profile=icc)
    return Image.open(file)


def srgb(colour: tuple[int, ...]) -> np.ndarray:
    """Return the sRGB levels of a colour of the profile: to XYZ, to linear sRGB, through its curve."""
    linear = np.linalg.inv(SRGB) @ P3 @ (np.array(colour) / 255) ** GAMMA
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (curved * 255).round()


@pytest.mark.parametrize(
    "colour", [(200, 100, 100), (90, 180, 120), (128, 128, 128), (255, 0, 0), (255, 255, 255)]
)
def test_a_profile_of_other_primaries_is_applied(colour: tuple[int, ...]) -> None:
    seen = np.asarray(upright_rgb(saved(np.full((4, 4, 3), colour, np.uint8), profile())))
    assert np.abs(seen[0, 0].astype(int) - srgb(colour)).max() <= TOLERANCE
    assert np.array_equal(seen, np.broadcast_to(seen[0, 0], seen.shape))


def test_srgb_itself_and_no_profile_change_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (None, own):
        assert np.array_equal(np.asarray(upright_rgb(saved(pixels, icc))), pixels)


def test_grey_with_a_profile_of_grey_is_applied() -> None:
    seen = np.asarray(upright_rgb(saved(np.full((4, 4), 100, np.uint8), profile(b"GRAY"))))
    assert np.abs(seen[0, 0].astype(int) - srgb((100, 100, 100))).max() <= TOLERANCE


@pytest.mark.parametrize("icc", [b"no profile", profile()[:200]])
def test_a_broken_profile_is_refused(icc: bytes) -> None:
    with pytest.raises(ValueError, match=r"ICC profile that cannot be used .*convert it to 8-bit RGB"):
        upright_rgb(saved(np.zeros((4, 4, 3), np.uint8), icc))

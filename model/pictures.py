"""What a picture of somebody else's means as 8-bit RGB: one rule for start pictures, contexts and clips.

upright     the orientation that a camera wrote down (EXIF) is applied
8 bits      grey, palette and RGB pictures; 16-bit, float and CMYK ones mean no such thing
opaque      an alpha channel that hides nothing is dropped, any other is refused
colours     an ICC profile is applied: RGB means sRGB here
one         an animation is no picture
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps

READABLE = ("RGB", "L", "P", "YCbCr", "1")  # what is left when an alpha channel has gone
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_ADVICE = "convert it to 8-bit RGB"


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture as 8-bit RGB, or raise `ValueError` saying why it means none."""
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(f"the image holds {getattr(picture, 'n_frames', 1)} pictures; give one of them")
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        check_opaque(np.asarray(upright.convert("RGBA"))[..., 3])
        upright = upright.convert("RGBA")
    elif upright.mode not in READABLE:
        raise ValueError(f"an image of mode {upright.mode!r} cannot be used; {_ADVICE}")
    return _in_srgb(upright)


def _in_srgb(picture: Image.Image) -> Image.Image:
    """Return an opaque picture as RGB in sRGB, by its ICC profile where it has one of its own.

    Relative colorimetric; colours beyond sRGB are cut off. Raises `ValueError` for a profile that is broken
    or describes no RGB or grey.
    """
    written = picture.info.get("icc_profile")
    if not written:
        return picture.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(written))
        space, name = profile.profile.xcolor_space.strip(), ImageCms.getProfileName(profile)
        if space not in ("RGB", "GRAY"):
            raise ValueError(f"the image has an ICC profile of {space}; {_ADVICE} in sRGB")
        if "sRGB" in name:
            return picture.convert("RGB")
        plain = picture.convert("RGB" if space == "RGB" else "L")
        done = ImageCms.profileToProfile(
            plain,
            profile,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, TypeError) as error:
        raise ValueError(f"the image has an ICC profile that cannot be used ({error}); {_ADVICE}") from error
    assert done is not None  # it is not done in place
    return done


def check_opaque(alpha: np.ndarray) -> None:
    """Raise `ValueError` where an alpha channel uint8 `(h, w)` hides anything."""
    if alpha.size and int(alpha.min()) < 255:
        raise ValueError("the image has an alpha channel; flatten it onto a background and pass RGB")

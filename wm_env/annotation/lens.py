"""A zoom undone: every frame as a camera with the longest of the focal lengths would have seen it.

A frame with focal length f shows more than one with the longest, f_max; its middle part, f / f_max of each
side, shows the same. That part is cut out of every frame and brought to the size of the smallest of them, so
that nothing is enlarged.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def steady_lens(frames: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frames uint8 `(n, h', w', 3)` of one camera and its intrinsics `(4,)` in pixels of them.

    frames: uint8 `(n, h, w, 3)`. intrinsics: `(n, 4)`, principal points in the middle.
    """
    height, width = frames.shape[1:3]
    share = intrinsics[:, 0] / intrinsics[:, 0].max()  # (n,) of a side that is kept
    size = (2 * int(width * share.min() / 2), 2 * int(height * share.min() / 2))
    shown = []
    for frame, part in zip(frames, share, strict=True):
        box = (
            width / 2 * (1 - part),
            height / 2 * (1 - part),
            width / 2 * (1 + part),
            height / 2 * (1 + part),
        )
        shown.append(np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box=box)))
    longest = intrinsics[:, :2].max(0)  # f' = f_max W' / W, whatever the frame's own f was
    focal = longest * np.array([size[0] / width, size[1] / height])
    return np.stack(shown), np.array([*focal, size[0] / 2, size[1] / 2])

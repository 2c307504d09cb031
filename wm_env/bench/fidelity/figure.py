"""A figure of long walks: what is true above what the world shows, scene by scene, at fixed seconds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SCENES = 8
COLUMNS = 9  # from the start picture to the end, evenly
GAP, BETWEEN = 2, 6  # pixels between pictures, between scenes
PAPER = 255


def walks_figure(truth: Tensor, made: Tensor) -> np.ndarray:
    """Return two rows of pictures a scene, the truth above the world, as one image uint8 `(H, W, 3)`.

    truth, made: frames uint8 `(S, 1 + F, h, w, 3)`; the first eight scenes, at most nine times.
    """
    if truth.shape != made.shape:
        raise ValueError(f"frames {tuple(truth.shape)} and {tuple(made.shape)} must be of one shape")
    times = torch.linspace(0, truth.shape[1] - 1, COLUMNS).round().long().unique()
    height, width = truth.shape[2:4]
    scenes = min(SCENES, len(truth))
    block = 2 * height + GAP + BETWEEN
    sheet = np.full((scenes * block - BETWEEN, len(times) * (width + GAP) - GAP, 3), PAPER, np.uint8)
    for scene in range(scenes):
        for row, frames in enumerate((truth, made)):
            top = scene * block + row * (height + GAP)
            for column, picture in enumerate(frames[scene, times].numpy()):
                left = column * (width + GAP)
                sheet[top : top + height, left : left + width] = picture
    return sheet

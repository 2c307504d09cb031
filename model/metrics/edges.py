"""How sharp frames are at three scales, and how much of it lies on the grid of tokens.

Legend: `B` clips, `F` frames, `h, w` pixels; frames are uint8 RGB, values grey levels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.metrics.images import LUMA

SCALES = (1, 2, 4)  # pixels
TOKEN = 8  # pixels of a side


def gradient_energy(frames: Tensor) -> dict[int, np.ndarray]:
    """Return the mean |difference| of neighbours by scale, each `(B,)`, of frames `(B, F, h, w, 3)`.

    At scale s luma is averaged over s x s pixels first; the differences run along both axes. Twice as sharp
    is twice as much, and haze has next to none.
    """
    out: dict[int, list[float]] = {scale: [] for scale in SCALES}
    for clip in frames:
        luma = (clip.float() @ torch.tensor(LUMA))[:, None]  # (F, 1, h, w)
        for scale in SCALES:
            x = F.avg_pool2d(luma, scale)
            out[scale].append(float(sum(x.diff(dim=axis).abs().mean() for axis in (2, 3)) / 2))
    return {scale: np.array(values) for scale, values in out.items()}


def grid_energy(frames: Tensor, block: int = TOKEN) -> np.ndarray:
    """Return |difference| across the edges of `block` pixels over that inside them, `(B,)`.

    Both are means over a clip of frames `(B, F, h, w, 3)`, along both axes: 1 where the grid does not show.
    """
    out = []
    for clip in frames:
        luma = clip.float() @ torch.tensor(LUMA)  # (F, h, w)
        across, within = 0.0, 1e-3
        for axis in (1, 2):
            step = luma.diff(dim=axis).abs().mean([a for a in (0, 1, 2) if a != axis])
            edge = (torch.arange(len(step)) + 1) % block == 0
            across, within = across + float(step[edge].mean()), within + float(step[~edge].mean())
        out.append(across / within)
    return np.array(out)

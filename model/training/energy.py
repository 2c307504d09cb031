"""The energy score: a loss under which one network call learns to draw one possible frame, not their mean.

The square is least for the mean of what a frame could be; where nobody has looked that is a grey haze.
The energy score of two independent draws x, x' of the world and the true frame y,

    ES = d(x, y) - d(x, x') / 2,        d a distance between frames,

is least in expectation when the draws are distributed as the truth is (Gneiting & Raftery 2007, JASA 102,
section 4.3): the first term pulls a draw to the truth, the second pushes draws apart as far as truths
differ. It needs no adversary and no teacher, and where the past decides what is there it is a regression.
One-call weather forecasts are trained so (Lang et al. 2024, arXiv 2412.15832; Alet et al. 2025, 2506.10772).

d is a sum over scales, so that not only single values but also whole walls vary as they should:

    d(x, y) = mean_ci w_c |x_ci - y_ci|  +  sum_{s in 2, 4, 8} mean_j |W (P_s x - P_s y)_j|,

with P_s the mean over s x s tokens, |.| the norm over channels, W = diag(w): the first term is the CRPS of
every latent value, the others energy scores of the mean colour of ever larger parts of the frame.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SCALES = (2, 4, 8)  # tokens, of 8 x 8
_TINY = 1e-12  # under the root: the gradient of a norm at zero


def distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Return d `(n,)` between latent frames `(n, C, h, w)`; weights `(C,)` are w^2 of every channel."""
    scaled = (a - b) * weights.sqrt().to(a.device)[:, None, None]  # (n, C, h, w)
    total = scaled.abs().mean((1, 2, 3))
    for scale in SCALES:
        if scale <= min(scaled.shape[-2:]):
            means = F.avg_pool2d(scaled, scale)  # (n, C, h/s, w/s)
            total = total + (means.square().mean(1) + _TINY).sqrt().mean((1, 2))
    return total


def energy_score(draw: Tensor, other: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Return d(x, y) - d(x, x') / 2 `(n,)` of two draws of frames `(n, C, h, w)`: the score without bias."""
    return distance(draw, truth, weights) - distance(draw, other, weights) / 2


def energy_loss(draw: Tensor, other: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Return `(n,)` numbers whose gradient in `draw` alone is, in expectation, that of the energy score.

    The two draws are alike, so half the gradient of d(x, x') reaches either. d(x, y) - d(x, x') with x' held
    fixed saves the second draw's backward pass; its value is not the score.
    """
    return distance(draw, truth, weights) - distance(draw, other.detach(), weights)

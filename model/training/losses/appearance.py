"""A loss for best guesses that do not fade: the median of what a frame could be, in true contrast.

The square is least for the mean. Where nobody has looked the mean is a grey haze, and a world that commits
its own haze makes it the past of all that follows. Two things are asked for instead of a prediction x of y:

    median       M = mean_i sqrt(|W (x - y)_i|^2 + eps^2)        i the 64 tokens, |.| the norm over channels
    appearance   A = mean_s ((s(x) - s(y)) / mean s(y))^2        s: contrast and saturation of the pixels

The geometric median of what a token could show stays with the likeliest: of a wall that is blue more often
than purple it makes blue, not grey (it minimises a mean distance: Small 1990, Int. Stat. Rev. 58).
Contrast is the RMS deviation of luma, saturation the mean of max - min over RGB, in the whole frame and in
each quarter; A is least for the mean of these statistics, which, unlike the mean of frames, does not fade.
Both are taken of means over 16 x 16 pixels: four tokens together have to agree, or the network earns its
contrast with a grain from token to token (it did; a grain averages out, a wall does not).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.metrics import LUMA
from wm_env.model.vae.tiny import DecodeState, TinyVAE

CELL = 16  # pixels
EPS = 0.05  # weighted latent units; errors below it count quadratically
_TINY = 1e-6  # under the root: the gradient of a deviation at zero


def median_distance(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return M `(n,)` of latent frames `(n, C, h, w)`; weights `(C,)` are w^2 of every channel, mean 1."""
    squares = ((x - y).square() * weights.to(x.device)[:, None, None]).mean(1)  # (n, h, w)
    return (squares + EPS**2).sqrt().mean((1, 2))


def appearance(pixels: Tensor) -> Tensor:
    """Return contrast and saturation `(n, 2, 5)` of pixels `(n, F, >= 3, H, W)`: the frame, four quarters.

    Of cells of 16 x 16 pixels, in units of the pixels, means over the F frames; H and W are multiples of 32.
    Channels beyond RGB take no part.
    """
    rgb = F.avg_pool2d(pixels[:, :, :3].flatten(0, 1), CELL).unflatten(0, pixels.shape[:2])
    luma = (rgb * torch.tensor(LUMA, device=rgb.device)[:, None, None]).sum(2)  # (n, F, H, W)
    spread = rgb.amax(2) - rgb.amin(2)
    contrast = [_deviation(part) for part in (luma, *_quarters(luma))]
    saturation = [part.mean((1, 2, 3)) for part in (spread, *_quarters(spread))]
    return torch.stack([torch.stack(contrast, dim=1), torch.stack(saturation, dim=1)], dim=1)


def _quarters(x: Tensor) -> list[Tensor]:
    """Return the four quarters of pictures `(n, F, H, W)`."""
    return [part for half in x.chunk(2, dim=2) for part in half.chunk(2, dim=3)]


def _deviation(luma: Tensor) -> Tensor:
    """Return the RMS deviation `(n,)` within frames `(n, F, ...)`, mean over frames."""
    return (luma.flatten(2).var(2) + _TINY).sqrt().mean(1)


def appearance_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return A `(n,)` of pixels; the mean statistics are those of the batch of true frames `y`."""
    true = appearance(y)
    return ((appearance(x) - true) / true.mean(0)).square().mean((1, 2))


def decoded(vae: TinyVAE, latents: Tensor, previous: Tensor) -> Tensor:
    """Return pixels `(n, 4, 4, H, W)` of latents, each after the latent before it; both `(n, C, h, w)`."""
    pixels, _ = vae.decode(latents, DecodeState(previous))
    return pixels.float().clamp(-1, 1)

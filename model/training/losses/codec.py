"""Losses of the autoencoder and its depth network, and the PSNR in which both are told.

codec   mean|e| + 2 mean e^2 + |grad e|,   e = decoded - true pixels, inverse depth at half weight
depth   mean|log(iz / iz*)| + mean|iz - iz*|,   iz = 1.2 m / z
kl      mean KL(N(z, t^2) || N(0, 1)) of the raw latents z, t the width of the noise
"""

from __future__ import annotations

import torch
from torch import Tensor


def codec_loss(error: Tensor) -> Tensor:
    """Return the codec loss of errors `(..., 4, H, W)`: L1 + 2 L2 + L1 of the spatial gradient."""
    weight = torch.tensor([1.0, 1.0, 1.0, 0.5], device=error.device)[:, None, None]
    e = error * weight
    gradient = e.diff(dim=-1).abs().mean() + e.diff(dim=-2).abs().mean()
    return e.abs().mean() + 2 * e.square().mean() + gradient


def kl_loss(mean: Tensor, std: Tensor, width: Tensor) -> Tensor:
    """Return the mean over latents z of KL(N(z, t^2) || N(0, 1)), in nats per value.

        KL = (m^2 + s^2 + t^2 - 1 - ln t^2) / 2,   t = width * s

    mean, std `(C,)`: m and s, of the encoder's raw latents over the batch. width: of the noise, in deviations
    s. Least at m = 0, s = (1 + width^2)^(-1/2): it fixes the scale that normalisation leaves open.
    """
    t = width * std
    return 0.5 * (mean.square() + std.square() + t.square() - 1 - 2 * t.clamp_min(1e-6).log()).mean()


def depth_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the loss of inverse depths `(B, H, W)`: relative plus absolute."""
    floor = 1.2 / 60
    ratio = (predicted + 1).clamp_min(floor).log() - (truth + 1).clamp_min(floor).log()
    return ratio.abs().mean() + (predicted - truth).abs().mean()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the PSNR in dB of each frame of colours `(..., 3, H, W)` in [-1, 1]."""
    mse = (a.clamp(-1, 1) - b).square().mean((-3, -2, -1))
    return -10 * torch.log10(mse.clamp_min(1e-9) / 4)

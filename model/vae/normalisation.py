"""Scaling between an autoencoder's latents and the transformer's: per-channel mean and deviation.

z_model = (z - mean_c) * scaling / std_c        (docs/reference/pipeline.md#autoencoder)
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LatentScale(NamedTuple):
    """Per-channel statistics of an autoencoder: mean `(C,)`, std `(C,)` > 0, and one overall factor."""

    mean: Tensor
    std: Tensor
    scaling: float = 1.0


def normalise(latents: Tensor, scale: LatentScale) -> Tensor:
    """Return what the transformer sees of autoencoder latents `(B, C, T, h, w)`."""
    return (latents - _per_channel(scale.mean, latents)) * (scale.scaling / _per_channel(scale.std, latents))


def denormalise(latents: Tensor, scale: LatentScale) -> Tensor:
    """Return autoencoder latents `(B, C, T, h, w)` of the transformer's: the inverse of `normalise`."""
    return latents * (_per_channel(scale.std, latents) / scale.scaling) + _per_channel(scale.mean, latents)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like)[:, None, None, None]  # (C, 1, 1, 1)

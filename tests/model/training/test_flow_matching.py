"""Noise levels that the transformer is trained at."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wm_env.model.training.batches import WorldBatch
from wm_env.model.training.losses.flow_matching import WorldLossConfig, world_loss

CLIPS, FRAMES = 200, 16


class SeenError(Exception):
    """What the model was told of the history has been noted."""


def levels_of_history(config: WorldLossConfig) -> torch.Tensor:
    """Return tau `(B, T)` as `world_loss` draws it."""
    told: list[torch.Tensor] = []

    def note(history: torch.Tensor, timestep: torch.Tensor, *_: object, **__: object) -> None:
        told.append(timestep / 1000)
        raise SeenError

    nothing: Any = None
    batch = WorldBatch(torch.zeros(CLIPS, 1, FRAMES, 1, 1), nothing, nothing, None)
    model: Any = note
    with pytest.raises(SeenError):
        world_loss(model, batch, config, torch.Generator().manual_seed(0))
    return told[0]


def test_history_noise_is_squared_towards_zero_and_clean_by_clip() -> None:
    """tau = history_noise u^2: mean 1/3, median 1/4 of it."""
    tau = levels_of_history(WorldLossConfig(history_noise=0.6, history_clean=0.0)) / 0.6
    assert 0.98 < float(tau.max()) <= 1
    assert float(tau.mean()) == pytest.approx(1 / 3, abs=0.02)
    assert float(tau.median()) == pytest.approx(1 / 4, abs=0.02)
    clean = (levels_of_history(WorldLossConfig(history_clean=0.3)) == 0).float().mean(1)
    assert set(clean.tolist()) == {0.0, 1.0} and float(clean.mean()) == pytest.approx(0.3, abs=0.1)

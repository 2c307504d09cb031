"""The refiner at initialisation: an even blend where there is memory, the decoder elsewhere."""

from __future__ import annotations

import torch

from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig


def test_untrained_it_blends_evenly_where_there_is_memory() -> None:
    refiner = TinyRefiner(TinyRefinerConfig(width=4, blocks=1))
    decoded, seen = torch.randn(2, 4, 4, 8, 8), torch.randn(2, 4, 5, 8, 8)
    seen[:, :, 4] = torch.randint(0, 2, (2, 4, 8, 8))
    mask = seen[:, :, 4:]
    expected = decoded * (1 - 0.5 * mask) + seen[:, :, :4] * 0.5 * mask
    assert torch.allclose(refiner(decoded, seen), expected, atol=1e-6)

"""The energy score is proper: what draws like the truth scores best, on average and as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_env.model.training.energy import distance, energy_loss, energy_score

N, C, SIDE = 4000, 3, 8
WEIGHTS = torch.tensor([2.0, 0.7, 0.3])


def frames(generator: torch.Generator, token: float, common: float) -> Tensor:
    """Return frames whose tokens vary by themselves and all together."""
    white = torch.randn(N, C, SIDE, SIDE, generator=generator)
    return token * white + common * torch.randn(N, C, 1, 1, generator=generator)


def mean_score(token: float, common: float) -> float:
    generator = torch.Generator().manual_seed(0)
    truth = frames(generator, 0.6, 0.8)
    first, second = frames(generator, token, common), frames(generator, token, common)
    return float(energy_score(first, second, truth, WEIGHTS).mean())


def test_the_score_is_the_formula_written_out() -> None:
    x, y = torch.randn(2, 2, C, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(2)
    for clip in range(2):
        difference = (x[clip] - y[clip]) * WEIGHTS.sqrt()[:, None, None]
        expected[clip] += difference.abs().mean()
        for scale in (2, 4, 8):
            cells = difference.unfold(1, scale, scale).unfold(2, scale, scale).mean((3, 4))
            expected[clip] += cells.square().mean(0).sqrt().mean()
    assert torch.allclose(distance(x, y, WEIGHTS), expected, atol=1e-5)


def test_draws_like_the_truth_score_better_than_the_mean_or_other_draws() -> None:
    best = mean_score(0.6, 0.8)
    assert best < mean_score(0.0, 0.0) - 0.1  # the grey haze
    assert best < mean_score(0.3, 0.4) - 0.02  # half the contrast
    assert best < mean_score(1.0, 0.0) - 0.05  # every value as varied as the truth's, but no whole walls
    assert best < mean_score(0.6, 1.6) - 0.1  # too much


def test_descending_the_score_learns_to_spread() -> None:
    """One scale for own and common noise, from almost none."""
    generator = torch.Generator().manual_seed(2)
    scale = torch.tensor([0.05, 0.05], requires_grad=True)
    optimizer = torch.optim.Adam([scale], lr=0.03)
    for _ in range(150):
        truth = frames(generator, 0.6, 0.8)[:200]

        def draw() -> Tensor:
            own = torch.randn(200, C, SIDE, SIDE, generator=generator)
            return scale[0] * own + scale[1] * torch.randn(200, C, 1, 1, generator=generator)

        optimizer.zero_grad()
        energy_loss(draw(), draw(), truth, WEIGHTS).mean().backward()
        optimizer.step()
    assert torch.allclose(scale.detach().abs(), torch.tensor([0.6, 0.8]), atol=0.1)


def test_the_loss_has_the_gradient_of_the_score() -> None:
    """In a location and a scale, over many draws; the score's own gradient goes through both draws."""
    generator = torch.Generator().manual_seed(3)
    truth, one, two = (frames(generator, 0.6, 0.8) for _ in range(3))
    found = []
    for loss in (energy_score, energy_loss):
        shape = torch.tensor([0.1, 0.5], requires_grad=True)
        draws = [shape[0] + shape[1] * x for x in (one, two)]
        loss(*draws, truth, WEIGHTS).mean().backward()
        found.append(shape.grad)
    assert torch.allclose(found[0], found[1], rtol=0.05, atol=0.03)

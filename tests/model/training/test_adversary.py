"""The judge beside the few-step loss: what each network is asked for, and that neither pays for the other."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from wm_env.model.embedded import load_embedded
from wm_env.model.point_memory import TOKEN_STRIDE
from wm_env.model.rollout import LearnedWorld
from wm_env.model.training.adversary import (
    AdversaryConfig,
    AdversaryLoss,
    Judge,
    Pairs,
    adversary_loss,
    judge_loss,
    shown,
)
from wm_env.model.training.own_walks import OwnWalk, WalkSource

CONFIG = AdversaryConfig(
    batch=2,
    frames=3,
    drawn=2,
    shown=0,
    contexts=0.0,
    levels=(1.0, 0.5, 0.0),
    path=2,
    temperature=1.0,
    width=8,
)


@pytest.fixture(scope="module")
def walked() -> tuple[LearnedWorld, OwnWalk]:
    world = copy.copy(load_embedded("tiny"))
    world.dit = copy.deepcopy(world.dit).requires_grad_(True)
    return world, WalkSource(CONFIG).held(world, drawn=2)


def new_judge(channels: int = 32) -> Judge:
    torch.manual_seed(0)
    return Judge(torch.ones(channels), rays=24, width=8)


def loss_of(
    world: LearnedWorld,
    judge: Judge,
    seen: OwnWalk,
    config: AdversaryConfig,
    step: int = 1000,
    earlier: Sequence[Pairs] = (),
) -> AdversaryLoss:
    eps = torch.randn(seen.history.shape, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(eps.shape[1])
    return adversary_loss(
        world.dit, judge, load_embedded("tiny").dit, seen, config, eps, weights, step, earlier
    )


def gradients(loss: Tensor, of: nn.Module) -> list[Tensor]:
    parameters = [p for p in of.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def test_what_the_student_is_asked_for_leaves_the_judge_alone(walked: tuple[LearnedWorld, OwnWalk]) -> None:
    world, seen = walked
    judge = new_judge()
    without = loss_of(world, judge, seen, dataclasses.replace(CONFIG, strength=0.0))
    strongly = loss_of(world, judge, seen, dataclasses.replace(CONFIG, strength=5.0))
    for a, b in zip(gradients(without.total, judge), gradients(strongly.total, judge), strict=True):
        assert torch.equal(a, b)
    moved = [
        float((a - b).abs().max())
        for a, b in zip(
            gradients(without.total, world.dit), gradients(strongly.total, world.dit), strict=True
        )
    ]
    assert max(moved) > 1e-5, "the judge's word reaches the student"


def test_what_is_descended_is_the_tie_the_judge_and_what_it_says(
    walked: tuple[LearnedWorld, OwnWalk],
) -> None:
    world, seen = walked
    judge = new_judge()
    bare = loss_of(world, judge, seen, dataclasses.replace(CONFIG, strength=0.0))
    full = loss_of(world, judge, seen, dataclasses.replace(CONFIG, strength=2.0))
    assert float(full.total - bare.total) == pytest.approx(2.0 * full.fooled, rel=1e-4)
    assert 0 <= full.right <= 1 and full.slope > 0
    begun = loss_of(world, judge, seen, dataclasses.replace(CONFIG, strength=2.0, ramp=4), step=1)
    assert float(begun.total - bare.total) == pytest.approx(0.5 * begun.fooled, rel=1e-4)


def test_the_judge_is_shown_earlier_pairs_too_and_the_student_only_its_own(
    walked: tuple[LearnedWorld, OwnWalk],
) -> None:
    world, seen = walked
    judge = new_judge()
    alone = loss_of(world, judge, seen, CONFIG)
    assert len(alone.pairs.real) == len(alone.pairs.fake) == 4 and not alone.pairs.fake.requires_grad
    swapped = Pairs(alone.pairs.fake, alone.pairs.real, alone.pairs.rays)
    both = loss_of(world, judge, seen, CONFIG, earlier=[swapped])
    assert both.fooled == alone.fooled and both.anchor == alone.anchor
    assert both.right == pytest.approx(0.5), "what is right of a pair is wrong of the pair turned round"
    assert float(both.total) != float(alone.total)


def test_a_tie_that_is_loose_everywhere_but_where_the_memory_shows_something(
    walked: tuple[LearnedWorld, OwnWalk],
) -> None:
    world, seen = walked
    known = shown(seen)
    assert seen.batch.memory is not None
    mask = seen.batch.memory.unflatten(-1, (5, TOKEN_STRIDE**2))[..., 4, :]  # r, g, b, d, mask
    assert torch.allclose(known.flatten(2), mask.mean(-1)) and 0.1 < float(known[:, 1:].mean()) < 1
    moved = copy.copy(world)
    moved.dit = copy.deepcopy(world.dit)
    with torch.no_grad():
        moved.dit.latent_in.bias += 0.1
    judge = new_judge()
    every = loss_of(moved, judge, seen, dataclasses.replace(CONFIG, loose=1.0)).anchor
    half = loss_of(moved, judge, seen, dataclasses.replace(CONFIG, loose=0.5)).anchor
    only = loss_of(moved, judge, seen, dataclasses.replace(CONFIG, loose=0.0)).anchor
    assert 0 < only < every and half == pytest.approx((only + every) / 2, rel=1e-4)
    blind = seen._replace(batch=seen.batch._replace(memory=None))
    assert float(shown(blind).abs().max()) == 0


def test_a_judge_learns_which_of_two_kinds_is_true() -> None:
    """Rows that stand where their rays say are true; the same rows elsewhere are not."""
    generator = torch.Generator().manual_seed(0)
    judge = new_judge(channels=4)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)

    def pairs(n: int) -> Pairs:
        rays = torch.randn(n, 24, 8, 8, generator=generator)
        real = 0.3 * torch.randn(n, 4, 8, 8, generator=generator) + rays[:, :1]
        fake = 0.3 * torch.randn(n, 4, 8, 8, generator=generator) + rays[:, :1].flip(-1)
        return Pairs(real, fake, rays)

    assert abs(told_apart(judge, *pairs(200)) - 0.5) < 0.2
    for _ in range(60):
        loss, _, _ = judge_loss(judge, pairs(32), penalty=0.01)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert told_apart(judge, *pairs(200)) > 0.9


def told_apart(judge: Judge, real: Tensor, fake: Tensor, rays: Tensor) -> float:
    with torch.no_grad():
        return float((judge(real, rays) > judge(fake, rays)).float().mean())


def test_the_penalty_is_of_both_slopes() -> None:
    judge = new_judge(channels=4)
    real, fake, rays = (
        torch.randn(6, n, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (4, 4, 24)
    )
    fake = fake + 1
    free, _, _ = judge_loss(judge, Pairs(real, fake, rays), penalty=0.0)
    held, _, _ = judge_loss(judge, Pairs(real, fake, rays), penalty=3.0)
    squares = []
    for z in (real, fake):
        x = z.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(judge(x, rays).sum(), x)
        squares.append(float(slope.square().sum((1, 2, 3)).mean()))
    assert float(held - free) == pytest.approx(3.0 / 2 * sum(squares), rel=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [{"strength": -1.0}, {"penalty": -0.1}, {"loose": 1.5}, {"width": 0}, {"ramp": 0}, {"again": -1}],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        dataclasses.replace(CONFIG, **wrong)

"""Drawing in few steps: the teacher's path is the rollout's, and who takes all of its steps has no loss."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from wm_env.model.embedded import load_embedded
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import SamplerConfig, chunk_noise
from wm_env.model.training.few_steps import FewStepConfig, equal_levels, few_step_loss, path_of
from wm_env.model.training.own_walks import OwnWalk, WalkSource

CONFIG = FewStepConfig(
    batch=2, frames=3, drawn=2, shown=0, contexts=0.0, levels=(1.0, 0.5, 0.0), path=4, temperature=1.0
)


@pytest.fixture(scope="module")
def walked() -> tuple[LearnedWorld, OwnWalk]:
    world = copy.copy(load_embedded("tiny-pure"))
    world.sampler = SamplerConfig(sigmas=equal_levels(CONFIG.path))
    return world, WalkSource(CONFIG).held(world, drawn=2)


def test_the_path_is_the_one_that_the_rollout_drew(walked: tuple[LearnedWorld, OwnWalk]) -> None:
    world, seen = walked
    count, channels, frames, height, width = seen.history.shape
    noise = [
        chunk_noise(torch.arange(count), torch.full((count,), 2 + t), (channels, 1, height, width))
        for t in range(frames - 1)
    ]  # the last frames are chunks 2, 3, ... : two were drawn before
    eps = torch.cat([torch.zeros_like(noise[0]), *noise], dim=2)
    path = path_of(world.dit, seen, eps, equal_levels(CONFIG.path))
    assert torch.allclose(path[-1][:, :, 1:], seen.history[:, :, 1:], atol=1e-4)
    assert not torch.allclose(path[-2][:, :, 1:], seen.history[:, :, 1:], atol=1e-2)


def test_who_takes_every_step_of_the_teacher_has_no_loss_and_who_takes_fewer_has_some(
    walked: tuple[LearnedWorld, OwnWalk],
) -> None:
    world, seen = walked
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(seen.history.shape, generator=generator)
    ones = torch.ones(eps.shape[1])

    def loss(config: FewStepConfig) -> float:
        choice = torch.randint(len(config.levels) - 1, (2, eps.shape[2]), generator=generator)
        return float(few_step_loss(world.dit, world.dit, seen, config, eps, choice, ones))

    with torch.no_grad():
        every = loss(dataclasses.replace(CONFIG, levels=equal_levels(CONFIG.path)))
        fewer = loss(CONFIG)
    assert every < 1e-9 < 1e-3 < fewer


@pytest.mark.parametrize(
    "levels", [(1.0, 0.3, 0.0), (0.75, 0.0), (1.0, 0.5), (1.0,), (1.0, 0.25, 0.5, 0.0), ()], ids=str
)
def test_levels_that_no_teacher_passes_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must fall from 1 to 0 in multiples"):
        FewStepConfig(levels=levels, path=4)
    with pytest.raises(ValueError, match="at least 1"):
        FewStepConfig(path=0)
    with pytest.raises(ValueError, match="temperature"):
        FewStepConfig(temperature=0.0)

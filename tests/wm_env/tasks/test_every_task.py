"""What every task keeps to: an id, the same rewards on every world and in every slot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from wm_env.env import SanaWMEnv
from wm_env.tasks import TASKS, Explore, Follow, PointNav, make_task

# Reference paths of 8 steps: drawing 64 takes most of a reset, and no test here walks that far.
EACH = [Follow(steps=8) if name == "follow" else name for name in TASKS]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_an_id_that_plays_it(task: str) -> None:
    """Gymnasium's and SB3's checkers run on every id in test_matrix.py."""
    name = {"pointnav": "PointNav", "objectnav": "ObjectNav", "imagenav": "ImageNav"}.get(task, task.title())
    env = gym.make(f"SanaWM-{name}-v0", world="twin")
    assert env.unwrapped.config.task == task


@pytest.mark.parametrize("task", EACH, ids=TASKS)
def test_goals_and_rewards_are_the_same_on_a_learned_world(task: Any, pure_world: str) -> None:
    def play(world: str) -> list[Any]:
        env = SanaWMEnv(world=world, task=task)
        env.reset(seed=7)
        steps = [env.step(action) for action in (1, 1, 4, 1, 3)]
        return [(reward, ended, info["distance_to_goal"], info["spl"]) for _, reward, ended, _, info in steps]

    assert play("twin") == play(pure_world)


@pytest.mark.slow
@pytest.mark.parametrize("task", EACH, ids=TASKS)
def test_a_batched_slot_is_rewarded_as_it_is_alone(task: Any) -> None:
    envs = gym.make_vec("SanaWM-v0", num_envs=2, world="twin", task=task)
    envs.reset(seed=20)
    solo = SanaWMEnv(world="twin", task=task)
    for slot in range(2):
        solo.reset(seed=20 + slot)
        rewards = [solo.step(action)[1] for action in (1, 4, 1)]
        envs.reset(seed=20)
        batched = [envs.step(np.array([action, action]))[1][slot] for action in (1, 4, 1)]
        assert batched == pytest.approx(rewards, abs=1e-9)


@pytest.mark.parametrize("task", ["objectnav", "imagenav"])
def test_tasks_that_need_a_scene_say_so_for_a_users_image(task: str, pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, task=task, image=np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=f"task '{task}' needs a scene"):
        env.reset(seed=0)


def test_the_same_seed_draws_the_same_goal_and_another_another() -> None:
    env = SanaWMEnv(world="twin", task="pointnav")

    def goal(seed: int) -> list[float]:
        env.reset(seed=seed, options={"scene": 5})
        return env.state.task.goal[0].tolist()

    assert goal(1) == goal(1) != goal(2)


def test_a_users_own_task_is_used_as_it_is(make_twin: Callable[..., Any]) -> None:
    class Calm(Explore):
        """Pay one for every step without a collision."""

        name = "calm"

        def step(self, state: Any, context: Any) -> Any:
            after, outcome = super().step(state, context)
            return after, outcome._replace(reward=(~context.collided).double())

    env = make_twin(task=Calm())
    env.reset(seed=0)
    assert env.step(0)[1] == 1.0
    near = dataclasses.replace(PointNav(), near=0.5, far=1.0)
    env = make_twin(task=near)
    _, info = env.reset(seed=0)
    assert info["distance_to_goal"] < 1.5


def test_an_unknown_task_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="explore, pointnav, objectnav, imagenav, follow"):
        make_task("dance")

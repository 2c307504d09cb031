"""A pickled environment: small, for its world travels as a name, and the same episode where it arrives."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import wm_env
from wm_env.config import EnvConfig


def frames(env: Any, actions: list[int]) -> list[bytes]:
    return [env.step(action)[0].tobytes() for action in actions]


@pytest.mark.parametrize("world", ["twin", "tiny-pure", "memory_world"])
def test_an_environment_goes_on_where_it_is_unpickled(world: str, request: pytest.FixtureRequest) -> None:
    name = request.getfixturevalue(world) if world == "memory_world" else world
    env: Any = gym.make("SanaWM-v0", world=name)
    assert len(pickle.dumps(env)) < 200_000
    env.reset(seed=0)
    env.step(1)
    data = pickle.dumps(env)
    assert len(data) < 3_000_000, "its state, once, and no weights"
    copied = copy.deepcopy(env)
    expected = frames(env, [1, 4, 0])
    assert frames(pickle.loads(data), [1, 4, 0]) == expected
    assert frames(copied, [1, 4, 0]) == expected


def test_a_batch_and_a_world_are_small_too() -> None:
    envs: Any = gym.make_vec("SanaWM-v0", num_envs=2, world="tiny-pure")
    envs.reset(seed=0)
    again = pickle.loads(pickle.dumps(envs))
    rows = np.array([[1, 2], [3, 4]])
    assert [envs.step(row)[0].tobytes() for row in rows] == [again.step(row)[0].tobytes() for row in rows]
    world = wm_env.load_world("tiny-pure")
    assert len(pickle.dumps(world)) < 1000 and pickle.loads(pickle.dumps(world)) is world


def test_other_weights_at_the_other_end_are_refused(
    pure_world: str, memory_world: str, tmp_path: Path
) -> None:
    folder = tmp_path / "world"
    shutil.copytree(pure_world, folder)
    data = pickle.dumps(EnvConfig(world=str(folder)).load_world())
    shutil.rmtree(folder)
    shutil.copytree(memory_world, folder)
    with pytest.raises(ValueError, match="has other weights here"):
        pickle.loads(data)

"""Explore: floor is paid once."""

from __future__ import annotations

import numpy as np
import pytest

from wm_env.env import SanaWMEnv


def test_explore_pays_newly_seen_floor_once() -> None:
    env = SanaWMEnv(world="twin")
    env.reset(seed=0)
    steps = [env.step(4) for _ in range(25)]
    turn = [step[1] for step in steps]
    assert [step[4]["explored"] for step in steps] == pytest.approx(np.cumsum(turn))
    again = [env.step(4)[1] for _ in range(25)]
    assert sum(turn) > 1.0 and sum(again) < 0.1 * sum(turn)
    assert all(reward / 0.0625 == round(reward / 0.0625) for reward in turn)


def test_explore_without_a_scene_pays_visited_cells(pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, image=np.zeros((64, 64, 3), np.uint8))
    _, info = env.reset(seed=0)
    assert "collision" not in info
    rewards = [env.step(1)[1] for _ in range(8)]  # 2 m forward, cells of 0.5 m
    assert sum(rewards) in (3.0, 4.0) and set(rewards) <= {0.0, 1.0}

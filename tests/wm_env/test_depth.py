"""Depth in info and in observations, and a camera that is stopped by what the world itself shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from wm_env.config import EnvConfig
from wm_env.env import SanaWMEnv
from wm_env.observations import DEPTH_BOUND
from wm_env.twin import TwinWorld
from wm_env.vector import SanaWMVectorEnv


def test_info_has_the_depth_of_the_newest_frame() -> None:
    env = SanaWMEnv(world="twin", scene=3, depth=True)
    _, info = env.reset(seed=0)
    assert info["depth"].dtype == np.float32 and info["depth"].shape == (64, 64)
    before = info["depth"].copy()
    info["depth"][:] = 0  # the caller's own
    _, _, _, _, info = env.step(4)
    assert (info["depth"] > 0).all() and not np.array_equal(before, info["depth"])
    assert "depth" not in SanaWMEnv(world="twin", scene=3).reset(seed=0)[1]


def test_depth_comes_back_with_a_snapshot_and_in_every_slot() -> None:
    env = SanaWMEnv(world="tiny", scene=3, depth=True)
    env.reset(seed=0)
    snap = env.snapshot()
    first = env.step(1)[4]["depth"]
    env.step(2)
    env.restore(snap)
    assert np.array_equal(env.step(1)[4]["depth"], first)
    vector = SanaWMVectorEnv(2, world="twin", scene=3, depth=True)
    vector.reset(seed=0)
    assert vector.step(np.array([1, 1]))[4]["depth"].shape == (2, 64, 64)


@pytest.mark.filterwarnings("ignore")
def test_rgbd_is_colour_and_metres() -> None:
    env = gym.make("SanaWM-v0", world="twin", scene=3, obs_type="rgbd", obs_size=32)
    check_env(env.unwrapped, skip_render_check=True)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (32, 32, 4) and obs.dtype == np.float32
    assert obs[..., :3].max() <= 1 and obs[..., 3].min() > 0 and obs[..., 3].max() <= DEPTH_BOUND
    plain, _ = gym.make("SanaWM-v0", world="twin", scene=3, obs_size=32).reset(seed=0)
    assert np.array_equal(np.round(obs[..., :3] * 255).astype(np.uint8), plain)


def walked(steps: int, **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return the last info of walking straight ahead, and what every info said of a collision."""
    env = SanaWMEnv(**settings)
    _, info = env.reset(seed=0)
    said = [info.get("collision")]
    for _ in range(steps):
        info = env.step(1)[4]
        said.append(info.get("collision"))
    return info, said


@pytest.mark.slow
def test_without_a_scene_the_camera_is_stopped_by_what_the_world_shows() -> None:
    picture = SanaWMEnv(world="twin", scene=5).reset(seed=0)[0]
    through, said = walked(24, world="tiny", image=picture)
    assert said == [None] * 25
    stopped, said = walked(24, world="tiny", image=picture, collision="world")
    assert said[0] is False and any(said)
    assert np.linalg.norm(stopped["c2w"][:3, 3]) < np.linalg.norm(through["c2w"][:3, 3]) - 0.5


def test_with_a_scene_walls_are_the_true_ones() -> None:
    (block, said), (world, again) = (
        walked(12, world="twin", scene=5, collision=collision) for collision in ("block", "world")
    )
    assert np.array_equal(block["c2w"], world["c2w"]) and said == again


def test_a_world_without_depth_is_said_so() -> None:
    twin = TwinWorld()
    blind = TwinWorld(dataclasses.replace(twin.spec, name="blind", gives_depth=False))
    asked: dict[str, dict[str, Any]] = {
        "depth=True needs the depth": {"depth": True},
        "collision='world' needs the depth": {"collision": "world"},
        "gives no depth": {"obs_type": "rgbd"},
    }
    for told, settings in asked.items():
        with pytest.raises(ValueError, match=told):
            SanaWMEnv(world=blind, **settings)
    with pytest.raises(ValueError, match="depth='yes' must be True or False"):
        EnvConfig(depth="yes")  # type: ignore[arg-type]

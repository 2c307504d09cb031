"""The PettingZoo face; skipped where PettingZoo is not installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo", reason="needs the extra: pip install 'wm-env[marl]'")

from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.utils import parallel_to_aec

from wm_env.env import SanaWMEnv
from wm_env.parallel import MODES, parallel_env


def make(mode: str, **settings: Any) -> Any:
    return parallel_env(mode, world="twin", **settings)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", ["explore", "pointnav"])
def test_pettingzoos_own_checks_pass(mode: str, task: str) -> None:
    parallel_api_test(make(mode, task=task, max_cycles=6), num_cycles=20)
    parallel_seed_test(lambda: make(mode, task=task, max_cycles=6), num_cycles=6)


@pytest.mark.parametrize("mode", MODES)
def test_the_aec_conversion_passes_too(mode: str) -> None:
    api_test(parallel_to_aec(make(mode, max_cycles=6)), num_cycles=20)


def test_mover_and_looker_drive_one_camera() -> None:
    shared = make("shared_camera", collision="ignore")
    shared.reset(seed=0)
    observed, rewards, *_, infos = shared.step({"mover": 1, "looker": 2})  # w and d
    solo = SanaWMEnv(world="twin", action_type="multikeys", collision="ignore")
    solo.reset(seed=0)
    frame, reward, _, _, info = solo.step(np.array([1, 0, 0, 1, 0, 0, 0, 0]))
    for agent in ("mover", "looker"):
        assert np.array_equal(observed[agent], frame) and rewards[agent] == reward
        assert np.array_equal(infos[agent]["c2w"], info["c2w"])


def test_cameras_start_together_and_go_their_own_ways() -> None:
    cameras = make("multi_camera", num_cameras=3, render_mode="rgb_array")
    start, _ = cameras.reset(seed=0)
    assert np.array_equal(start["camera_0"], start["camera_2"])
    observed, *_ = cameras.step({"camera_0": 0, "camera_1": 3, "camera_2": 4})
    assert not np.array_equal(observed["camera_1"], observed["camera_2"])
    assert cameras.render().shape == (64, 192, 3)


def test_a_finished_camera_leaves_the_others_running() -> None:
    cameras = make("multi_camera", collision="terminate")
    cameras.reset(seed=0)
    for _ in range(60):
        actions = {agent: 1 if agent == "camera_0" else 0 for agent in cameras.agents}
        _, _, terminated, _, _ = cameras.step(actions)
        if terminated.get("camera_0"):
            break
    assert cameras.agents == ["camera_1"]
    observed, *_ = cameras.step({"camera_1": 0})
    assert set(observed) == {"camera_1"}
    with pytest.raises(ValueError, match="live agents"):
        cameras.step({"camera_0": 0, "camera_1": 0})


def test_bad_modes_and_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="shared_camera, multi_camera"):
        parallel_env("one_camera", world="twin")
    with pytest.raises(ValueError, match="shares out the keys"):
        make("shared_camera", action_type="camera")
    shared = make("shared_camera")
    shared.reset(seed=0)
    with pytest.raises(Exception, match="leaves"):
        shared.step({"mover": 5, "looker": 0})

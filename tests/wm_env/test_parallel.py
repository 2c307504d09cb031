"""The PettingZoo interface: its own checkers, a shared camera, cameras that part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test
from pettingzoo.utils import parallel_to_aec

from wm_env.env import SanaWMEnv
from wm_env.parallel import MODES, parallel_env
from wm_env.tasks import TASKS, Follow


def make(mode: str, **settings: Any) -> Any:
    return parallel_env(mode, world="twin", **settings)


pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:reset options"),  # the checker passes one nobody knows
    pytest.mark.filterwarnings("ignore:We recommend agents"),  # mover and looker carry no number
    pytest.mark.filterwarnings("ignore:Observation space for each agent probably"),  # the same
    pytest.mark.filterwarnings("ignore:Observation is not a NumPy array"),  # a goal task's is a Dict
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", TASKS)
def test_pettingzoos_own_checks_pass(mode: str, task: str) -> None:
    played = Follow(steps=8) if task == "follow" else task  # a path of 64 steps takes most of a reset

    def short() -> Any:
        return make(mode, task=played, max_episode_steps=4)

    parallel_api_test(short(), num_cycles=5)
    parallel_seed_test(short, num_cycles=3)
    api_test(parallel_to_aec(short()), num_cycles=5)
    seed_test(lambda: parallel_to_aec(short()), num_cycles=3)


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
    with pytest.raises(InvalidAction, match="live agents"):
        cameras.step({"camera_0": 0, "camera_1": 0})


@pytest.mark.parametrize("action_type", ["multikeys", "camera"])
def test_twists_and_held_keys_are_shared_out_too(action_type: str) -> None:
    shared = make("shared_camera", action_type=action_type, collision="ignore")
    shared.reset(seed=0)
    *_, infos = shared.step(
        {
            "mover": np.array([1, 0, 0, 0][: 3 + (action_type == "multikeys")]),
            "looker": np.array([0, 1, 0, 0][: 3 + (action_type == "multikeys")]),
        }
    )
    solo = SanaWMEnv(world="twin", action_type=action_type, collision="ignore")
    solo.reset(seed=0)
    whole = [1, 0, 0, 1, 0, 0, 0, 0] if action_type == "multikeys" else [1, 0, 0, 0, 1, 0]
    assert np.array_equal(infos["mover"]["c2w"], solo.step(np.array(whole))[4]["c2w"])


def test_time_ends_the_episode_of_every_agent() -> None:
    cameras = make("multi_camera", max_episode_steps=2)
    cameras.reset(seed=0)
    for _ in range(2):
        *_, terminated, truncated, _ = cameras.step(dict.fromkeys(cameras.agents, 0))
    assert truncated == {"camera_0": True, "camera_1": True} and not any(terminated.values())
    assert cameras.agents == []
    with pytest.raises(ResetNeeded):
        cameras.step({})
    cameras.close()
    with pytest.raises(ClosedEnvironmentError):
        cameras.reset()


def test_bad_modes_and_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="shared_camera, multi_camera"):
        parallel_env("one_camera", world="twin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be shared"):
        make("shared_camera", action_type="camera_sequence")
    shared = make("shared_camera")
    with pytest.raises(ResetNeeded):
        shared.step({"mover": 0, "looker": 0})
    shared.reset(seed=0)
    for action in (5, -1, 0.5, np.nan, [1, 2]):
        with pytest.raises(InvalidAction):
            shared.step({"mover": action, "looker": 0})


def test_an_image_where_a_scene_is_needed_is_refused_before_anything_changes() -> None:
    cameras = make("multi_camera")
    cameras.reset(seed=0)
    with pytest.raises(ValueError, match="needs a scene"):
        cameras.reset(options={"image": np.zeros((64, 64, 3), np.uint8)})
    assert cameras.agents == ["camera_0", "camera_1"]


def test_central_critics_and_wrappers_find_state_and_generator() -> None:
    env = parallel_env("multi_camera", num_cameras=np.int64(2), max_episode_steps=np.int64(3), world="twin")
    assert env.np_random is env.np_random  # there before any reset, as SuperSuit asks
    with pytest.raises(ResetNeeded):
        env.state()
    seen, _ = env.reset(seed=np.int64(5))  # type: ignore[arg-type]
    assert env.np_random_seed == 5 and env.state_space.contains(env.state())
    for index, agent in enumerate(env.agents):
        assert np.array_equal(env.state()[index], seen[agent])


@pytest.mark.parametrize("actions", [None, 3, [], {3: 1, "mover": 1}, {"mover": [[1], [1, 2]], "looker": 0}])
def test_actions_that_are_none_are_refused_before_anything_moves(actions: Any) -> None:
    env = parallel_env(world="twin")
    env.reset(seed=0)
    before = env.state()
    with pytest.raises(InvalidAction):
        env.step(actions)
    assert np.array_equal(env.state(), before)


def test_cameras_and_limits_that_are_no_integers_are_refused() -> None:
    for given in (2.5, None, "2", 0, True):
        with pytest.raises(ValueError, match="num_cameras="):
            parallel_env("multi_camera", num_cameras=given, world="twin")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_episode_steps="):
            parallel_env(max_episode_steps=given, world="twin")  # type: ignore[arg-type]

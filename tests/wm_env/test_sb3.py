"""The Stable-Baselines3 interface: its checker, its wrappers, its algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecTransposeImage

from wm_env.env import SanaWMEnv
from wm_env.sb3 import SanaWMVecEnv


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", ["explore", "pointnav"])  # a picture; a Dict
@pytest.mark.parametrize("action_type", ["keys", "multikeys", "camera"])
def test_sb3_finds_nothing_to_say(task: str, action_type: str) -> None:
    """Every task, with keys: test_matrix.py."""
    check_env(SanaWMEnv(world="twin", task=task, action_type=action_type))


def test_an_ended_slot_is_reset_in_the_same_step() -> None:
    envs = SanaWMVecEnv(2, world="twin", max_episode_steps=2)
    envs.seed(0)
    start = envs.reset()
    assert start.shape == (2, 64, 64, 3)
    envs.step(np.array([0, 0]))
    observed, rewards, dones, infos = envs.step(np.array([4, 4]))
    assert dones.all() and rewards.dtype == np.float32
    for slot, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True and info["chunk_index"] == 2
        assert not np.array_equal(info["terminal_observation"], observed[slot])
        assert envs.reset_infos[slot]["chunk_index"] == 0


def test_seeds_reach_the_slots_once() -> None:
    envs = SanaWMVecEnv(2, world="twin")
    envs.seed(5)
    first = envs.reset()
    solo = SanaWMEnv(world="twin")
    assert np.array_equal(first[1], solo.reset(seed=6)[0])
    assert not np.array_equal(envs.reset(), first)


def test_sb3_wrappers_accept_it() -> None:
    envs: Any = VecFrameStack(
        VecTransposeImage(VecMonitor(SanaWMVecEnv(2, world="twin", max_episode_steps=2))), 2
    )
    assert envs.reset().shape == (2, 6, 64, 64)
    envs.step(np.array([0, 0]))
    infos = envs.step(np.array([0, 0]))[3]
    assert [info["episode"]["l"] for info in infos] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "policy"), [("explore", "CnnPolicy"), ("pointnav", "MultiInputPolicy")])
def test_ppo_learns_on_it(task: str, policy: str) -> None:
    envs = SanaWMVecEnv(4, world="twin", task=task, max_episode_steps=8)
    agent = PPO(policy, envs, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    before = [weights.clone() for weights in agent.policy.parameters()]
    agent.learn(32)
    assert any((a != b).any() for a, b in zip(before, agent.policy.parameters(), strict=True))
    assert envs.envs.profile()["world_calls"] == 8


def test_recurrent_ppo_learns_on_it() -> None:
    envs = SanaWMVecEnv(2, world="twin", task="pointnav", max_episode_steps=8)
    agent = RecurrentPPO(
        "MultiInputLstmPolicy", envs, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu"
    )
    agent.learn(16)
    assert agent.num_timesteps == 16


def test_every_slot_may_have_reset_options_of_its_own() -> None:
    envs = SanaWMVecEnv(2, world="twin")
    envs.set_options([{"scene": 1}, {"scene": 2}])
    observed = envs.reset()
    assert envs.envs.state.scene_seed.tolist() == [1, 2]
    for slot in range(2):
        assert np.array_equal(observed[slot], SanaWMEnv(world="twin", scene=slot + 1).reset(seed=9)[0])


def test_infos_are_plain_values_of_the_slot() -> None:
    envs = SanaWMVecEnv(2, world="twin", task="pointnav", max_episode_steps=2)
    envs.seed(0)
    envs.reset()
    info = envs.step(np.array([1, 1]))[3][1]
    solo = SanaWMEnv(world="twin", task="pointnav")
    solo.reset(seed=1)
    expected = solo.step(1)[4]
    assert set(info) == {*expected, "TimeLimit.truncated"}
    assert info["is_success"] is False and info["distance_to_goal"] == expected["distance_to_goal"]
    assert np.array_equal(info["c2w_frames"], expected["c2w_frames"])


def test_images_attributes_and_methods_are_reachable() -> None:
    envs = SanaWMVecEnv(3, world="twin", render_mode="rgb_array")
    envs.reset()
    assert [image.shape for image in envs.get_images()] == [(64, 64, 3)] * 3
    assert envs.render().shape == (128, 128, 3)
    assert envs.get_attr("frames_per_step", indices=[0, 2]) == [4, 4]
    assert envs.env_is_wrapped(object) == [False] * 3  # type: ignore[arg-type]
    envs.env_method("set_prompt", "dim light", indices=[1])
    assert len(envs.env_method("snapshot", indices=1)) == 1
    with pytest.raises(AttributeError, match="snapshot, set_prompt, render"):
        envs.env_method("dance")
    with pytest.raises(AttributeError, match="cannot be set"):
        envs.set_attr("world", "tiny")
    envs.close()
    envs.close()

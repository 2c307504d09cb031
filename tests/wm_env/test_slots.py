"""What TorchRL, skrl, lerobot-eval and others ask of a vector environment, as Gymnasium's own answer it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import wm_env  # registers the ids
from wm_env.sb3 import SanaWMVecEnv
from wm_env.slots import OF_ALL, OF_SLOTS

ID = "SanaWM-Twin-v0"


def vector(**settings: Any) -> wm_env.SanaWMVectorEnv:
    return gym.make_vec(ID, num_envs=2, **settings)  # type: ignore[return-value]


def one_by_one(**settings: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gym.make(ID, **settings)] * 2)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_autoreset_mode_is_an_attribute_as_gymnasiums_own_have_it(mode: AutoresetMode) -> None:
    envs = vector(autoreset_mode=mode)
    assert envs.autoreset_mode is mode and envs.metadata["autoreset_mode"] is mode
    assert gym.make_vec(ID, num_envs=1).autoreset_mode is AutoresetMode.NEXT_STEP  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    ["_max_episode_steps", "render_mode", "np_random_seed", "frames_per_step", "steps_per_second", "prompt"],
)
def test_a_fact_is_that_of_environments_one_by_one(name: str) -> None:
    ours, theirs = vector(render_mode="rgb_array"), one_by_one(render_mode="rgb_array")
    for envs in (ours, theirs):
        envs.reset(seed=3)
    assert ours.get_attr(name) == theirs.get_attr(name) == ours.call(name)


def test_spaces_and_frames_are_those_of_environments_one_by_one() -> None:
    ours, theirs = vector(render_mode="rgb_array"), one_by_one(render_mode="rgb_array")
    for envs in (ours, theirs):
        envs.reset(seed=3)
    for name in ("action_space", "observation_space"):
        assert ours.get_attr(name) == theirs.get_attr(name)
    for mine, other in zip(ours.call("render"), theirs.call("render"), strict=True):
        assert np.array_equal(mine, other)


def test_every_name_of_the_list_answers_for_every_slot() -> None:
    envs = vector()
    envs.reset(seed=0)
    for name in OF_ALL:
        assert len(envs.call(name)) == 2, name
        with pytest.raises(TypeError, match="takes no arguments"):
            envs.call(name, 1)
    for name in OF_SLOTS:
        assert len(envs.call(name, *(["a room"] if name == "set_prompt" else []))) == 2, name
    assert envs.get_attr("prompt") == ("a room", "a room")
    assert vector().call("render") == (None, None)


def test_an_unknown_name_and_a_setting_are_refused_with_the_way_out() -> None:
    envs = vector()
    with pytest.raises(AttributeError, match=r"slots have no 'rendr'.* There are render, "):
        envs.get_attr("rendr")
    with pytest.raises(AttributeError, match="slots share one world"):
        envs.set_attr("temperature", [0.0, 1.0])


@pytest.mark.parametrize(("mode", "fps"), [("rgb_array", 4), ("rgb_array_list", 16), (None, 16)])
def test_the_frame_rate_is_what_one_call_of_render_a_step_gives(mode: str | None, fps: int) -> None:
    """The twin has steps of 4 frames, 16 frames a second: `rgb_array` gives 4 a second."""
    assert gym.make(ID, render_mode=mode).metadata["render_fps"] == fps
    assert vector(render_mode=mode).metadata["render_fps"] == fps


def test_sb3_is_given_the_facts_of_slots() -> None:
    envs = SanaWMVecEnv(2, world="twin", max_episode_steps=5)
    envs.seed(7)
    envs.reset()
    assert envs.get_attr("np_random_seed") == [7, 8] and envs.get_attr("np_random_seed", [1]) == [8]
    assert envs.get_attr("_max_episode_steps", 0) == [5]
    assert envs.get_attr("action_space") == [envs.action_space] * 2


SEEDS = [2**63 - 1, np.int64(2**63 - 1), np.uint64(2**64 - 1), 2**64]


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_of_any_size_and_kind_give_equal_episodes_and_snapshots(seed: Any, tmp_path: Any) -> None:
    from wm_env.parallel import parallel_env

    env: Any = gym.make(ID).unwrapped
    seen, _ = env.reset(seed=seed)
    envs = vector()
    both, _ = envs.reset(seed=seed)
    assert np.array_equal(seen, both[0])
    listed, _ = envs.reset(seed=[seed, seed])
    assert np.array_equal(listed[1], seen)
    if seed < 2**64:
        assert np.array_equal(envs.reset(seed=np.array([seed, 1], np.uint64))[0][0], seen)
    cameras = parallel_env("multi_camera", world="twin")
    assert np.array_equal(cameras.reset(seed=seed)[0]["camera_0"], seen)
    env.snapshot().save(tmp_path / "a.safetensors")
    env.restore(wm_env.load_snapshot(tmp_path / "a.safetensors"))
    assert env.np_random_seed == int(seed)


@pytest.mark.parametrize(
    ("scene", "drawn"),
    [
        (np.int64(3), {3}),
        (np.array(3), {3}),
        (range(3, 5), {3, 4}),
        (np.arange(3, 5), {3, 4}),
        ([np.uint8(3)], {3}),
        (range(2**63 - 2, 2**63), {2**63 - 2, 2**63 - 1}),
        (range(7, 0, -3), {7, 4, 1}),
    ],
)
def test_numpy_integers_and_ranges_are_scenes(scene: Any, drawn: set[int]) -> None:
    env: Any = gym.make(ID, scene=scene).unwrapped
    found = set()
    for seed in range(8):
        env.reset(seed=seed)
        found.add(int(env.state.scene_seed[0]))
    assert found == drawn


def test_a_range_of_all_scenes_costs_no_memory_and_an_impossible_one_is_refused() -> None:
    gym.make(ID, scene=range(2**63)).reset(seed=0)
    for scene in (range(2**63 + 1), range(-1, 4), range(4, 4)):
        with pytest.raises(ValueError, match="scene="):
            gym.make(ID, scene=scene)


def test_sizes_and_limits_are_taken_as_numpy_integers() -> None:
    env: Any = gym.make(ID, obs_size=np.int64(84)).unwrapped
    assert env.observation_space.shape == (84, 84, 3)
    assert gym.make(ID, obs_size=np.array([32, 48])).observation_space.shape == (32, 48, 3)
    envs = wm_env.SanaWMVectorEnv(np.int64(2), world="twin", max_episode_steps=np.int32(1))  # type: ignore[arg-type]
    envs.reset(seed=0)
    assert envs.step([np.int64(1), 2])[3].all()
    with pytest.raises(ValueError, match="max_episode_steps='3' must be an integer or None"):
        wm_env.SanaWMVectorEnv(2, world="twin", max_episode_steps="3")  # type: ignore[arg-type]


@pytest.mark.parametrize("clip", [3, 3.5, None, {}, [1], np.zeros(3)])
def test_what_is_no_clip_is_one_sentence(clip: Any) -> None:
    env: Any = gym.make(ID).unwrapped
    envs: Any = vector()
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"a clip is a PosedClip or the path of one, not a \w+"):
        env.observe(clip)
    with pytest.raises(ValueError, match="for 2 envs; give a list with a clip or None for each"):
        envs.observe(clip)

"""Contexts through every interface: recordings and replay, Stable-Baselines3, PettingZoo, the checkers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from pettingzoo.test import parallel_api_test
from stable_baselines3.common.env_checker import check_env

from wm_env import contexts
from wm_env.agents.scripted import make_policy
from wm_env.env import SanaWMEnv
from wm_env.episodes import ResetOptions, draw_episode
from wm_env.export.episode import load_recording, play_episode, replay, save_recording
from wm_env.model.data.posed_clip import PosedClip
from wm_env.parallel import parallel_env
from wm_env.sb3 import SanaWMVecEnv
from wm_env.worlds import load_world


def short_clip(frames: int = 9) -> PosedClip:
    """Return the last frames of a scene's walk as a clip, in axes of its own."""
    spec = load_world("tiny").spec
    episode = draw_episode(np.random.default_rng(2), ResetOptions(context="walk"), spec, 1.0)
    assert episode.context is not None
    seen = episode.context.load()
    shift = np.eye(4)
    shift[:3, 3] = 3, 1, 2
    camera = np.array(episode.intrinsics)
    return PosedClip(seen.frames[-frames:], shift @ seen.c2w[-frames:], camera, 16.0, caption="a red room")


@pytest.mark.parametrize("kind", ["turn", "clip"])
def test_a_recording_carries_its_context_and_replays(kind: str, memory_world: str, tmp_path: Path) -> None:
    context = short_clip() if kind == "clip" else kind
    env = SanaWMEnv(world=memory_world, action_type="multikeys", context=context)
    recording = play_episode(env, make_policy("wander", 0), seed=5, steps=2)
    assert recording.facts["context_frames"] == (9 if kind == "clip" else 101)
    again = load_recording(save_recording(recording, tmp_path / "episode"))
    assert (again.context is not None) == (kind == "clip")
    assert again.facts == recording.facts
    contexts.forget()
    assert np.array_equal(replay(again), recording.frames)
    if again.context is not None:
        assert again.facts["prompt"] == "a red room"
        assert np.array_equal(again.context.frames[-1], recording.frames[0])


@pytest.mark.slow
def test_sb3_finds_nothing_to_say_and_its_slots_are_solo_episodes(memory_world: str) -> None:
    settings: dict[str, Any] = {"world": memory_world, "context": "walk"}
    check_env(SanaWMEnv(**settings))
    envs = SanaWMVecEnv(2, max_episode_steps=2, **settings)
    envs.seed(3)
    start = envs.reset()
    assert [info["context_frames"] for info in envs.reset_infos] == [101, 101]
    solo = SanaWMEnv(**settings)
    assert np.array_equal(start[1], solo.reset(seed=4)[0])
    envs.step(np.array([1, 4]))
    seen = envs.step(np.array([1, 4]))
    solo.step(4)
    last = seen[3][1]["terminal_observation"].astype(int)
    assert np.abs(last - solo.step(4)[0]).max() <= 1
    assert [info["context_frames"] for info in envs.reset_infos] == [101, 101]  # of the episode that follows


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shared_camera", "multi_camera"])
def test_pettingzoo_finds_nothing_to_say(mode: Any, memory_world: str) -> None:
    env = parallel_env(mode, world=memory_world, context=short_clip(), max_episode_steps=3)
    parallel_api_test(env, num_cycles=8)
    _, infos = env.reset(seed=1)
    assert {info["context_frames"] for info in infos.values()} == {9}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["turn", "clip"])
def test_gymnasium_finds_nothing_to_say(kind: str, memory_world: str) -> None:
    context = short_clip() if kind == "clip" else kind
    gymnasium_check(SanaWMEnv(world=memory_world, context=context), skip_render_check=True)

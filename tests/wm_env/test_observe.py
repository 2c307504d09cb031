"""True frames shown to a running episode: the camera moves there, and nothing else changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

import wm_env
from wm_env import contexts
from wm_env.core import State
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.metrics import psnr
from wm_env.model.scenes.raycast import render
from wm_env.model.state import select
from wm_env.tasks import Explore, Follow, PointNav
from wm_env.worlds import load_world


def make(world: str = "tiny", **settings: Any) -> gym.Env[Any, Any]:
    return gym.make("SanaWM-v0", disable_env_checker=True, world=world, **settings)


def filmed(state: State, poses: torch.Tensor, slot: int = 0) -> PosedClip:
    """Return what the scene of an episode shows along poses `(F, 4, 4)` relative to its start."""
    own = select(state, [slot])
    frames, _ = render(own.scene, (own.start_c2w[0] @ poses)[None], own.intrinsics, 64, 64)
    return PosedClip(frames[0].numpy(), poses.numpy(), own.intrinsics[0].numpy(), 16.0)


def sidestep(frames: int = 9) -> torch.Tensor:
    """Return poses `(frames, 4, 4)` that turn to the right while they go a little to the left."""
    poses = contexts.turn(4)[:frames].clone()
    poses[:, 0, 3] = -0.02 * torch.arange(frames)
    return poses


@pytest.mark.parametrize("world", ["tiny", "tiny-pure"])
def test_the_camera_is_at_the_last_pose_at_rest_and_the_counters_go_on(world: str) -> None:
    env = make(world, obs_type="rgb_sequence", action_type="multikeys").unwrapped
    env.reset(seed=4)
    for _ in range(2):
        env.step(np.array([1, 0, 0, 0, 0, 0, 0, 0], np.int8))
    before = env.state
    assert before.motion.velocity.abs().max() > 0
    clip = filmed(before, sidestep(10))
    seen, info = env.observe(clip)
    after = env.state
    assert np.array_equal(seen, clip.frames[-4:])  # true frames with their own poses
    assert np.array_equal(info["c2w_frames"], clip.c2w[-4:])
    assert info["chunk_index"] == 2 and info["context_frames"] == 8  # two that fill no chunk are dropped
    assert np.array_equal(after.motion.c2w[0].numpy(), clip.c2w[-1])
    assert after.motion.velocity.abs().max() == 0 and not after.motion.held.any()
    assert torch.equal(after.world.chunk, before.world.chunk)  # the noise goes on
    assert torch.equal(after.world.seed, before.world.seed)
    _, info = env.step(np.zeros(8, np.int8))[::4]
    assert np.allclose(info["c2w"], clip.c2w[-1], atol=1e-12)  # a camera at rest stays


@pytest.mark.slow
@pytest.mark.weights
def test_what_was_shown_is_known_afterwards() -> None:
    """Three seeds, half around, PSNR to the truth: 20 to 28 dB after a turn was shown, 14 to 19 without."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for show in found:
        env = make(action_type="multikeys").unwrapped
        for seed in range(3):
            env.reset(seed=seed)
            if show:
                env.observe(filmed(env.state, contexts.turn(4)))
            key = np.zeros(8, np.int8)
            key[3] = 1
            for _ in range(12):
                env.step(key)
            state = env.state
            absolute = state.start_c2w[:, None] @ state.c2w[:, -1:]
            truth, _ = render(state.scene, absolute, state.intrinsics, 64, 64)
            found[show].append(float(psnr(state.frames[0, -1:], truth[0])[0]))
    assert np.mean(found[True]) > np.mean(found[False]) + 4


@pytest.mark.parametrize("world", ["tiny", "twin"])
def test_a_snapshot_before_and_after_goes_on_to_the_same_frames(world: str) -> None:
    env = make(world)
    env.reset(seed=5)
    env.step(1)
    clip = filmed(env.unwrapped.state, sidestep())
    before = wm_env.snapshot(env)
    env.unwrapped.observe(clip)
    shown = wm_env.snapshot(env)
    first = [env.step(1)[0] for _ in range(2)]
    wm_env.restore(env, shown)
    assert all(np.array_equal(env.step(1)[0], frame) for frame in first)
    wm_env.restore(env, before)
    env.unwrapped.observe(clip)
    assert all(np.array_equal(env.step(1)[0], frame) for frame in first)


def test_the_twin_goes_there_and_shows_its_own_frames() -> None:
    learned, twin = make().unwrapped, make("twin").unwrapped
    learned.reset(seed=6)
    twin.reset(seed=6)
    clip = filmed(learned.state, sidestep())
    black = PosedClip(np.zeros_like(clip.frames), clip.c2w, clip.intrinsics, clip.fps)
    seen, info = twin.observe(black)
    assert np.array_equal(seen, clip.frames[-1]) and info["context_frames"] == 0
    assert np.array_equal(learned.observe(clip)[1]["c2w"], info["c2w"])
    assert np.array_equal(learned.step(1)[4]["c2w"], twin.step(1)[4]["c2w"])


@pytest.mark.parametrize("task", ["explore", "pointnav", "objectnav", "imagenav", "follow"])
def test_a_jump_is_not_rewarded_and_the_next_reward_counts_from_there(task: str) -> None:
    env = make("twin", task=task, action_type="multikeys").unwrapped
    env.reset(seed=8)
    ahead = sidestep(21)
    ahead[:, 2, 3] = 0.015 * torch.arange(21)
    _, info = env.observe(filmed(env.state, ahead))
    facts = {name: info[name] for name in ("distance_to_goal", "is_success", "spl")}
    _, reward, _, _, after = env.step(np.zeros(8, np.int8))  # stands: nothing is nearer, nothing new is seen
    if task == "follow":
        path, pose = env.state.task.path[0, 1], env.state.motion.c2w[0]
        assert reward <= -float((path[:3, 3] - pose[:3, 3]).norm())
        assert int(env.state.task.step[0]) == 1
    else:
        assert reward == pytest.approx(0.0 if task == "explore" else -0.01)
        assert {name: after[name] for name in facts} == facts
    if task in ("pointnav", "objectnav", "imagenav"):
        route = env.state.task if task == "pointnav" else env.state.task.route
        assert float(route.walked[0]) == 0.0 and float(route.distance[0]) != float(route.shortest[0])


class OwnTask(Explore):
    """A task of somebody who never heard of clips."""

    moved = None


def test_a_task_without_an_answer_is_stepped_and_its_outcome_dropped() -> None:
    assert all(hasattr(task, "moved") for task in (Explore, Follow, PointNav))
    env = make("twin", task=OwnTask()).unwrapped
    env.reset(seed=8)
    _, info = env.observe(filmed(env.state, sidestep(41)))
    assert info["explored"] > 0 and env.step(0)[1] == 0.0


@pytest.mark.slow
def test_slots_are_shown_clips_of_their_own_or_none() -> None:
    envs = gym.make_vec("SanaWM-v0", num_envs=3, action_type="multikeys").unwrapped
    envs.reset(seed=11)
    forward = np.tile(np.array([1, 0, 0, 0, 0, 0, 0, 0], np.int8), (3, 1))
    envs.step(forward)
    before = envs.state
    clips = [filmed(before, sidestep(9), 0), None, filmed(before, sidestep(17), 2)]
    seen, info = envs.observe(clips)
    assert info["context_frames"].tolist() == [8, 0, 16] and info["_c2w"].tolist() == [True, False, True]
    assert np.array_equal(seen[0], clips[0].frames[-1]) and np.array_equal(seen[2], clips[2].frames[-1])
    assert np.array_equal(seen[1], before.frames[1, -1].numpy())
    after, *_ = envs.step(forward)
    for slot in (0, 2):
        env = make(action_type="multikeys").unwrapped
        env.reset(seed=11 + slot)
        env.step(forward[0])
        env.observe(clips[slot])
        assert np.abs(env.step(forward[0])[0].astype(int) - after[slot]).max() <= 1


class Refusing:
    """A world that takes no pictures."""

    def __init__(self, inner: Any, **changes: Any) -> None:
        self.inner, self.spec = inner, dataclasses.replace(inner.spec, **changes)

    def begin(self, starts: Any) -> Any:
        return self.inner.begin(starts)

    def step_chunk(self, state: Any, c2w: Any) -> Any:
        return self.inner.step_chunk(state, c2w)

    def set_prompt(self, state: Any, prompts: Any) -> Any:
        return state

    def set_noise_seed(self, state: Any, seeds: Any) -> Any:
        return state


def test_a_world_that_takes_no_clip_says_so() -> None:
    for takes, error, says in (
        (False, ValueError, "world 'own' cannot be shown a clip; use tiny, tiny-pure or the twin"),
        (True, TypeError, r"world 'own' says that it takes a context \(takes_context\) and has no observe"),
    ):
        world: Any = Refusing(load_world("twin"), name="own", takes_context=takes)
        env = gym.make("SanaWM-v0", world=world, disable_env_checker=True).unwrapped
        env.reset(seed=1)
        with pytest.raises(error, match=says):
            env.observe(filmed(env.state, sidestep()))


def test_a_clip_that_cannot_be_shown_changes_nothing(tmp_path: Path) -> None:
    env = make("twin").unwrapped
    clip = filmed(_reset(env), sidestep())
    before = env.state
    other = PosedClip(clip.frames, clip.c2w, clip.intrinsics * [1.2, 1.2, 1, 1], 16.0)
    slow = PosedClip(clip.frames, clip.c2w, clip.intrinsics, 5.0)
    for given, says in (
        (other, "taken by another camera, fx, fy, cx, cy = .* start it from a clip or picture of the same"),
        (slow, "the clip has 5 frames per second"),
        (str(tmp_path), str(tmp_path)),
    ):
        with pytest.raises(ValueError, match=says):
            env.observe(given)
    assert env.state is before
    envs = gym.make_vec("SanaWM-v0", num_envs=2, world="twin").unwrapped
    envs.reset(seed=1)
    state = envs.state
    with pytest.raises(ValueError, match="slot 1: the clip was taken by another camera"):
        envs.observe([None, other])
    with pytest.raises(ValueError, match="one clip for 2 envs; give a list"):
        envs.observe(clip)
    with pytest.raises(ValueError, match="3 clips for 2 envs"):
        envs.observe([clip, clip, None])
    assert envs.state is state


def test_an_episode_that_is_not_running_takes_no_clip() -> None:
    env = make("twin", task="pointnav").unwrapped
    clip = filmed(_reset(env), sidestep())
    ended = env.state._replace(terminated=torch.tensor([True]))
    env._state = ended
    with pytest.raises(ResetNeeded, match="the episode has ended"):
        env.observe(clip)
    with pytest.raises(ResetNeeded, match="call reset"):
        make("twin").unwrapped.observe(clip)


def test_poses_are_taken_relative_to_where_the_episode_started() -> None:
    env = make("twin").unwrapped
    clip = filmed(_reset(env), sidestep())
    start = env.state.start_c2w[0].numpy()
    absolute = PosedClip(clip.frames, start @ clip.c2w, clip.intrinsics, 16.0)
    assert np.allclose(absolute.relative_to(start).c2w, clip.c2w, atol=1e-12)
    with pytest.raises(ValueError, match=r"pose has shape \(3, 4\)"):
        clip.relative_to(start[:3])
    with pytest.raises(ValueError, match="rigid"):
        clip.relative_to(2 * start)


def _reset(env: Any) -> State:
    env.reset(seed=1)
    return env.state

"""Contexts of scene seeds: the same start, more known of it, exact like any other state."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import wm_env
from wm_env import contexts
from wm_env.episodes import ResetOptions, draw_episode
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.metrics import psnr
from wm_env.model.scenes.raycast import render
from wm_env.model.world import Start
from wm_env.worlds import load_world

WORLDS = ("tiny", "tiny-pure")


def make(**settings: Any) -> gym.Env[Any, Any]:
    return gym.make("SanaWM-v0", disable_env_checker=True, **settings)


def start_of(seed: int, kind: str, world: str = "tiny") -> Start:
    spec = load_world(world).spec
    episode = draw_episode(np.random.default_rng(seed), ResetOptions(context=kind), spec, 1.0)
    return episode.start(sees_scene=False)


def test_a_turn_is_a_circle_at_the_speed_of_a_held_key() -> None:
    poses = contexts.turn(4)
    assert poses.shape == (101, 4, 4) and poses[-1].equal(torch.eye(4, dtype=torch.float64))
    steps = torch.linalg.inv(poses[:-1]) @ poses[1:]
    angle = torch.atan2(steps[:, 0, 2], steps[:, 0, 0]).rad2deg()
    assert torch.allclose(angle, torch.full_like(angle, 3.6), atol=1e-9)  # to the right, once around
    assert poses[:, :3, 3].abs().max() == 0


@pytest.mark.parametrize("kind", contexts.SCENE_CONTEXTS)
def test_a_context_is_what_the_scene_shows_along_its_poses_and_ends_at_the_start(kind: str) -> None:
    spec = load_world("tiny").spec
    episode = draw_episode(np.random.default_rng(4), ResetOptions(context=kind), spec, 1.0)
    context = episode.context
    assert context is not None and context.length == 101
    seen = context.load()
    assert seen.frames.shape == (101, 64, 64, 3) and seen.c2w.shape == (101, 4, 4)
    assert np.array_equal(seen.c2w[-1], np.eye(4)) and np.array_equal(seen.frames[-1], episode.image)
    some = [0, 37, 99]
    absolute = torch.from_numpy(episode.start_c2w @ seen.c2w[some])[None]
    camera = torch.tensor([episode.intrinsics], dtype=torch.float64)
    assert episode.scene is not None
    assert np.array_equal(render(episode.scene, absolute, camera, 64, 64)[0][0].numpy(), seen.frames[some])
    if kind == "walk":
        assert np.abs(seen.c2w[0, :3, 3]).max() > 0.2  # it began somewhere else


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_start_is_the_same_with_and_without_and_what_follows_is_not(world: str) -> None:
    plain, after = make(world=world), make(world=world, context="turn")
    (first, info), (second, told) = plain.reset(seed=3), after.reset(seed=3)
    assert np.array_equal(first, second)
    assert (info["context_frames"], told["context_frames"]) == (0, 101)
    assert info["chunk_index"] == told["chunk_index"] == 0
    assert np.array_equal(told["c2w"], np.eye(4))
    assert not np.array_equal(plain.step(4)[0], after.step(4)[0])
    again, none = after.reset(seed=3, options={"context": "none"})
    assert none["context_frames"] == 0 and np.array_equal(again, first)


@pytest.mark.slow
@pytest.mark.weights
def test_a_turn_shows_the_world_what_is_behind_the_camera() -> None:
    """Half around, seen pixels are there: 24-34 dB instead of 15-20 measured on single episodes."""
    found = {}
    for kind in ("none", "turn"):
        env = make(context=kind, action_type="multikeys")
        found[kind] = []
        for seed in range(3):
            env.reset(seed=seed)
            state = env.unwrapped.state
            key = np.zeros(8, np.int8)
            key[3] = 1  # turn to the right
            for _ in range(12):
                env.step(key)
            state = env.unwrapped.state
            absolute = state.start_c2w[:, None] @ state.c2w[:, -1:]
            truth, _ = render(state.scene, absolute, state.intrinsics, 64, 64)
            found[kind].append(float(psnr(state.frames[0, -1:], truth[0])[0]))
    assert np.mean(found["turn"]) > np.mean(found["none"]) + 4


@pytest.mark.slow
def test_a_state_after_a_context_goes_on_exactly_from_a_snapshot_and_from_the_kept_one() -> None:
    contexts.forget()
    env = make(context="turn")
    env.reset(seed=5)
    moment = wm_env.snapshot(env)
    first = [env.step(1)[0] for _ in range(2)]
    wm_env.restore(env, moment)
    assert all(np.array_equal(env.step(1)[0], frame) for frame in first)
    assert env.unwrapped.state.context_frames.tolist() == [101]
    env.reset(seed=5)  # from the state that was kept
    assert all(np.array_equal(env.step(1)[0], frame) for frame in first)


@pytest.mark.slow
def test_slots_with_contexts_of_different_length_are_solo_episodes() -> None:
    world = load_world("tiny")
    full = start_of(1, "turn")
    assert full.context is not None
    seen = full.context.load()
    cut = type(seen)(seen.frames[-21:], seen.c2w[-21:])
    short = dataclasses.replace(full.context, length=21, load=lambda: cut, key=None)
    starts = [full, dataclasses.replace(full, context=None), dataclasses.replace(full, context=short), full]
    _, together = world.begin(starts)
    pose = contexts.turn(4)[1:5][None]
    frames, _ = world.step_chunk(together, pose.expand(4, -1, -1, -1))
    for slot, start in enumerate(starts):
        _, alone = world.begin([start])
        own, _ = world.step_chunk(alone, pose)
        assert (own.frames[0].int() - frames.frames[slot].int()).abs().max() <= 1
    assert not torch.equal(frames.frames[0], frames.frames[1])
    assert not torch.equal(frames.frames[0], frames.frames[2])
    assert torch.equal(frames.frames[0], frames.frames[3])


def test_states_are_kept_up_to_a_bound_and_by_everything_that_decides_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contexts.forget()
    asked = []

    class Counting:
        spec = dataclasses.replace(load_world("twin").spec, name="counting", weights_sha256="0")

        def begin(self, starts: Any) -> tuple[Any, Any]:
            asked.append(len(starts))
            return (torch.zeros(len(starts), 4), (torch.tensor([s.noise_seed for s in starts]),))

        def set_noise_seed(self, state: Any, seeds: Any) -> Any:
            return (torch.tensor(seeds),)

    world: Any = Counting()
    one, two = start_of(1, "turn"), start_of(2, "turn")
    contexts.begin(world, [one, two])
    _, state = contexts.begin(world, [two, dataclasses.replace(one, noise_seed=77)])
    assert asked == [2] and state[0].tolist() == [two.noise_seed, 77]
    contexts.begin(world, [dataclasses.replace(one, prompt="fog"), dataclasses.replace(one, temperature=0.5)])
    assert asked == [2, 2]
    contexts.begin(world, [dataclasses.replace(one, context=None), start_of(1, "walk"), one])
    assert asked == [2, 2, 2]
    monkeypatch.setattr(contexts, "KEPT_BYTES", 1)
    contexts.begin(world, [start_of(3, "turn")])
    assert len(contexts._kept) == 1
    contexts.begin(world, [one])
    assert asked == [2, 2, 2, 1, 1]
    contexts.forget()


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        (
            {"context": "spin"},
            {},
            "unknown context 'spin'; valid are none, turn, walk, a PosedClip or the path of one",
        ),
        ({}, {"context": "spin"}, "unknown context 'spin'"),
        ({}, {"context": 3}, "context=3 is not a string"),
        (
            {"context": "turn"},
            {"image": np.zeros((64, 64, 3), np.uint8)},
            "context='turn' is of a scene and an image has none",
        ),
    ],
)
def test_a_context_that_cannot_be_is_refused_and_nothing_changes(
    settings: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        env = make(**settings)
        env.unwrapped.reset(seed=1, options=options)


def test_the_twin_takes_the_setting_and_needs_nothing() -> None:
    twin = gym.make("SanaWM-Twin-v0", context="turn")
    plain = gym.make("SanaWM-Twin-v0")
    (a, info), (b, _) = twin.reset(seed=2), plain.reset(seed=2)
    assert np.array_equal(a, b) and info["context_frames"] == 0
    assert np.array_equal(twin.step(1)[0], plain.step(1)[0])


def clip_of(seed: int) -> tuple[PosedClip, Start]:
    """Return the turn of a scene seed as a clip somebody filmed, and the start it belongs to."""
    start = start_of(seed, "turn")
    assert start.context is not None
    seen = start.context.load()
    return PosedClip(seen.frames, seen.c2w, np.array(start.intrinsics), 16.0, caption=start.prompt), start


@pytest.mark.slow
def test_a_turn_saved_by_one_and_loaded_by_another_gives_the_frames_of_the_turn(tmp_path: Path) -> None:
    scene = make(context="turn")
    expected, _ = scene.reset(seed=3)
    state = scene.unwrapped.state
    poses = contexts.turn(4)
    frames, _ = render(state.scene, (state.start_c2w[0] @ poses)[None], state.intrinsics, 64, 64)
    camera, prompt = state.intrinsics[0].numpy(), scene.unwrapped.prompt
    PosedClip(frames[0].numpy(), poses.numpy(), camera, 16.0, caption=prompt).save(tmp_path / "turn")
    filmed = make(context=str(tmp_path / "turn"), noise_seed=int(state.noise_seed[0]))
    first, info = filmed.reset(seed=0)
    assert info["context_frames"] == 101 and "collision" not in info  # a clip has no true scene
    assert filmed.unwrapped.prompt == prompt
    assert np.array_equal(first, expected)
    for action in (4, 4, 1):
        assert np.array_equal(filmed.step(action)[0], scene.step(action)[0])


@pytest.mark.slow
def test_a_clip_is_a_start_of_its_own_for_every_slot_and_one_reset() -> None:
    clip, _ = clip_of(3)
    short = PosedClip(clip.frames[-24:], clip.c2w[-24:], clip.intrinsics, 16.0)
    envs = gym.make_vec("SanaWM-v0", num_envs=2, context=clip)
    seen, info = envs.reset(seed=[1, 2])
    assert info["context_frames"].tolist() == [101, 101]
    assert np.array_equal(seen[0], clip.frames[-1]) and np.array_equal(seen[1], clip.frames[-1])
    seen, info = envs.reset(seed=4, options={"context": short, "reset_mask": np.array([False, True])})
    assert info["context_frames"].tolist()[1] == 21  # three leading frames fill no chunk
    env = make(context="turn")
    _, info = env.reset(seed=1, options={"context": short})
    assert info["context_frames"] == 21 and "collision" not in info
    _, info = env.reset(seed=1)
    assert info["context_frames"] == 101 and "collision" in info


@pytest.mark.parametrize("other", ["image", "scene", "intrinsics"])
def test_a_clip_and_another_start_are_not_both_given(other: str, tmp_path: Path) -> None:
    given = {"image": np.zeros((64, 64, 3), np.uint8), "scene": 3, "intrinsics": (60.0, 60.0, 32.0, 32.0)}
    env = make()
    env.reset(seed=1)
    before = env.unwrapped.state
    clip, _ = clip_of(3)
    with pytest.raises(ValueError, match=f"either context= or {other}=, not both"):
        env.unwrapped.reset(options={"context": clip, other: given[other]})
    with pytest.raises(ValueError, match=str(tmp_path)):
        env.unwrapped.reset(options={"context": str(tmp_path)})
    assert env.unwrapped.state is before

"""One environment over every world: what a learned world is told, and what it must not change."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from playing import make, play

from wm_env.env import SanaWMEnv
from wm_env.model.dit import DiT
from wm_env.model.state import leaves
from wm_env.twin import TWIN_SPEC, TwinWorld


def test_the_twin_and_a_learned_world_start_alike(world: str) -> None:
    truth, _ = make("twin").reset(seed=9)
    image, _ = make(world).reset(seed=9)
    assert np.array_equal(image, truth)


def test_one_picture_gives_one_future_however_it_is_reached(pure_world: str) -> None:
    scene = make(pure_world, collision="ignore")
    start, info = scene.reset(seed=10)
    given = make(pure_world)
    options = {
        "image": start[0],
        "intrinsics": info["intrinsics"],
        "prompt": scene.unwrapped.prompt,
        "noise_seed": int(scene.unwrapped.state.noise_seed[0]),
    }
    again, _ = given.reset(seed=77, options=options)
    assert np.array_equal(again, start)
    assert [step[0] for step in play(given, [1, 4, 1])] == [step[0] for step in play(scene, [1, 4, 1])]


def test_a_learned_world_is_never_handed_the_scene_or_the_absolute_pose() -> None:
    told: list[Any] = []

    class Listener(TwinWorld):
        def begin(self, starts: Any) -> Any:
            told.extend(starts)
            return super().begin(starts)

    blind = Listener(dataclasses.replace(TWIN_SPEC, sees_scene=False))
    with pytest.raises(ValueError, match="needs the scene"):  # the renderer, made blind, says so
        SanaWMEnv(world=blind).reset(seed=0)
    assert told[0].scene is None and told[0].start_c2w is None


def test_tasks_and_collisions_are_the_same_in_the_twin_and_in_a_learned_world(pure_world: str) -> None:
    actions = [1, 1, 1, 4, 4, 1, 1, 1, 1, 1]
    learned, truth = make(pure_world), make("twin")
    for env in (learned, truth):
        env.reset(seed=11)
    assert [step[1:] for step in play(learned, actions)] == [step[1:] for step in play(truth, actions)]


def test_batched_learned_frames_are_within_a_grey_level_of_solo_ones(pure_world: str) -> None:
    solo = make(pure_world)
    solo.reset(seed=12)
    envs = gym.make_vec("SanaWM-v0", num_envs=3, world=pure_world, obs_type="rgb_sequence")
    envs.reset(seed=12)
    for action in (1, 4, 0):
        batched = envs.step(np.array([action, 2, 3]))[0]
        alone = solo.step(action)[0]
        assert np.abs(batched[0].astype(int) - alone).max() <= 1


@pytest.mark.weights
def test_the_twin_shows_the_truth_in_the_latents_of_a_learned_world() -> None:
    learned, twin = (gym.make("SanaWM-v0", world=world, obs_type="latent") for world in ("tiny", "twin"))
    assert learned.observation_space == twin.observation_space
    for turn in (3, 4):  # a step forward moves latents by less than what a world draws of its own
        start, true_start = learned.reset(seed=1)[0], twin.reset(seed=1)[0]
        np.testing.assert_allclose(start, true_start, atol=1e-5)
        after, true_after = learned.step(turn)[0], twin.step(turn)[0]
        moved = np.abs(true_after - true_start).mean()
        assert np.abs(after - true_after).mean() < 0.8 * moved  # nearer the truth than whence the camera came


def test_bfloat16_products_leave_the_state_in_float32_and_the_pictures_alike(memory_world: str) -> None:
    exact, coarse = (gym.make("SanaWM-v0", world=memory_world, dtype=dtype) for dtype in (None, "bfloat16"))
    assert (
        coarse.unwrapped.world is gym.make("SanaWM-v0", world=memory_world, dtype="bfloat16").unwrapped.world
    )
    for env in (exact, coarse):
        env.reset(seed=1)
        env.step(1)
    state = coarse.unwrapped.state
    assert {leaf.dtype for _, leaf in leaves(state.world)} == {
        leaf.dtype for _, leaf in leaves(exact.unwrapped.state.world)
    }
    moment = coarse.unwrapped.snapshot()
    once, other = coarse.step(3)[0], exact.step(3)[0]
    coarse.unwrapped.restore(moment)
    assert (coarse.step(3)[0] == once).all()
    difference = np.abs(once.astype(int) - other.astype(int))
    assert 0 < difference.mean() < 3  # grey levels


def test_latents_are_observed_within_finite_bounds(pure_world: str) -> None:
    env = gym.make("SanaWM-v0", world=pure_world, obs_type="latent")
    observed, _ = env.reset(seed=0)
    assert observed.dtype == np.float32 and env.observation_space.contains(observed)
    assert np.isfinite(env.observation_space.low).all()
    assert env.observation_space.contains(env.step(1)[0])


def test_gymnasium_finds_nothing_to_say_about_a_learned_world(memory_world: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("SanaWM-v0", world=memory_world).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("number", [1, 3])
def test_the_number_of_transformer_passes_does_not_depend_on_the_number_of_envs(
    number: int, memory_world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    forward = DiT.forward

    def counted(self: DiT, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(DiT, "forward", counted)
    envs = gym.make_vec("SanaWM-v0", num_envs=number, world=memory_world, max_episode_steps=2)
    envs.reset(seed=0)
    for _ in range(4):  # crosses an end and a reset of every slot
        envs.step(np.zeros(number, np.int64))
    assert len(passes) == 4

"""A refusal changes nothing, and every value of a documented range does what it says, at its ends too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from wm_env.env import SanaWMEnv
from wm_env.model.intrinsics import MAX_FOV_DEG, MIN_FOV_DEG, intrinsics_from_fov
from wm_env.vector import SanaWMVectorEnv

LONGEST = 400  # characters of an error
REFUSED: tuple[type[Exception], ...] = (ValueError, gym.error.Error, OSError)


def facts(env: Any) -> tuple[Any, ...]:
    """Return all that a refusal could change."""
    if isinstance(env, SanaWMEnv):
        return env.state, env.prompt, str(env.np_random.bit_generator.state), env.np_random_seed
    numbers = [str(generator.bit_generator.state) for generator in env._generators]
    return env.state, list(env._prompts), numbers, list(env._seeds), list(env._elapsed), list(env._ended)


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] is other[0] and one[1:] == other[1:]


RESETS: list[dict[str, Any]] = [
    {"options": True},
    {"options": 3},
    {"options": [("scene", 1)]},
    {"options": {"scene": "x" * 100_000}},
    {"options": {"scene": 2**63}},
    {"options": {"scene": [1, None]}},
    {"options": {"scene": np.zeros((2, 2), np.int64)}},
    {"options": {"noise_seed": -1}},
    {"options": {"prompt": 3}},
    {"options": {"intrinsics": {}}},
    {"options": {"intrinsics": "abcd"}},
    {"options": {"intrinsics": [10**400] * 4}},
    {"options": {"image": "x" * 5000}},
    {"options": {"image": "a\0b"}},
    {"seed": 4, "options": {"split": "test"}},
    {"seed": 4, "options": {"scene": 1, "image": np.zeros((64, 64, 3), np.uint8)}},
    {"seed": -1},
    {"seed": "x"},
    {"seed": 1.5},
]


@pytest.mark.parametrize("asked", RESETS, ids=range(len(RESETS)))
def test_a_reset_that_is_refused_changes_nothing(asked: dict[str, Any]) -> None:
    for env in (SanaWMEnv(world="twin"), SanaWMVectorEnv(2, world="twin")):
        env.reset(seed=7)
        before = facts(env)
        with pytest.raises(REFUSED) as error:
            env.reset(**asked)
        assert len(str(error.value)) < LONGEST and same(facts(env), before)


@pytest.mark.parametrize("seed", [[1, -1], [1, "x"], [1], [1, 2, 3], [1, 1.5], "12", {1, 2}, [True, "x"]])
def test_seeds_of_which_one_is_wrong_change_no_slot(seed: Any) -> None:
    env = SanaWMVectorEnv(2, world="twin")
    env.reset(seed=7)
    before = facts(env)
    with pytest.raises(REFUSED):
        env.reset(seed=seed)
    assert same(facts(env), before)


@pytest.mark.parametrize("make", [lambda: SanaWMEnv(world="twin"), lambda: SanaWMVectorEnv(2, world="twin")])
def test_a_world_that_fails_to_begin_leaves_the_random_numbers(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make()
    env.reset(seed=7)
    before = facts(env)

    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(f"{type(env).__module__}.initial", fails)
        for asked in ({}, {"seed": 8}):
            with pytest.raises(MemoryError):
                env.reset(**asked)
            assert same(facts(env), before)


@pytest.mark.parametrize("prompts", [["a"], ["a", 3], 3, {"a": 1}, [None, b"b"]])
def test_prompts_of_which_one_is_wrong_change_no_slot(prompts: Any) -> None:
    env = SanaWMVectorEnv(2, world="twin")
    env.reset(seed=7)
    before = facts(env)
    with pytest.raises(ValueError, match="prompt"):
        env.set_prompt(prompts)
    assert same(facts(env), before)


@pytest.mark.parametrize(
    "action",
    [torch.ones(3, requires_grad=True), None, "w", {}, 10**30, np.zeros(100_000), np.nan, [[1], [2, 3]]],
)
def test_an_action_that_is_refused_changes_nothing(action: Any) -> None:
    env = SanaWMEnv(world="twin", action_type="camera")
    env.reset(seed=7)
    before = facts(env)
    with pytest.raises(gym.error.InvalidAction) as error:
        env.step(action)
    assert len(str(error.value)) < LONGEST and same(facts(env), before)


def test_an_action_may_be_a_tensor_that_was_learned() -> None:
    first, second = (SanaWMEnv(world="twin", action_type="camera") for _ in range(2))
    for env in (first, second):
        env.reset(seed=7)
    a = first.step(torch.full((6,), 0.5, requires_grad=True))[0]
    np.testing.assert_array_equal(a, second.step(np.full(6, 0.5, np.float32))[0])


BAD_SETTINGS: list[dict[str, Any]] = [
    *({"temperature": value} for value in (-0.1, 1e39, np.inf, np.nan, "1", None, True)),
    *({"max_translation": value} for value in (0, -1, 10.1, np.inf, "1", True)),
    *({"max_rotation_deg": value} for value in (0, 180.1, 1e308, "1")),
    *({"obs_size": value} for value in (0, -1, 8193, 84.0, "84", True, (84,), (84, 0), (8.0, 8.0))),
    *({"threads": value} for value in (0, 1.5, "1", True, 10**6)),
    *({"scene": value} for value in (-1, 2**63, 1.0, True, (), [1, "x"])),
    *({"noise_seed": value} for value in (-1, 2**63, 1.0, True)),
]


@pytest.mark.parametrize("settings", BAD_SETTINGS, ids=str)
def test_a_setting_outside_its_range_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    for make in (SanaWMEnv, lambda **given: SanaWMVectorEnv(2, **given)):
        with pytest.raises(ValueError, match=next(iter(settings))) as error:
            make(world="twin", **settings)
        assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, 65537, None])
def test_a_number_of_environments_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="num_envs"):
        SanaWMVectorEnv(count, world="twin")


GOOD_SETTINGS: list[dict[str, Any]] = [
    *({"temperature": value} for value in (0, 1_000_000, np.float32(1), np.int64(1))),
    *({"max_translation": value, "action_type": "camera"} for value in (1e-300, 10, np.float32(0.1))),
    *({"max_rotation_deg": value, "action_type": "camera"} for value in (1e-300, 180)),
    *({"obs_size": value} for value in (1, (1, 64), np.int64(84), [84, 32], np.array([8, 9]))),
    *({"threads": value} for value in (1, np.int64(2), None)),
    *({"scene": value} for value in (0, 2**63 - 1, np.arange(3), range(3), np.int64(3), [0, 2**63 - 1])),
    *({"noise_seed": value} for value in (0, 2**63 - 1, np.int64(5))),
    *({"intrinsics": intrinsics_from_fov(degrees, 64, 64)} for degrees in (MIN_FOV_DEG, MAX_FOV_DEG)),
]


@pytest.mark.parametrize("settings", GOOD_SETTINGS, ids=str)
def test_the_ends_of_every_range_give_an_episode(settings: dict[str, Any], pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, **settings)
    seen, _ = env.reset(seed=7)
    action = np.ones(6, np.float32) if settings.get("action_type") == "camera" else 1
    seen, reward, *_ = env.step(action)
    assert seen.shape == env.observation_space.shape and np.isfinite(reward)
    assert np.isfinite(env.state.c2w.numpy()).all()
    values = [leaf for leaf in (env.state.frames.float(), env.state.latent) if leaf is not None]
    assert all(bool(torch.isfinite(leaf).all()) for leaf in values)
    futures = env.branch(2)
    futures.step([action, action])


def test_several_scenes_are_the_same_however_they_are_listed() -> None:
    found = []
    for scenes in ([4, 5, 6], (4, 5, 6), range(4, 7), np.arange(4, 7)):
        env = SanaWMEnv(world="twin", scene=scenes)
        env.reset(seed=3)
        found.append(int(env.state.scene_seed[0]))
    assert len(set(found)) == 1 and found[0] in (4, 5, 6)


def test_seeds_may_be_numpy_integers() -> None:
    first, second = SanaWMVectorEnv(2, world="twin"), SanaWMVectorEnv(2, world="twin")
    a, _ = first.reset(seed=np.array([4, 9]))
    b, _ = second.reset(seed=[4, 9])
    np.testing.assert_array_equal(a, b)

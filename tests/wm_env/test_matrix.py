"""The checker matrix: every id against every checker, mode and wrapper; slots never disturb each other."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from wm_env.registration import TASK_IDS
from wm_env.sb3 import SanaWMVecEnv

IDS = sorted(TASK_IDS)
MODES = ["next_step", "same_step", "disabled"]
# a slot that is reset alone is encoded at another batch size (docs/reference/environment.md#exactness)
GREY_LEVELS = 1
PAIRS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=4)
quick = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def settings_of(env_id: str) -> dict[str, Any]:
    return {} if env_id == "SanaWM-Twin-v0" else {"world": "twin"}


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_every_id_passes_gymnasiums_and_sb3s_checkers_without_warnings(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, **settings_of(env_id)).unwrapped, skip_render_check=True)
        check_sb3_env(gym.make(env_id, **settings_of(env_id)).unwrapped)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", IDS)
def test_every_id_is_vectorized_in_every_autoreset_mode(env_id: str, mode: str) -> None:
    envs = gym.make_vec(env_id, 2, max_episode_steps=2, autoreset_mode=mode, **settings_of(env_id))
    assert envs.metadata["autoreset_mode"] is AutoresetMode[mode.upper()]
    watched = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    observed, _ = watched.reset(seed=0)
    assert observed in envs.observation_space
    lengths = []
    for step in range(4):
        observed, rewards, terminated, truncated, info = watched.step(envs.action_space.sample())
        assert observed in envs.observation_space and rewards.dtype == np.float64
        ended = terminated | truncated
        lengths += info["episode"]["l"][ended].tolist() if ended.any() else []
        if mode == "disabled" and ended.any():
            watched.reset(options={"reset_mask": ended})
        assert ended.all() == (step in {"next_step": (1,), "same_step": (1, 3), "disabled": (1, 3)}[mode])
    assert set(lengths) == {2}
    envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_own_vectorization_works_too(env_id: str) -> None:
    envs = gym.make_vec(env_id, 2, vectorization_mode="sync", **settings_of(env_id))
    batched = gym.make_vec(env_id, 2, **settings_of(env_id))
    (one, _), (other, _) = envs.reset(seed=4), batched.reset(seed=4)
    assert _named(one).keys() == _named(other).keys()
    assert all(np.array_equal(values, _named(other)[name]) for name, values in _named(one).items())
    assert np.array_equal(envs.step(np.array([1, 4]))[1], batched.step(np.array([1, 4]))[1])


def test_async_vectorization_loads_a_world_in_every_process() -> None:
    envs = gym.make_vec("SanaWM-Twin-v0", 2, vectorization_mode="async")
    observed, _ = envs.reset(seed=0)
    assert np.array_equal(observed[1], gym.make("SanaWM-Twin-v0").reset(seed=1)[0])
    envs.close()


def test_gymnasiums_vector_wrappers_run_on_it() -> None:
    for wrapper in (
        gym.wrappers.vector.NormalizeObservation,
        gym.wrappers.vector.NormalizeReward,
        gym.wrappers.vector.FlattenObservation,
        gym.wrappers.vector.DictInfoToList,
    ):
        envs = wrapper(gym.make_vec("SanaWM-Twin-v0", 2, max_episode_steps=2))
        envs.reset(seed=0)
        for _ in range(3):
            envs.step(np.array([1, 4]))


@pytest.mark.slow
@pytest.mark.parametrize("world", ["pure_world", "memory_world"])
def test_transformer_calls_do_not_depend_on_the_number_of_envs(
    world: str, request: pytest.FixtureRequest
) -> None:
    calls: dict[int, int] = {}
    for number in (1, 3):
        envs = SanaWMVecEnv(number, world=request.getfixturevalue(world), task="pointnav")
        envs.reset()
        count = [0]
        hook = envs.envs.world.dit.register_forward_hook(
            lambda *_, count=count: count.__setitem__(0, count[0] + 1)
        )
        for _ in range(3):
            envs.step(np.zeros(number, np.int64))
        hook.remove()
        calls[number] = count[0]
    assert calls[1] == calls[3] == 3 * len(envs.envs.world.sampler.sigmas[1:])


@pytest.mark.slow
@quick
@given(actions=PAIRS)
def test_a_slot_does_not_see_what_the_others_do(pure_world: str, actions: list[tuple[int, int]]) -> None:
    def play(others: int) -> list[bytes]:
        envs = gym.make_vec("SanaWM-v0", 2, world=pure_world)
        envs.reset(seed=3)
        return [
            envs.step(np.array([first, (second + others) % 9]))[0][0].tobytes() for first, second in actions
        ]

    assert play(0) == play(5)


@pytest.mark.slow
@quick
@given(before=PAIRS, after=PAIRS, slot=st.integers(0, 1))
def test_a_partial_reset_at_any_time_leaves_the_other_slot_as_it_was(
    pure_world: str, before: list[tuple[int, int]], after: list[tuple[int, int]], slot: int
) -> None:
    kept, reset = (gym.make_vec("SanaWM-v0", 2, world=pure_world) for _ in range(2))
    for envs in (kept, reset):
        envs.reset(seed=8)
        for pair in before:
            envs.step(np.array(pair))
    seeds = [70 if index == slot else None for index in range(2)]
    reset.reset(seed=seeds, options={"reset_mask": np.arange(2) == slot})
    fresh = gym.make_vec("SanaWM-v0", 2, world=pure_world)
    fresh.reset(seed=[70, 70])
    for pair in after:
        a, b = kept.step(np.array(pair))[0], reset.step(np.array(pair))[0]
        c = fresh.step(np.array([pair[slot], pair[slot]]))[0]
        assert np.array_equal(a[1 - slot], b[1 - slot])
        assert np.abs(b[slot].astype(int) - c[slot]).max() <= GREY_LEVELS


def _named(observed: Any) -> dict[str, np.ndarray]:
    return observed if isinstance(observed, dict) else {"view": observed}

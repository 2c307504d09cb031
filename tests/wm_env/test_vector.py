"""The vector interface: a slot is a solo episode, whatever its neighbours do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def make_envs() -> Callable[..., Any]:
    return lambda n, **kwargs: gym.make_vec("SanaWM-Twin-v0", num_envs=n, **kwargs)


def test_make_vec_picks_the_batched_environment(make_envs: Callable[..., Any]) -> None:
    envs = make_envs(3)
    assert type(envs).__name__ == "SanaWMVectorEnv"
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observed, info = envs.reset(seed=0)
    assert observed.shape == envs.observation_space.shape == (3, 64, 64, 3)
    assert info["c2w"].shape == (3, 4, 4) and info["_c2w"].all()


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=7, max_size=7))
def test_a_slot_equals_the_solo_episode_through_a_reset(
    make_envs: Callable[..., Any], actions: list[tuple[int, int]]
) -> None:
    envs = make_envs(2, max_episode_steps=4)
    batched, _ = envs.reset(seed=10)
    steps = [envs.step(np.array(pair)) for pair in actions]
    for slot in range(2):
        solo = gym.make("SanaWM-Twin-v0", max_episode_steps=4)
        observed, _ = solo.reset(seed=10 + slot)
        assert np.array_equal(observed, batched[slot])
        done = False
        for pair, (frames, rewards, terminated, truncated, infos) in zip(actions, steps, strict=True):
            if done:  # NEXT_STEP: the action after an end is ignored
                (observed, info), reward, done = solo.reset(), 0.0, False
            else:
                observed, reward, ended, cut, info = solo.step(pair[slot])
                done = ended or cut
            assert np.array_equal(observed, frames[slot]) and reward == rewards[slot]
            assert done == (terminated[slot] or truncated[slot])
            assert np.array_equal(info["c2w_frames"], infos["c2w_frames"][slot])
            assert info["chunk_index"] == infos["chunk_index"][slot]


def test_one_world_call_per_step_whatever_the_number_of_envs(make_envs: Callable[..., Any]) -> None:
    for number in (1, 5):
        envs = make_envs(number, max_episode_steps=2)
        envs.reset(seed=0)
        for _ in range(4):
            envs.step(envs.action_space.sample())
        assert envs.profile()["world_calls"] == 4


def test_partial_reset_leaves_the_other_slots_as_they_were(make_envs: Callable[..., Any]) -> None:
    kept, reset = make_envs(3), make_envs(3)
    for envs in (kept, reset):
        envs.reset(seed=0)
        envs.step(np.array([1, 4, 3]))
    mask = np.array([False, True, False])
    observed, info = reset.reset(seed=[None, 99, None], options={"reset_mask": mask})
    assert info["_c2w"].tolist() == mask.tolist()
    assert np.array_equal(observed[1], gym.make("SanaWM-Twin-v0").reset(seed=99)[0])
    actions = np.array([1, 1, 1])
    (a, *_, info_a), (b, *_, info_b) = kept.step(actions), reset.step(actions)
    for slot in (0, 2):
        assert np.array_equal(a[slot], b[slot])
        assert np.array_equal(info_a["c2w"][slot], info_b["c2w"][slot])
    assert info_b["chunk_index"].tolist() == [2, 1, 2]


def test_next_step_mode_returns_the_new_start_one_step_later(make_envs: Callable[..., Any]) -> None:
    envs = make_envs(2, max_episode_steps=2)
    envs.reset(seed=0)
    envs.step(np.array([0, 0]))
    *_, truncated, _ = envs.step(np.array([0, 0]))
    assert truncated.all()
    _, rewards, terminated, truncated, info = envs.step(np.array([1, 1]))
    assert info["chunk_index"].tolist() == [0, 0]
    assert not rewards.any() and not terminated.any() and not truncated.any()


def test_same_step_mode_hands_over_the_final_observation(make_envs: Callable[..., Any]) -> None:
    envs = make_envs(2, max_episode_steps=1, autoreset_mode="same_step")
    start, _ = envs.reset(seed=0)
    observed, _, _, truncated, info = envs.step(np.array([4, 4]))
    assert truncated.all() and info["_final_obs"].all()
    assert info["final_info"]["chunk_index"].tolist() == [1, 1]
    assert info["chunk_index"].tolist() == [0, 0]
    solo = gym.make("SanaWM-Twin-v0")
    solo.reset(seed=0)
    assert np.array_equal(info["final_obs"][0], solo.step(4)[0])
    assert not np.array_equal(observed[0], start[0])


def test_disabled_mode_demands_a_reset_of_finished_slots(make_envs: Callable[..., Any]) -> None:
    envs = make_envs(2, max_episode_steps=1, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    envs.step(np.array([0, 0]))
    with pytest.raises(ResetNeeded, match="reset_mask"):
        envs.step(np.array([0, 0]))
    envs.reset(options={"reset_mask": np.array([True, True])})
    envs.step(np.array([0, 0]))


def test_rewards_and_flags_have_gymnasiums_dtypes(make_envs: Callable[..., Any]) -> None:
    envs = make_envs(2)
    envs.reset(seed=0)
    _, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)


def test_gymnasiums_vector_wrappers_accept_it(make_envs: Callable[..., Any]) -> None:
    envs = gym.wrappers.vector.RecordEpisodeStatistics(make_envs(2, max_episode_steps=2))
    envs = gym.wrappers.vector.DictInfoToList(envs)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    infos = envs.step(envs.action_space.sample())[4]
    assert [info["episode"]["l"] for info in infos] == [2, 2]


def test_render_returns_a_frame_for_every_slot(make_envs: Callable[..., Any]) -> None:
    envs = make_envs(2, render_mode="rgb_array", obs_size=36)
    envs.reset(seed=0)
    assert [frame.shape for frame in envs.render()] == [(64, 64, 3)] * 2


def test_bad_calls_change_nothing(make_envs: Callable[..., Any]) -> None:
    envs = make_envs(2)
    with pytest.raises(ResetNeeded):
        envs.step(np.array([0, 0]))
    envs.reset(seed=0)
    before = envs.state
    for actions in (np.array([0, 9]), np.array([0]), np.array([0.0, 1.0]), "ww"):
        with pytest.raises(InvalidAction):
            envs.step(actions)
    for mask in ([True, False], np.array([1, 0]), np.array([True]), np.array([False, False])):
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="seeds"):
        envs.reset(seed=[1])
    assert envs.state is before
    envs.close()
    with pytest.raises(ClosedEnvironmentError):
        envs.step(np.array([0, 0]))


def test_an_unknown_autoreset_mode_names_the_valid_ones(make_envs: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="next_step, same_step, disabled"):
        make_envs(2, autoreset_mode="sometimes")

"""Evaluation: one result per seed, the same whatever the batch, and honest intervals."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from wm_env.agents.evaluate import (
    FIRST_SEED,
    EpisodeResult,
    RandomAgent,
    ScriptedAgent,
    evaluate,
    summarize,
    wilson,
)
from wm_env.agents.scripted import go_to_goal, make_policy
from wm_env.core import State
from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS


def expert() -> ScriptedAgent:
    return ScriptedAgent(lambda seed: make_policy("goal", seed), seed=0)


def score_expert(seeds: list[int], num_envs: int) -> list[EpisodeResult]:
    return evaluate(
        expert(), seeds, num_envs=num_envs, max_episode_steps=80,
        world="twin", task="pointnav", action_type="multikeys",
    )  # fmt: skip


@pytest.mark.slow
def test_the_expert_reaches_pointnav_goals_in_the_twin() -> None:
    results = score_expert([FIRST_SEED + i for i in range(20)], num_envs=10)
    score = summarize(results)
    assert score.success.mean >= 0.95  # of 100 seeds: see docs/performance/agents.md
    assert score.spl.mean > 0.8


@pytest.mark.slow
def test_results_do_not_depend_on_how_many_slots_play() -> None:
    seeds = [3, 1, 4, 1, 5]
    alone, together = score_expert(seeds, 1), score_expert(seeds, 3)
    assert [result.seed for result in together] == seeds
    for one, other in zip(alone, together, strict=True):
        assert one.steps == other.steps and one.success == other.success
        assert one.reward == pytest.approx(other.reward, abs=1e-9)


def bumping(state: State) -> str:
    """Walk ahead for eight steps, into whatever is there, then to the goal."""
    return "w" if int(state.chunk[0]) < 8 else go_to_goal(state)


@pytest.mark.slow
def test_results_are_the_episodes_that_gymnasium_plays() -> None:
    seeds, limit = [9, 4, 7, 2, 5], 40
    settings = {"world": "twin", "task": "pointnav", "action_type": "multikeys"}
    agent = ScriptedAgent(lambda _: bumping, seed=0)
    results = evaluate(agent, seeds, num_envs=2, max_episode_steps=limit, **settings)
    env = gym.make("SanaWM-v0", max_episode_steps=limit, **settings)
    for seed, result in zip(seeds, results, strict=True):
        _, first = env.reset(seed=seed)
        rewards, places, bumps, done = [], [np.zeros((1, 3))], 0, False
        while not done:
            keys = bumping(env.unwrapped.state)
            held = np.array([key in keys for key in KEYS], np.int8)
            _, reward, terminated, truncated, info = env.step(held)
            rewards.append(reward)
            places.append(info["c2w_frames"][:, :3, 3])
            bumps += info["collision"]
            done = terminated or truncated
        legs = np.diff(np.concatenate(places), axis=0)
        assert result == EpisodeResult(
            seed=seed,
            reward=pytest.approx(sum(rewards)),
            steps=len(rewards),
            success=info["is_success"],
            spl=pytest.approx(info["spl"]),
            distance=pytest.approx(info["distance_to_goal"]),
            collisions=bumps,
            start_distance=pytest.approx(first["distance_to_goal"]),
            walked=pytest.approx(np.linalg.norm(legs, axis=1).sum()),
            rewards=pytest.approx(rewards),
        )
    assert {result.success for result in results} == {True, False}
    assert len({result.collisions for result in results}) > 1


def test_an_agent_is_told_which_slots_begin_an_episode() -> None:
    told = []

    class Still:
        def __call__(self, observations: Any, state: State, starts: np.ndarray) -> np.ndarray:
            told.append(starts.tolist())
            assert (np.asarray(state.chunk) == 0).tolist() == starts.tolist()
            return np.zeros(len(starts), np.int64)

    evaluate(Still(), [1, 2, 3, 4], num_envs=2, max_episode_steps=3, world="twin")
    assert told == [[True, True], [False, False], [False, False]] * 2


def test_a_scripted_agent_makes_a_fresh_walker_for_every_episode() -> None:
    made = []
    agent = ScriptedAgent(lambda seed: made.append(seed) or (lambda _: ""), seed=7)
    evaluate(agent, [1, 2, 3], num_envs=1, max_episode_steps=2, world="twin", action_type="multikeys")
    assert made == [7, 8, 9]


def test_a_random_agent_repeats_itself_for_the_same_seed() -> None:
    space = SanaWMEnv(world="twin").action_space
    (first,), (again,), (other,) = (
        evaluate(RandomAgent(space, seed), [2], max_episode_steps=8, world="twin") for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (45, 50)])
def test_wilson_bounds_solve_their_equation(successes: int, trials: int) -> None:
    rate, low, high = wilson(successes, trials)
    assert rate == successes / trials
    for bound in (low, high):
        if 0 < bound < 1:
            expected = 1.959964 * math.sqrt(bound * (1 - bound) / trials)
            assert abs(rate - bound) == pytest.approx(expected, rel=1e-6)
    assert 0 <= low <= rate <= high <= 1


def test_a_score_averages_its_episodes() -> None:
    results = [
        EpisodeResult(0, 10.0, 20, True, 0.5, 0.2, 1, 3.0, 6.0, (10.0,)),
        EpisodeResult(1, -1.0, 40, False, 0.0, 3.0, 2, 3.0, 1.0, (-1.0,)),
    ]
    score = summarize(results)
    assert (score.episodes, score.success.mean, score.spl.mean, score.reward.mean) == (2, 0.5, 0.25, 4.5)
    assert (score.mean_steps, score.mean_distance, score.collisions_per_step) == (30, 1.6, 0.05)
    assert set(score.to_dict()["success"]) == {"mean", "lo", "hi"}
    unreachable = results[0]._replace(distance=math.inf)
    assert summarize([*results, unreachable]).mean_distance == 1.6  # of those that have one


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        evaluate(expert(), [], max_episode_steps=8, world="twin")
    with pytest.raises(ValueError, match="max_episode_steps=0 must be at least 1"):
        evaluate(expert(), [1], max_episode_steps=0, world="twin")
    with pytest.raises(ValueError, match="no proportion"):
        wilson(3, 2)

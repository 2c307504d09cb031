"""Planning on branched states: what is imagined in the twin is what happens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from wm_env.agents.planning import Plan, Planner, imagine, plan
from wm_env.env import SanaWMEnv

SMALL = Planner(candidates=4, horizon=2, hold=1, rounds=2, elites=2)
WANTED = np.array([7, 0, 3, 8, 1])
Drawn = list[np.ndarray]


def pointnav(seed: int = 0) -> SanaWMEnv:
    env = SanaWMEnv(world="twin", task="pointnav")
    env.reset(seed=seed)
    return env


def carry_out(env: SanaWMEnv, found: Plan, hold: int) -> float:
    total = 0.0
    for action in found.actions.repeat(hold):
        _, reward, terminated, _, _ = env.step(action)
        total += reward
        if terminated:
            break
    return total


@pytest.mark.parametrize("rounds", [1, 2])  # random shooting and CEM
def test_a_plan_in_the_twin_earns_what_it_promised(rounds: int) -> None:
    env = pointnav()
    found = plan(env, Planner(candidates=6, horizon=3, hold=2, rounds=rounds, elites=3), _random(0))
    assert found.actions.shape == (3,) and found.values.shape == (rounds,)
    assert carry_out(env, found, hold=2) == pytest.approx(found.value, abs=1e-9)


def test_planning_leaves_the_moment_as_it_is() -> None:
    env, control = pointnav(), pointnav()
    plan(env, SMALL, _random(0))
    assert np.array_equal(env.step(1)[0]["image"], control.step(1)[0]["image"])


def test_imagined_futures_end_with_the_episode() -> None:
    env = pointnav()
    moment, route = env.snapshot(), env.state.task
    here = {"task.goal": route.position.clone(), "task.distance": torch.zeros_like(route.distance)}
    assert here.keys() <= moment.tensors.keys()
    env.restore(dataclasses.replace(moment, tensors={**moment.tensors, **here}))  # any step succeeds here
    values = imagine(env, np.zeros((2, 4), np.int64), hold=3)
    assert values == pytest.approx([10.0 - 0.01] * 2)


@pytest.mark.slow
def test_cem_finds_better_plans_round_by_round_and_never_loses_the_best() -> None:
    found = plan(pointnav(3), Planner(candidates=16, horizon=2, hold=3, rounds=3, elites=3), _random(1))
    assert found.values[-1] > found.values[0]
    assert found.value >= found.values.max()


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """The candidates of every round; imagined returns are how many decisions are those of `WANTED`."""
    drawn: Drawn = []

    def returns(env: SanaWMEnv, actions: np.ndarray, *_: object) -> np.ndarray:
        drawn.append(actions)
        return (actions == WANTED[: actions.shape[1]]).sum(1) - 10.0 * (len(drawn) > 6)

    monkeypatch.setattr("wm_env.agents.planning.imagine", returns)
    return drawn


def test_cem_draws_each_decision_from_the_shares_of_the_elites(rounds: Drawn) -> None:
    settings = Planner(candidates=60, horizon=5, rounds=6, elites=6)
    assert np.array_equal(plan(pointnav(), settings, _random(0)).actions, WANTED)  # one of 9^5
    rounds.clear()
    plan(pointnav(), dataclasses.replace(settings, rounds=2, elites=1, smooth=0.0), _random(0))
    best = rounds[0][(rounds[0] == WANTED).sum(1).argmax()]
    assert (rounds[1] == best).all()
    rounds.clear()
    plan(pointnav(), Planner(candidates=4000, horizon=2, rounds=2, elites=1, smooth=0.5), _random(0))
    share = (rounds[1] == WANTED[:2]).mean(0)
    assert share == pytest.approx(0.5 + 0.5 / 9, abs=0.03)  # 4 standard errors


def test_a_plan_is_the_best_of_all_rounds_not_of_the_last(rounds: Drawn) -> None:
    found = plan(pointnav(), Planner(candidates=60, horizon=5, rounds=8, elites=6), _random(0))
    assert np.array_equal(found.actions, WANTED) and found.value == 5.0
    assert found.values[-1] < 0  # the fake returns are poor from the seventh round on


def test_futures_are_branched_with_the_noise_of_the_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    env, asked = pointnav(), []
    branch = env.branch

    def spied(number: int, noise: str) -> object:
        asked.append((number, noise))
        return branch(number, noise=noise)

    monkeypatch.setattr(env, "branch", spied)
    for noise in ("independent", "shared"):
        plan(env, dataclasses.replace(SMALL, rounds=1, noise=noise), _random(0))
    assert asked == [(4, "independent"), (4, "shared")]


def test_the_same_generator_gives_the_same_plan() -> None:
    first, again = (plan(pointnav(), SMALL, _random(5)) for _ in range(2))
    assert np.array_equal(first.actions, again.actions) and first.value == again.value


def test_planning_works_inside_a_learned_world(pure_world: str) -> None:
    env = SanaWMEnv(world=pure_world, task="pointnav")
    env.reset(seed=0)
    found = plan(env, Planner(candidates=8, horizon=2, hold=2, rounds=1, elites=1), _random(0))
    future = env.branch(1, noise="shared")
    by_hand = sum(float(future.step([action])[1][0]) for action in found.actions.repeat(2))
    assert found.value == pytest.approx(by_hand, abs=1e-9) and abs(by_hand) > 0.1


def test_impossible_planners_and_action_types_are_refused() -> None:
    with pytest.raises(ValueError, match="elites=6 cannot exceed candidates=4"):
        Planner(candidates=4)
    with pytest.raises(ValueError, match="horizon=0"):
        Planner(horizon=0)
    env = SanaWMEnv(world="twin", action_type="camera")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action_type 'keys'"):
        plan(env, SMALL, _random(0))


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)

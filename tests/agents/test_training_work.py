"""The bar of `agent train` counts the last update, the scores and the film, and its estimates hold."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest

from wm_env.agents.training_work import Plan, TrainingBar
from wm_env.progress import Bar

FACTOR, AFTER = 2.0, 10.0  # what an estimate may be off by, after so many seconds


def plan(**changes: int) -> Plan:
    usual = {"learned": 0, "steps": 20_000, "slots": 16, "rollout": 2048, "every": 5000, "scored": 2}
    return Plan(**{**usual, "episodes": 50, "limit": 120, **changes})


def played(plan: Plan, ends: float, collect: float, learn: float) -> list[tuple[float, float, float, float]]:
    """Return (time, estimated seconds left, done, total) of a run on a clock that is turned here.

    ends: chance of an episode's end a step. collect, learn: seconds of a batch step, and of an update.
    """
    now, random = 0.0, np.random.default_rng(0)
    bar = TrainingBar(plan, functools.partial(Bar, file=io.StringIO()), clock=lambda: now)
    told: list[tuple[float, float, float, float]] = []

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def note() -> None:
        if bar.bar.seconds_left is not None:
            told.append((now, bar.bar.seconds_left, bar.bar.n, bar.bar.total or 0.0))

    def evaluate(final: bool) -> None:
        report = bar.evaluation("scoring", final)
        lengths = np.minimum(plan.limit, random.geometric(ends, plan.episodes)) if ends else plan.limit
        slots = min(plan.slots, plan.episodes)
        steps = int(np.ceil(np.sum(np.broadcast_to(lengths, plan.episodes)) / slots))
        for step in range(steps):
            report(step * slots, steps * slots, "")
            spend(collect)
            note()
        report(steps * slots, steps * slots, "")

    step = evaluated = plan.learned
    while step < plan.steps:
        for _ in range(plan.rollout // plan.slots):
            step += plan.slots
            spend(collect)
            bar.collect(step, int(random.binomial(plan.slots, ends)))
            note()
            if step - evaluated >= plan.every:
                evaluated = step
                evaluate(final=False)
        for update in range(8):
            spend(learn / 8)
            bar.learn((update + 1) / 8)
            note()
        bar.settle()
    for _ in range(plan.scored):
        evaluate(final=True)
    for frame in range(plan.limit + 1):
        spend(collect / 8)
        bar.film(frame)
        note()
    bar.finish()
    return told


SHORT = {"steps": 2000, "every": 50_000}  # one rollout: what learning costs is not known before it is over


@pytest.mark.parametrize("ends", [0.0, 0.02])
@pytest.mark.parametrize(
    ("changes", "collect", "learn"),
    [
        *(({}, 0.6, 10.0), ({}, 0.1, 60.0), ({}, 0.6, 76.0)),
        *(({"learned": 8192}, 0.6, 10.0), ({"learned": 8192}, 0.1, 60.0)),
        *((SHORT, 0.6, 10.0), (SHORT, 0.6, 76.0)),
    ],
)
def test_an_estimate_is_within_a_factor_of_two_after_ten_seconds(
    ends: float, changes: dict[str, int], collect: float, learn: float
) -> None:
    """Nine of ten of them: how long an evaluation takes is chance."""
    told = played(plan(**changes), ends, collect, learn)
    end = told[-1][0]
    begun = told[0][0]
    off = [
        max(found / (end - at), (end - at) / found)
        for at, found, _, _ in told
        if at - begun > AFTER and end - at > AFTER
    ]
    assert np.quantile(off, 0.9) < FACTOR, np.quantile(off, [0.5, 0.9, 1])


def test_nothing_is_full_before_the_film_is() -> None:
    told = played(plan(steps=4096, every=50_000), 0.0, collect=0.5, learn=64.0)
    done, total = np.array([(done, total) for _, _, done, total in told]).T
    assert (np.diff(done) >= 0).all() and (done[:-1] < total[:-1]).all()
    assert done[-1] == pytest.approx(total[-1])
    trained, scored, filmed = 4096, 2 * 0.5 * (50 * 120), 0.5 * 2 * 120  # collecting takes half the time
    assert total[-1] == pytest.approx(trained + scored + filmed, rel=0.01)


@pytest.mark.parametrize(
    ("every", "steps", "evaluations"), [(5000, 20_000, 4), (16, 64, 128), (50_000, 9, 0)]
)
def test_evaluations_are_counted_as_they_come(every: int, steps: int, evaluations: int) -> None:
    found = plan(every=every, steps=steps)
    count = evaluated = 0
    for step in range(0, found.collected, found.slots):
        assert found.evaluations_after(evaluated, step) == evaluations - count
        if step + found.slots - evaluated >= every:
            count, evaluated = count + 1, step + found.slots
    assert count == evaluations

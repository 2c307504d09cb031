"""The estimates of progress bars, on clocks that the tests turn, and what is left of a bar after a signal."""

from __future__ import annotations

import gc
import io
import itertools
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from wm_env import cli
from wm_env.agents.evaluate import RandomAgent, evaluate, steps_left
from wm_env.bench.drift import DriftSettings
from wm_env.bench.drift.rollouts import ESTIMATE
from wm_env.bench.drift.rows import TELEMETRY, drift
from wm_env.bench.fidelity import FidelitySettings
from wm_env.bench.fidelity.score import fidelity
from wm_env.bench.throughput.rows import ThroughputSettings
from wm_env.bench.throughput.score import throughput
from wm_env.env import SanaWMEnv
from wm_env.model.interrupts import Interrupted
from wm_env.progress import Bar, close_bars, over
from wm_env.worlds import resolve_world

FACTOR = 2.0  # what an estimate may be off by, after `AFTER` seconds
AFTER = 10.0


def estimates(seconds: Sequence[float], weights: Iterable[float] | None = None) -> list[tuple[float, float]]:
    """Return (estimated, true) seconds left after every move of work whose moves take `seconds`."""
    now = 0.0
    amounts = [1.0] * len(seconds) if weights is None else list(weights)
    bar = Bar(sum(amounts), "", clock=lambda: now, file=io.StringIO())
    told, lefts = [], list(itertools.accumulate(seconds[::-1]))[::-1]
    for spent, amount, left in zip(seconds, amounts, lefts, strict=True):
        now += spent
        bar.update(amount)
        if now >= AFTER and bar.seconds_left is not None:
            told.append((bar.seconds_left, left - spent))
    bar.close()
    return told


WORK = {
    "a first step that takes thirty others": [6.0] + [0.2] * 200,
    "a policy that learns between rollouts": ([0.1] * 128 + [8.0]) * 10
    + [0.1] * 128,  # the last update has no step
    "a machine that becomes busy": [0.1] * 200 + [0.18] * 400,
    "seven slow rows and a fast one": ([0.5] * 56 + [0.07] * 8) * 4,
    "steps of many lengths": np.random.default_rng(0).exponential(0.5, 400).tolist(),
    "moves of twelve seconds": [12.0] * 10,
}


@pytest.mark.parametrize("work", WORK)
def test_an_estimate_is_within_a_factor_of_two_after_ten_seconds(work: str) -> None:
    told = [(found, true) for found, true in estimates(WORK[work]) if true > AFTER]
    assert len(told) > 5
    off = [max(found / true, true / found) for found, true in told]
    assert max(off) < FACTOR, f"{max(off):.2f} at {told[int(np.argmax(off))]}"


def test_no_estimate_is_made_of_one_move_and_a_stall_lengthens_it() -> None:
    now = 0.0
    bar = Bar(100, "", clock=lambda: now, file=io.StringIO())
    assert bar.seconds_left is None
    now = 30.0
    bar.update()
    assert bar.seconds_left is None, "the wait before the first move is in no estimate"
    now = 31.0
    bar.update()
    assert bar.seconds_left == pytest.approx(98)
    now = 36.0
    assert bar.seconds_left == pytest.approx(98 * 5)
    bar.close()


def expected_and_true(random: np.random.Generator, chance: float, episodes: int) -> list[tuple[float, int]]:
    """Return (expected, true) batch steps left of an evaluation whose episodes end by chance."""
    limit, slots = 60, 8
    left = [int(min(limit, random.geometric(chance))) if chance else limit for _ in range(episodes)]
    running, waiting = [(length, 0) for length in left[:slots]], left[slots:]
    history, made, reached = [], 0, 0
    while running:
        ages = [age for _, age in running]
        history.append(steps_left(reached / max(1, made), ages, len(waiting), limit, slots))
        made += slots
        reached += sum(age + 1 == length < limit for length, age in running)
        over = sum(age + 1 == length for length, age in running)
        fresh = [(waiting.pop(0), 0) for _ in range(min(over, len(waiting)))]
        running = [(length, age + 1) for length, age in running if age + 1 < length] + fresh
    return list(zip(history, range(len(history), 0, -1), strict=True))


@pytest.mark.parametrize("chance", [0.0, 0.005, 0.03, 0.1])
def test_the_steps_of_an_evaluation_are_expected_within_a_factor_of_two(chance: float) -> None:
    """Nine of ten times, at moments ten seconds or more from the start and from the end."""
    random, steps = np.random.default_rng(0), 15  # of eight slots of `tiny` in ten seconds
    off = []
    for _ in range(20):
        history = expected_and_true(random, chance, episodes=100)
        off += [max(found / true, true / found) for found, true in history[steps:-steps]]
    assert np.quantile(off, 0.9) < FACTOR


@pytest.mark.parametrize("chance", [0.0, 0.005, 0.03, 0.1])
@pytest.mark.parametrize("episodes", [8, 16, 32])
def test_the_expectation_is_right_on_average_where_a_few_long_episodes_decide(
    chance: float, episodes: int
) -> None:
    random, after = np.random.default_rng(0), 15
    histories = [expected_and_true(random, chance, episodes) for _ in range(100)]
    moments = [history[after] for history in histories if len(history) > after]
    found, true = np.mean(moments, axis=0)
    assert max(found / true, true / found) < FACTOR


def test_an_evaluation_reports_every_batch_step() -> None:
    told: list[tuple[int, float, str]] = []
    space = SanaWMEnv(world="twin").action_space
    evaluate(
        RandomAgent(space, 0), range(3), num_envs=2, max_episode_steps=4, world="twin", task="explore",
        report=lambda *given: told.append(given),
    )  # fmt: skip
    assert [made for made, _, _ in told] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert {in_all for _, in_all, _ in told} == {16.0}
    assert [told[0][2], told[-1][2]] == ["0 of 3 episodes", "3 episodes"]


@pytest.mark.slow
def test_benchmarks_report_every_step_of_what_they_said(memory_world: str) -> None:
    world = resolve_world(memory_world)
    told: list[tuple[int, int, str]] = []
    settings = FidelitySettings(
        splits=("val",), scenes=2, horizons=(4,), look_steps=1, lead_steps=1, long_steps=2, still_steps=1
    )
    fidelity({"tiny": world}, settings, "", lambda *given: told.append(given))
    steps = [done for done, _, _ in told]
    assert steps == sorted(steps) and len({total for _, total, _ in told}) == 1
    last_move = max(one - other for one, other in itertools.pairwise([*steps, told[0][1]]))
    assert last_move <= 2, "no more than the slots of one call at a time"
    told.clear()
    throughput(
        ThroughputSettings(worlds=("twin",), dtypes=(None,), batches=(1, 2), steps=2, warm_up=1, length=0),
        lambda *given: told.append(given),
    )
    assert told[-1][:2] == (9, 9)


@pytest.mark.slow
def test_the_drift_report_counts_what_it_said_and_nothing_else(memory_world: str, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    settings = DriftSettings(trajectories=("idle",), scenes=1, steps=12, pose_every=24)
    drift({"tiny": resolve_world(memory_world)}, settings, tmp_path, report=lambda *given: told.append(given))
    steps = [done for done, _, _ in told]
    assert steps == sorted(steps) and {total for _, total, _ in told} == {told[-1][0]}
    first_probe = next(done for done, _, what in told if what == "state telemetry")
    last_walked = max(done for done, _, what in told if what == "idle, scenes 0-0")
    assert first_probe - last_walked in (1, ESTIMATE), "the walks end where the telemetry begins"
    assert steps[-2] == steps[-1] - TELEMETRY, "every step was told before it was made"


def test_after_a_signal_nothing_is_drawn_any_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, words: list[str]) -> None:
        for step in over(range(9), 9, "rendering", unit="clip"):
            if step == 3:
                raise Interrupted("stopped; the same command goes on", signal.SIGINT)

    monkeypatch.setitem(vars(cli.importlib.import_module("wm_env.cli.train")), "train", interrupted)
    assert cli.run("train data", []) == 128 + signal.SIGINT
    gc.collect()
    told = capsys.readouterr().err
    assert told.endswith("\nwm-env train data: stopped; the same command goes on\n")
    assert "rendering" in told


def test_an_open_bar_is_closed_once(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(3, "open")
    bar.update()
    close_bars()
    drawn = capsys.readouterr().err
    assert "1/3" in drawn and drawn.endswith("\n")
    bar.close()
    close_bars()
    assert capsys.readouterr().err == ""

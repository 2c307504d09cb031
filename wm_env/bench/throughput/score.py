"""From timed steps to rates, latencies and the slope of step time over an episode's length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wm_env.bench.throughput.report import LengthTest, Measured, Rate, Slope
from wm_env.bench.throughput.rows import (
    BLOCK,
    Lane,
    Lengths,
    ThroughputSettings,
    gpu_peak,
    loaded,
    open_lane,
    resident_peak,
    step_lengths,
    timed_step,
)

RESAMPLES = 2000


def throughput(
    settings: ThroughputSettings, report: Callable[[int, int, str], None] | None = None
) -> Measured:
    """Return rates and latencies by world and batch size, and the length test of every world.

    report: called with (env steps of all slots done, in all, what is timed).
    """
    worlds = loaded(settings)
    total = len(worlds) * sum(settings.batches) * (settings.warm_up + settings.steps)
    total += len(worlds) * 2 * settings.length
    done = 0

    def advance(what: str, steps: int) -> None:
        nonlocal done
        done += steps
        if report is not None:
            report(done, total, what)

    rng = np.random.default_rng(settings.seed)
    lanes = [
        open_lane(name, world, batch, settings)
        for name, world in worlds.items()
        for batch in settings.batches
    ]
    for step in range(settings.warm_up + settings.steps):
        for lane in lanes:
            timed_step(lane, rng, keep=step >= settings.warm_up)
            advance(f"{lane.world}, batch {lane.batch}", lane.batch)
    rows = tuple(_rate(lane) for lane in lanes)
    for lane in lanes:
        lane.env.close()
    lengths = {
        name: length_test(step_lengths(world, settings, advance), settings)
        for name, world in (worlds.items() if settings.length else ())
    }
    return Measured(rows=rows, length=lengths, peak_rss_mib=resident_peak(), gpu_peak_mib=gpu_peak())


def _rate(lane: Lane) -> Rate:
    """Return the numbers of one lane; rates are over the median step."""
    p50, p95 = np.percentile(lane.steps, [50, 95])
    return Rate(
        world=lane.world,
        batch=lane.batch,
        steps=len(lane.steps),
        step_p50_ms=float(1e3 * p50),
        step_p95_ms=float(1e3 * p95),
        env_steps_per_s=float(lane.batch / p50),
        frames_per_s=float(lane.batch * lane.env.frames_per_step / p50),
        first_step_ms=1e3 * lane.first_step_s,
        reset_ms=1e3 * lane.reset_s,
        split_ms={part: 1e3 * float(np.median(times)) for part, times in lane.parts.items()},
        state_mib=lane.env.profile()["state_bytes"] / 2**20,
    )


def length_test(found: Lengths, settings: ThroughputSettings) -> LengthTest:
    """Return how step time and state size depend on the episode's length, at batch 1."""
    return LengthTest(
        **vars(slope_of(found.times)),
        steps=settings.length,
        state_bytes_first=found.sizes[0],
        state_bytes_last=found.sizes[-1],
        step_p50_ms=1e3 * float(np.nanmedian(found.times[:, 0])),
    )


def slope_of(times: np.ndarray, seed: int = 0) -> Slope:
    """Return b of t_long / t_fresh - 1 = a + b k with its 95% interval, in percent per 1000 steps.

    times: `(steps, 2)` seconds (long, fresh), NaN where a step does not count. The fit goes through the
    medians of blocks of 16 steps; the interval resamples blocks.
    """
    with np.errstate(invalid="ignore"):
        ratio = times[:, 0] / times[:, 1] - 1
    blocks = [ratio[i : i + BLOCK] for i in range(0, len(ratio), BLOCK)]
    points = [(BLOCK * (i + 0.5), np.nanmedian(b)) for i, b in enumerate(blocks) if np.isfinite(b).any()]
    x, y = np.array(points).T
    rng = np.random.default_rng(seed)
    slopes = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(x), size=len(x))
        if np.ptp(x[drawn]) > 0:
            slopes.append(np.polyfit(x[drawn], y[drawn], 1)[0])
    lo, hi = np.percentile(slopes, [2.5, 97.5])
    scale = 100 * 1000
    return Slope(
        percent_per_1000_steps=float(np.polyfit(x, y, 1)[0]) * scale,
        lo=float(lo) * scale,
        hi=float(hi) * scale,
        blocks=len(x),
    )

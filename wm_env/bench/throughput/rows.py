"""What a step costs: frames per second, latency, where the time goes, whether an episode's length matters.

Variants and batch sizes are interleaved step by step, so that a busy machine slows all of them alike. A step
is split by the steps of a learned world (`TimedParts`):

    dit            the transformer, with its noise
    decode         the autoencoder's decoder
    refine         the pixel refiner (worlds with a memory)
    conditioning   the rest of the world: camera rays, memory, commit
    glue           the environment around it: actions, collisions, task, observation

Length: one episode is never reset, another is reset every few steps; both are stepped in turn in one loop.
With a constant-size state their ratio stays 1:

    t_long(k) / t_fresh(k) - 1 = a + b k,      b in percent per 1000 steps with its 95% interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.model.rollout import LearnedWorld, RolloutState, View
from wm_env.model.state import DiTState
from wm_env.model.world import World
from wm_env.vector import SanaWMVectorEnv
from wm_env.worlds import resolve_world

PARTS = ("conditioning", "dit", "decode", "refine", "glue")
SETTLE = 4  # steps after a reset that fill the softmax window, left out of the length test
BLOCK = 16  # steps whose medians the slope is fitted through
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class ThroughputSettings:
    """What is timed: worlds, each in every dtype, numbers of environments, steps of each, and the length of
    the long episode. dtypes: of learned worlds; None is the world's own."""

    worlds: tuple[str, ...] = ("tiny",)
    dtypes: tuple[str | None, ...] = (None,)
    batches: tuple[int, ...] = (1, 4, 16)
    steps: int = 40
    warm_up: int = 5
    length: int = 400
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.worlds or not self.batches or min(self.batches) < 1:
            raise ValueError(f"worlds={self.worlds} and batches={self.batches} must not be empty or below 1")
        if self.steps < 2 or self.warm_up < 1:
            raise ValueError(f"steps={self.steps} must be at least 2 and warm_up={self.warm_up} at least 1")
        if self.length and self.length < 4 * BLOCK:
            raise ValueError(f"length={self.length} must be 0 (skip) or at least {4 * BLOCK} steps")


class TimedParts(LearnedWorld):
    """A learned world that adds up the seconds inside its steps; frames and states are the world's own."""

    def __init__(self, world: LearnedWorld) -> None:
        super().__init__(
            spec=world.spec, dit=world.dit, vae=world.vae, refiner=world.refiner, text=world.text,
            sampler=world.sampler, ablate=world.ablate, dtype=world.dtype,
        )  # fmt: skip
        self.seconds = {"dit": 0.0, "decode": 0.0, "refine": 0.0}

    def draw(self, state: RolloutState, view: View) -> tuple[Tensor, DiTState]:
        with self._timing("dit"):
            return super().draw(state, view)

    def decode(self, state: RolloutState, latent: Tensor) -> Tensor:
        with self._timing("decode"):
            return super().decode(state, latent)

    def refine(self, state: RolloutState, pixels: Tensor, view: View) -> Tensor:
        with self._timing("refine"):
            return super().refine(state, pixels, view)

    @contextmanager
    def _timing(self, part: str) -> Iterator[None]:
        began = self._now()
        yield
        self.seconds[part] += self._now() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass
class _Lane:
    """One environment that is being timed."""

    world: str
    batch: int
    env: SanaWMVectorEnv
    first_step_s: float
    reset_s: float
    steps: list[float]
    parts: dict[str, list[float]]


def throughput(
    settings: ThroughputSettings, report: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """Return rates and latencies by world and batch size, and the length test of every world."""
    worlds = loaded(settings)
    total = len(worlds) * len(settings.batches) * (settings.warm_up + settings.steps)
    total += len(worlds) * settings.length
    done = 0

    def advance(what: str) -> None:
        nonlocal done
        done += 1
        if report is not None:
            report(done, total, what)

    rng = np.random.default_rng(settings.seed)
    lanes = [
        _open(name, world, batch, settings) for name, world in worlds.items() for batch in settings.batches
    ]
    for step in range(settings.warm_up + settings.steps):
        for lane in lanes:
            _timed_step(lane, rng, keep=step >= settings.warm_up)
            advance(f"{lane.world}, batch {lane.batch}")
    rows = [_summary(lane) for lane in lanes]
    for lane in lanes:
        lane.env.close()
    lengths = {
        name: _length_test(name, world, settings, advance)
        for name, world in (worlds.items() if settings.length else ())
    }
    return {"rows": rows, "length": lengths, "peak_rss_mib": resident_peak(), "gpu_peak_mib": _gpu_peak()}


def loaded(settings: ThroughputSettings) -> dict[str, World]:
    """Return the worlds that are timed, by label, or by what was asked for where labels are alike."""
    found: dict[str, World] = {}
    for name in settings.worlds:
        for dtype in settings.dtypes:
            options = {} if dtype is None or name == "twin" else {"dtype": dtype}
            world = resolve_world(name, device=settings.device, **options)
            label = world.spec.label
            found[f"{name}[dtype={dtype}]" if label in found else label] = world
    return found


def _open(name: str, world: World, batch: int, settings: ThroughputSettings) -> _Lane:
    env = _make(world, batch)
    started = time.perf_counter()
    env.reset(seed=settings.seed)
    reset = time.perf_counter() - started
    started = time.perf_counter()
    env.step(np.zeros(batch, np.int64))
    first = time.perf_counter() - started
    return _Lane(name, batch, env, first, reset, [], {part: [] for part in PARTS})


def _make(world: World, batch: int) -> SanaWMVectorEnv:
    timed = TimedParts(world) if isinstance(world, LearnedWorld) else world
    return SanaWMVectorEnv(num_envs=batch, world=timed)


def _timed_step(lane: _Lane, rng: np.random.Generator, keep: bool) -> None:
    actions = rng.integers(9, size=lane.batch)
    world = lane.env.world
    before = lane.env.profile()["world_seconds"]
    if isinstance(world, TimedParts):
        world.seconds = dict.fromkeys(world.seconds, 0.0)
    seconds = _step(lane.env, actions)
    inside = dict(world.seconds) if isinstance(world, TimedParts) else {}
    if not keep:
        return
    spent = lane.env.profile()["world_seconds"] - before
    lane.steps.append(seconds)
    for part in ("dit", "decode", "refine"):
        lane.parts[part].append(inside.get(part, 0.0))
    lane.parts["conditioning"].append(spent - sum(inside.values()))
    lane.parts["glue"].append(seconds - spent)


def _step(env: SanaWMVectorEnv, actions: np.ndarray) -> float:
    started = time.perf_counter()
    env.step(actions)
    return time.perf_counter() - started


def _summary(lane: _Lane) -> dict[str, Any]:
    """Return the numbers of one lane; rates are over the median step."""
    p50, p95 = np.percentile(lane.steps, [50, 95])
    return {
        "world": lane.world,
        "batch": lane.batch,
        "steps": len(lane.steps),
        "step_p50_ms": 1e3 * p50,
        "step_p95_ms": 1e3 * p95,
        "env_steps_per_s": lane.batch / p50,
        "frames_per_s": lane.batch * lane.env.frames_per_step / p50,
        "first_step_ms": 1e3 * lane.first_step_s,
        "reset_ms": 1e3 * lane.reset_s,
        "split_ms": {part: 1e3 * float(np.median(times)) for part, times in lane.parts.items()},
        "state_mib": lane.env.profile()["state_bytes"] / 2**20,
    }


def _length_test(
    name: str, world: World, settings: ThroughputSettings, advance: Callable[[str], None]
) -> dict[str, Any]:
    """Return how step time and state size depend on the episode's length, at batch 1."""
    long, fresh = _make(world, 1), _make(world, 1)
    rng = np.random.default_rng(settings.seed)
    for env in (long, fresh):
        env.reset(seed=settings.seed)
    times = np.full((settings.length, 2), np.nan)
    sizes: list[float] = []
    for k in range(settings.length):
        if k and k % BLOCK == 0:
            fresh.reset(seed=settings.seed)
        order = ((long, 0), (fresh, 1)) if k % 2 == 0 else ((fresh, 1), (long, 0))
        action = rng.integers(9, size=1)
        for env, column in order:
            times[k, column] = _step(env, action)
        if k % BLOCK < SETTLE:
            times[k] = np.nan
        else:
            sizes.append(long.profile()["state_bytes"])
        advance(f"{world}, length")
    for env in (long, fresh):
        env.close()
    return slope_of(times) | {
        "steps": settings.length,
        "state_bytes_first": sizes[0],
        "state_bytes_last": sizes[-1],
        "step_p50_ms": 1e3 * float(np.nanmedian(times[:, 0])),
    }


def slope_of(times: np.ndarray, seed: int = 0) -> dict[str, Any]:
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
    return {
        "percent_per_1000_steps": float(np.polyfit(x, y, 1)[0]) * scale,
        "lo": float(lo) * scale,
        "hi": float(hi) * scale,
        "blocks": len(x),
    }


def resident_peak() -> float | None:
    """Return the largest resident memory of this process so far, MiB; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def _gpu_peak() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown tables."""
    titles = (
        *("world", "envs", "frames/s", "env steps/s", "p50 ms", "p95 ms", "first step ms", "reset ms"),
        *(f"{part} ms" for part in PARTS),
        "state MiB",
    )
    opening = [
        f"{report['date']}, {report['hardware']}, {report['threads']} thread(s), torch {report['torch']}.",
        "",
        *(f"Weights of `{name}`: sha256 `{digest or 'none'}`." for name, digest in report["weights"].items()),
        "",
        f"    {report['command']}",
        "",
    ]
    lines = ["# Throughput", "", *opening, "| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in report["rows"]:
        cells = [row["world"], str(row["batch"])]
        cells += [
            f"{row[key]:.1f}"
            for key in (
                *("frames_per_s", "env_steps_per_s", "step_p50_ms", "step_p95_ms"),
                *("first_step_ms", "reset_ms"),
            )
        ]
        cells += [f"{row['split_ms'][part]:.1f}" for part in PARTS] + [f"{row['state_mib']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    if report["peak_rss_mib"] is not None:
        lines += ["", f"Peak resident memory of the whole run {report['peak_rss_mib']:.0f} MiB.", ""]
    for world, found in report["length"].items():
        lines.append(
            f"`{world}`, {found['steps']} steps against a freshly reset environment in the same loop: step "
            f"time changes by {found['percent_per_1000_steps']:.2f}% per 1000 steps "
            f"[{found['lo']:.2f}, {found['hi']:.2f}]; state {found['state_bytes_first'] / 2**20:.2f} MiB at "
            f"first, {found['state_bytes_last'] / 2**20:.2f} MiB at the end."
        )
    return "\n".join([*lines, ""])

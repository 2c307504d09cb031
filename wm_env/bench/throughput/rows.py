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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import RolloutState, View
from wm_env.model.state import DiTState
from wm_env.model.world import World
from wm_env.vector import SanaWMVectorEnv
from wm_env.worlds import resolve_world

PARTS = ("conditioning", "dit", "decode", "refine", "glue")
SETTLE = 4  # steps after a reset that fill the softmax window, left out of the length test
BLOCK = 16  # steps whose medians the slope is fitted through


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
class Lane:
    """One environment that is being timed."""

    world: str
    batch: int
    env: SanaWMVectorEnv
    first_step_s: float
    reset_s: float
    steps: list[float]
    parts: dict[str, list[float]]


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


def open_lane(name: str, world: World, batch: int, settings: ThroughputSettings) -> Lane:
    env = _make(world, batch)
    started = time.perf_counter()
    env.reset(seed=settings.seed)
    reset = time.perf_counter() - started
    started = time.perf_counter()
    env.step(np.zeros(batch, np.int64))
    first = time.perf_counter() - started
    return Lane(name, batch, env, first, reset, [], {part: [] for part in PARTS})


def _make(world: World, batch: int) -> SanaWMVectorEnv:
    timed = TimedParts(world) if isinstance(world, LearnedWorld) else world
    return SanaWMVectorEnv(num_envs=batch, world=timed)


def timed_step(lane: Lane, rng: np.random.Generator, keep: bool) -> None:
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


class Lengths(NamedTuple):
    """What the length test timed.

    times: `(steps, 2)` seconds (long, fresh), NaN where a step does not count. sizes: bytes of the long
    episode's state at those that do.
    """

    times: np.ndarray
    sizes: list[float]


def step_lengths(world: World, settings: ThroughputSettings, advance: Callable[[str, int], None]) -> Lengths:
    """Return step times and state sizes of an endless episode, and of one that keeps being reset."""
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
        advance("length", 2)
    for env in (long, fresh):
        env.close()
    return Lengths(times, sizes)


def resident_peak() -> float | None:
    """Return the largest resident memory of this process so far, MiB; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    (line,) = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def gpu_peak() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None

"""Where the time goes: how many threads may be used, and a `World` that counts calls and seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wm_env.forks import check_fork
from wm_env.model.contact import RememberingWorld, Surfaces
from wm_env.model.signals import Signals, start_error, step_with_signals
from wm_env.model.state import nbytes
from wm_env.model.storage.facts import as_integer, shown, whole
from wm_env.model.world import Chunk, ObservingWorld, Start, World, WorldSpec

MOST_THREADS = 1024  # many more end the process


def check_threads(count: int | None) -> int | None:
    """Return `count`, or raise `ValueError` where it is no number of threads."""
    if count is not None and not whole(as_integer(count), 1, MOST_THREADS):
        raise ValueError(
            f"threads={shown(count)} must be an integer and at least 1, at most {MOST_THREADS}, or None for "
            "torch's own number"
        )
    return None if count is None else int(count)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads inside, and what it used before afterwards; None changes nothing.

    One episode is too small to share out: a second thread gains little on an idle machine, and on a busy one
    the two can wait for each other for seconds. Raises `RuntimeError` as `wm_env.forks.check_fork` does.
    """
    check_fork(count or 1)
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Tally:
    """Calls and seconds since construction."""

    calls: int = 0
    seconds: float = 0.0

    def add(self, started: float) -> None:
        self.calls += 1
        self.seconds += time.perf_counter() - started


class TimedWorld:
    """The world inside, timed; states and results pass through unchanged."""

    def __init__(self, world: World) -> None:
        self.inner = world
        self.begins, self.steps = Tally(), Tally()

    @property
    def spec(self) -> WorldSpec:
        return self.inner.spec

    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, Any]:
        started = time.perf_counter()
        result = self.inner.begin(starts)
        self.begins.add(started)
        return result

    def step_chunk(self, state: Any, c2w: Tensor) -> tuple[Chunk, Any]:
        started = time.perf_counter()
        result = self.inner.step_chunk(state, c2w)
        self.steps.add(started)
        return result

    def step_with_signals(self, state: Any, c2w: Tensor) -> tuple[Chunk, Any, Signals]:
        started = time.perf_counter()
        result = step_with_signals(self.inner, state, c2w)
        self.steps.add(started)
        return result

    def start_error(self, images: Tensor, intrinsics: Tensor) -> Tensor | None:
        """Return the autoencoder's error of pictures, None in a world without one."""
        return start_error(self.inner, images, intrinsics)

    def observe(self, state: Any, frames: Tensor, c2w: Tensor) -> tuple[Chunk, Any]:
        """Show the world true frames; raise `TypeError` where it cannot look at any."""
        if not isinstance(self.inner, ObservingWorld):
            raise TypeError(
                f"world {self.spec.name!r} says that it takes a context (takes_context) and has no observe()"
            )
        return self.inner.observe(state, frames, c2w)

    def surfaces(self, state: Any) -> Surfaces | None:
        """Return what the world remembers of surfaces, None where it remembers none."""
        return self.inner.surfaces(state) if isinstance(self.inner, RememberingWorld) else None

    def set_prompt(self, state: Any, prompts: Sequence[str | None]) -> Any:
        return self.inner.set_prompt(state, prompts)

    def set_noise_seed(self, state: Any, noise_seeds: Sequence[int]) -> Any:
        return self.inner.set_noise_seed(state, noise_seeds)

    def report(self, steps: Tally, state: Any) -> dict[str, float]:
        """Return what `profile()` tells: seconds of whole env steps beside seconds inside the world."""
        return {
            "steps": steps.calls,
            "seconds": steps.seconds,
            "world_calls": self.steps.calls,
            "world_seconds": self.steps.seconds,
            "world_resets": self.begins.calls,
            "world_reset_seconds": self.begins.seconds,
            "state_bytes": 0 if state is None else nbytes(state),
        }

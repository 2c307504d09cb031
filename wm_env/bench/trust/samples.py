"""Steps of a world beside the truth: their signals and how wrong they are, what a trust model is made of.

A sample is one step of one walk. Errors of its newest frame against the renderer's, or a clip's:

    appearance   root mean squared error of colours, grey levels
    place        mean |log(z / z*)| of depth, only where the truth has depth
    cells        the same appearance error of `CELLS` cells of 8 x 8 pixels, drawn by (seed, step)

Legend: `B` walks, `N` samples, `K` pixel frames a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.walks import Tick, Walks, batches, no_steps, starts, walks
from wm_env.model.scenes.paths import trajectory
from wm_env.model.signals import CELL, disagreement, start_error
from wm_env.model.storage.facts import shown
from wm_env.model.world import Start, World, WorldSpec
from wm_env.trust import Watched, watch_start, watch_step

CELLS = 6
BINS = ((1, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 10**6))  # steps, both ends counted


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples as columns. signals: `(N,)` by name. appearance, place (NaN where unknown), step, walk `(N,)`.
    cell_signals: `(M,)` by name; cell_error, cell_of `(M,)`: the sample that a cell belongs to."""

    signals: dict[str, np.ndarray]
    appearance: np.ndarray
    place: np.ndarray
    step: np.ndarray
    walk: np.ndarray
    cell_signals: dict[str, np.ndarray]
    cell_error: np.ndarray
    cell_of: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Which walks. scenes: of every context, seeds SEED .. SEED + scenes - 1. contexts: kinds of what is
    committed before. steps: of a walk. batch: walks in one world call."""

    scenes: int = 32
    contexts: tuple[str, ...] = ("none", "turn", "walk")
    steps: int = 32
    seed: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("scenes", "steps", "batch"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        odd = [kind for kind in self.contexts if kind not in ("none", "turn", "walk")]
        if odd or not self.contexts or len(set(self.contexts)) < len(self.contexts):
            raise ValueError(f"contexts={shown(self.contexts)} must be of none, turn and walk, each once")


def truth_of(spec: WorldSpec, split: str, settings: SampleSettings) -> Walks:
    """Return the true walks of a split."""
    seeds = range(settings.seed, settings.seed + settings.scenes)
    keys = [trajectory("random_walk", settings.steps, seed) for seed in seeds]
    return walks(spec, split=split, seeds=seeds, keys=keys)


def samples_of_walks(
    world: World,
    truth: Walks,
    context: str,
    batch: int,
    tick: Tick = no_steps,
    two_draws: bool = False,
) -> Samples:
    """Return the samples of all walks after contexts of a kind.

    two_draws: with the signal "disagreement", how far two draws of every step are apart.
    """
    parts = []
    for part in batches(truth, batch):
        told = starts(world, part, context)
        parts.append(
            _samples(world, told, part.frames, part.c2w, part.depth, part.noise_seeds, tick, two_draws)
        )
    return joined(parts)


def samples_of_films(
    world: World, told: Sequence[Start], frames: Tensor, c2w: Tensor, seeds: Sequence[int], tick: Tick
) -> Samples:
    """Return the samples of films without depth: frames `(B, 1 + F, h, w, 3)`, c2w `(B, 1 + F, 4, 4)`."""
    return _samples(world, told, frames, c2w, None, seeds, tick)


def _samples(
    world: World,
    told: Sequence[Start],
    frames: Tensor,
    c2w: Tensor,
    depth: Tensor | None,
    seeds: Sequence[int],
    tick: Callable[[int], None],
    two_draws: bool = False,
) -> Samples:
    _, state = world.begin(told)
    watched = watch_start(world, told)
    rows: list[dict[str, np.ndarray]] = []
    cells: list[dict[str, np.ndarray]] = []
    errors: list[tuple[np.ndarray, ...]] = []
    K = world.spec.frames_per_step
    for step, begin in enumerate(range(1, c2w.shape[1] - K + 1, K), 1):
        tick(len(told))
        poses = c2w[:, begin : begin + K]
        apart = disagreement(world, state, poses, (seeds[0], seeds[0] + 1)) if two_draws else None
        chunk, state, watched = watch_step(world, state, watched, poses)
        last = begin + K - 1
        error = (chunk.frames[:, -1].cpu().double() - frames[:, last].double()).square().mean(-1)  # (B, h, w)
        place = torch.full((len(told),), torch.nan, dtype=torch.float64)
        if depth is not None and chunk.depth is not None:
            far = depth[:, last].double().clamp(0.4, 60)
            place = (chunk.depth[:, -1].cpu().double().clamp(0.4, 60) / far).log().abs().mean((1, 2))
        row = {name: values.numpy() for name, values in watched.signals.frame.items()}
        rows.append(row if apart is None else {**row, "disagreement": apart.numpy()})
        chosen, own = _cells(watched, error, seeds, step)
        cells.append(chosen)
        errors.append((error.mean((1, 2)).sqrt().numpy(), place.numpy(), own))
    return _table(rows, cells, errors, len(told))


def _cells(
    watched: Watched, error: Tensor, seeds: Sequence[int], step: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return signals `(B, CELLS)` of some cells, and their RMS error `(B, CELLS)`."""
    own = torch.nn.functional.avg_pool2d(error[:, None], CELL)[:, 0].flatten(1).sqrt()  # (B, G G)
    drawn = [np.random.default_rng((seed, step)).integers(own.shape[1], size=CELLS) for seed in seeds]
    index = torch.from_numpy(np.stack(drawn))
    grid = (error.shape[1] // CELL, error.shape[2] // CELL)
    told = {
        name: values.cpu().flatten(1).gather(1, index).numpy()
        for name, values in watched.signals.cells.items()
        if values.shape[1:] == grid
    }
    return told, own.gather(1, index).numpy()


def _table(
    rows: list[dict[str, np.ndarray]],
    cells: list[dict[str, np.ndarray]],
    errors: list[tuple[np.ndarray, ...]],
    batch: int,
) -> Samples:
    """Return lists over steps of values of `batch` walks as columns, walk by walk."""
    steps = len(rows)

    def column(values: list[np.ndarray]) -> np.ndarray:
        return np.stack(values, axis=1).reshape(batch * steps, *values[0].shape[1:]).astype(np.float64)

    appearance, place, cell_error = (column([one[i] for one in errors]) for i in range(3))
    return Samples(
        signals={name: column([row[name] for row in rows]) for name in rows[0]},
        appearance=appearance,
        place=place,
        step=np.tile(np.arange(1, steps + 1), batch),
        walk=np.repeat(np.arange(batch), steps),
        cell_signals={name: column([row[name] for row in cells]).reshape(-1) for name in cells[0]},
        cell_error=cell_error.reshape(-1),
        cell_of=np.repeat(np.arange(batch * steps), cell_error.shape[1]),
    )


def joined(parts: Sequence[Samples]) -> Samples:
    """Return samples of several batches as one; walks and samples are numbered on."""
    walks_before = np.cumsum([0, *(int(part.walk.max()) + 1 for part in parts)])
    before = np.cumsum([0, *(len(part) for part in parts)])

    def both(get: Callable[[Samples], np.ndarray]) -> np.ndarray:
        return np.concatenate([get(part) for part in parts])

    def columns(get: Callable[[Samples], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([get(part)[name] for part in parts]) for name in get(parts[0])}

    return Samples(
        signals=columns(lambda s: s.signals),
        appearance=both(lambda s: s.appearance),
        place=both(lambda s: s.place),
        step=both(lambda s: s.step),
        walk=np.concatenate([part.walk + n for part, n in zip(parts, walks_before, strict=False)]),
        cell_signals=columns(lambda s: s.cell_signals),
        cell_error=both(lambda s: s.cell_error),
        cell_of=np.concatenate([part.cell_of + n for part, n in zip(parts, before, strict=False)]),
    )


def start_errors(world: World, truth: Walks) -> np.ndarray:
    """Return the autoencoder's error of the start pictures `(B,)` grey levels, NaN without one."""
    found = start_error(world, truth.frames[:, 0], truth.intrinsics)
    return np.full(len(truth.prompts), np.nan) if found is None else found.double().numpy()


def plain(samples: Samples) -> dict[str, Any]:
    """Return what a row file keeps of samples: everything but the cells."""
    return {
        "signals": {name: values.tolist() for name, values in samples.signals.items()},
        "appearance": samples.appearance.tolist(),
        "place": samples.place.tolist(),
        "step": samples.step.tolist(),
        "walk": samples.walk.tolist(),
    }

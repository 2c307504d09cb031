"""What a drift benchmark measures once beside its walks: the estimator's gate, the memories, the time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.drift.bins import BINS, bin_means, bin_of
from wm_env.bench.drift.pose_estimate import Gate, gate
from wm_env.bench.drift.report import Telemetry
from wm_env.bench.drift.rollouts import DriftSettings
from wm_env.bench.drift.telemetry import (
    PERCENTILES,
    QUANTITIES,
    TelemetryRecord,
    new_telemetry,
    observe_commit,
    state_drift,
)
from wm_env.bench.row_file import write_json
from wm_env.bench.walks import Tick, Walks, roll, starts, teacher_forced, walks
from wm_env.model.metrics import psnr
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.paths import trajectory
from wm_env.model.world import World

GATE_WALKS, MEMORY_WALKS = 8, 4
MEMORY_KEYS = ("norm", "stable_rank", "effective_rank", "write_ratio", "residual", "recall")


def probe_gate(world: World, settings: DriftSettings) -> Gate:
    """Return the pose estimator's errors on damaged truth of the first scenes."""
    truth = _random_walks(world, settings, GATE_WALKS, 8)
    commanded = truth.start_c2w[:, None] @ truth.c2w
    return gate(truth.scene, truth.frames, commanded, truth.intrinsics, every=16)


def memory_steps(settings: DriftSettings) -> int:
    """Return how many env steps `probe_memories` makes."""
    return 2 * min(MEMORY_WALKS, settings.scenes) * settings.steps


def probe_memories(world: LearnedWorld, settings: DriftSettings, tick: Tick) -> Telemetry:
    """Return the state telemetry of a random walk of the first scenes, free running and with true history."""
    truth = _random_walks(world, settings, MEMORY_WALKS, settings.steps)
    told = starts(world, truth)
    free, forced = new_telemetry(world, keep_states=True), new_telemetry(world, keep_states=True)

    def watch(record: TelemetryRecord, state: Any) -> None:
        tick(len(told))
        observe_commit(record, world, state)

    shown = roll(world, told, truth.c2w, partial(watch, free))
    teacher_forced(world, told, truth, partial(watch, forced))
    drifted = state_drift(free, forced)
    return Telemetry(
        walks=len(told),
        seconds_per_chunk=world.spec.frames_per_step / world.spec.fps,
        percentiles=PERCENTILES,
        meaning=QUANTITIES,
        quantities={name: np.round(table, 6).tolist() for name, table in free.quantiles().items()},
        contraction_violations=free.violations(),
        state_drift={name: np.round(table, 6).tolist() for name, table in drifted.items()},
        next_bin=next_bin_correlations(free, shown, truth.frames),
    )


def next_bin_correlations(
    free: TelemetryRecord, shown: Tensor, truth: Tensor
) -> dict[str, int | float | None]:
    """Return Spearman's rho of what the memories do in a bin and the error, -PSNR, in the next one.

    Both are ranked within a walk (scenes differ), then pooled over walks; layers and heads are averaged.
    """
    error = np.array(
        [
            bin_means(-psnr(shown[b, 1:], truth[b, 1:]).numpy(), bin_of(shown.shape[1] - 1, BINS), BINS)
            for b in range(len(shown))
        ]
    )  # (B, bins)
    found: dict[str, int | float | None] = {"pairs": int(error[:, 1:].size)}
    for name in MEMORY_KEYS:
        chunks = torch.stack(free.values[name]).double().mean((1, 3)).numpy()  # (chunks, B)
        where = bin_of(len(chunks), BINS)
        state = np.array([bin_means(chunks[:, b], where, BINS) for b in range(chunks.shape[1])])
        found[name] = pooled_rank_correlation(state[:, :-1], error[:, 1:])
    return found


def pooled_rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the correlation of ranks within rows of `(B, n)` arrays; None where a side never changes."""
    ranks = [np.argsort(np.argsort(x, axis=1), axis=1).astype(float) for x in (a, b)]
    ranks = [x - x.mean(1, keepdims=True) for x in ranks]
    if any(np.ptp(x) < 1e-12 for x in (a, b)):
        return None
    return float((ranks[0] * ranks[1]).sum() / np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))


def add_seconds(out: Path, spent: Mapping[str, float], walked: float) -> None:
    """Add the CPU seconds that rows took for `walked` seconds of video to `out/timing.json`."""
    path = out / "timing.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for row, seconds in spent.items():
        before = table.get(row, {"cpu_s": 0.0, "video_s": 0.0})
        table[row] = {"cpu_s": before["cpu_s"] + seconds, "video_s": before["video_s"] + walked}
    write_json(path, table)


def _random_walks(world: World, settings: DriftSettings, most: int, steps: int) -> Walks:
    """Return random walks of the first scenes, at most `most`."""
    seeds = range(settings.seed, settings.seed + min(most, settings.scenes))
    keys = [trajectory("random_walk", steps, seed) for seed in seeds]
    return walks(world.spec, split=settings.split, seeds=seeds, keys=keys)

"""What a world does over whole walks: how long it is useful, what it remembers, how it obeys.

From rows to numbers, like `wm_env.bench.drift.score`, for what has no time bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_env.bench.drift.bins import BINS
from wm_env.bench.drift.report import Curve, HalfLife, Horizon, Latency, LoopClosure, MotionGain, Revisit
from wm_env.bench.drift.rollouts import CODEC, REPEAT
from wm_env.bench.drift.rows_table import Rows, entry
from wm_env.bench.drift.survival import MIN_RANGE_DB, skill, useful_horizon
from wm_env.model.metrics.appearance import COMPONENTS
from wm_env.model.metrics.camera import gain_matrix
from wm_env.model.metrics.intervals import band, kaplan_meier

MIN_GAPS = 4  # gaps between visits that a half-life is fitted to


def survival(table: Rows, name: str, edges: np.ndarray) -> Horizon | None:
    """Return the useful horizon of the walks of a row and its survival curve; None without skill."""
    times, reached = [], []
    for row in table.each(name):
        own, ends = np.array(entry(row, ["psnr"])), []
        for other in (REPEAT, CODEC):
            source = table.one(other, row["trajectory"], row["scene"])
            ends.append(np.full(BINS, np.nan) if source is None else np.array(entry(source, ["psnr"])))
        with np.errstate(invalid="ignore"):
            skills = skill(own, ends[0], ends[1])
        if np.isfinite(skills).any():
            time, happened = useful_horizon(skills, edges)
            times.append(time)
            reached.append(happened)
    if not times:
        return None
    curve = kaplan_meier(np.array(times), np.array(reached))
    return Horizon(
        median_s=curve.median(),
        walks=len(times),
        reached=int(np.sum(reached)),
        curve=Curve(t=tuple(curve.times.tolist()), alive=tuple(curve.alive.tolist())),
        rule=f"skill under 0.5 for a whole bin; not where codec - repeat < {MIN_RANGE_DB:g} dB",
    )


def revisits(table: Rows, name: str) -> tuple[Revisit, ...]:
    """Return the mean over walks of revisit scores, by gap in whole seconds."""
    gathered: dict[int, list[dict[str, Any]]] = {}
    for row in table.each(name):
        for pair in row["revisit"]:
            gathered.setdefault(max(1, round(pair["gap_s"])), []).append(pair)
    out = []
    for gap, pairs in sorted(gathered.items()):
        means: dict[str, float | None] = {}
        for key in ("itself", "control", "memory", "truth"):
            values = [pair[key] for pair in pairs if pair[key] is not None]
            means[key] = float(np.mean(values)) if values else None
        out.append(Revisit(gap_s=gap, pairs=len(pairs), **means))
    return tuple(out)


def gain(table: Rows, name: str) -> MotionGain | None:
    """Return how much of the commanded motion the judged world makes, by axis, over all its walks."""
    found = [row["pose"]["motion"] for row in table.each(name) if "motion" in row.get("pose", {})]
    if not found:
        return None
    sums = [np.sum([one[key] for one in found], axis=0) for key in ("asked_asked", "got_asked")]
    matrix, used = gain_matrix(*sums)
    axes = ("right", "down", "forward", "pitch", "yaw", "roll")
    return MotionGain(
        diagonal={axis: float(matrix[i, i]) if used[i] else None for i, axis in enumerate(axes)},
        matrix=tuple(tuple(float(x) if np.isfinite(x) else None for x in row) for row in matrix),
        meaning="realised = matrix times commanded, metres and radians between samples; 1 is right",
    )


def closures(table: Rows, name: str, seed: int) -> dict[str, LoopClosure]:
    """Return the loop-closure error of the judged world by trajectory."""
    out = {}
    for trajectory in table.trajectories:
        found = [
            row["pose"]["closure"]
            for row in table.each(name)
            if row["trajectory"] == trajectory and "closure" in row.get("pose", {})
        ]
        if found:
            degrees, share = (
                np.array([x[key] for x in found], dtype=np.float64) for key in ("deg", "share_of_path")
            )  # None: NaN
            out[trajectory] = LoopClosure(deg=band(degrees, seed), share_of_path=band(share, seed))
    return out


def half_life(found: Sequence[Revisit]) -> HalfLife | None:
    """Return the fit M(d) = M0 2^(-d / half-life) + c to a row's revisit memories, by pairs; None: too few.

    found: what `revisits` returns. The half-life is searched on a grid up to the longest gap, M0 and c are
    linear. At its end (`at_bound`) the memory outlasts what was walked.
    """
    points = [(cell.gap_s, cell.memory, cell.pairs) for cell in found if cell.memory is not None]
    if len(points) < MIN_GAPS:
        return None
    gap, memory, pairs = np.array(points, dtype=np.float64).T
    weight = np.sqrt(pairs)
    grid = np.geomspace(0.25, gap.max(), 60)
    fits = []
    for value in grid:
        design = np.stack([2 ** (-gap / value), np.ones_like(gap)], 1)
        solved, *_ = np.linalg.lstsq(design * weight[:, None], memory * weight, rcond=None)
        left = float((((design @ solved - memory) * weight) ** 2).sum())
        fits.append((left if solved[0] > 0 else np.inf, float(value), float(solved[0]), float(solved[1])))
    left, value, start, floor = min(fits)
    if not np.isfinite(left):
        return None
    total = float((((memory - np.average(memory, weights=pairs)) * weight) ** 2).sum())
    return HalfLife(
        half_life_s=value,
        at_bound=value == float(grid[-1]),
        M0_db=start,
        c_db=floor,
        r2=1 - left / total if total > 1e-12 else None,
        gaps=len(points),
        pairs=int(pairs.sum()),
    )


def latency(table: Rows, name: str, seed: int) -> Latency:
    """Return by how many frames the picture follows the command, and the correlation at that lag."""
    per_scene: dict[str, list[float]] = {"frames": [], "correlation": []}
    for scene in table.scenes:
        rows = [row["latency"] for row in table.each(name) if row["scene"] == scene]
        for key, values in per_scene.items():
            known = [one[key] for one in rows if one[key] is not None]
            values.append(float(np.mean(known)) if known else np.nan)
    return Latency(**{key: band(np.array(values), seed) for key, values in per_scene.items()})


def start_end_contrast(table: Rows, name: str) -> dict[str, float | None]:
    """Return the mean over walks of every drift15_STATISTIC, as FramePack has it."""
    rows = table.each(name)
    return {
        key: float(np.mean([row["drift15"][key] for row in rows])) if rows else None
        for key in (f"drift15_{component}" for component in COMPONENTS)
    }

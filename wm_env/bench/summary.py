"""From rows to the numbers of a drift report: means over frames, seeds, scenes, trajectories, in that order.

Intervals resample scenes, then noise seeds; families of trajectories are averaged with equal weight
(evaluation.md 2.7). What cannot be measured is None, and `nulls` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_env.bench.clip_metrics import gain_matrix
from wm_env.bench.intervals import Band, band
from wm_env.bench.rollouts import BINS, CODEC, REPEAT
from wm_env.bench.statistics import COMPONENTS, FAULTS, distance, standardise
from wm_env.bench.survival import MIN_RANGE_DB, kaplan_meier, skill, useful_horizon

ONE_VALUE = ("ssim", "mse", "mae", "freeze", "colour")


class Rows:
    """The rows of `rows.jsonl`, by row name, trajectory, scene and noise seed."""

    def __init__(self, rows: Sequence[dict[str, Any]], judged: str) -> None:
        self.judged = judged
        self.trajectories = list(dict.fromkeys(row["trajectory"] for row in rows))
        self.names = sorted({row["row"] for row in rows}, key=lambda name: (name != judged, name))
        self.scenes = sorted({row["scene"] for row in rows})
        self._by: dict[tuple[str, str, int], dict[int, dict[str, Any]]] = {}
        for row in rows:
            key = (row["row"], row["trajectory"], row["scene"])
            self._by.setdefault(key, {})[row["noise"]] = row

    def table(self, name: str, path: Sequence[str], trajectories: Sequence[str] | None = None) -> np.ndarray:
        """Return entry `path` of a row `(scenes, seeds, bins)`, mean over trajectories, NaN if absent."""
        families = [self.family(name, path, one) for one in trajectories or self.trajectories]
        with np.errstate(invalid="ignore"):
            stack = np.stack(families)
            count = np.isfinite(stack).sum(0)
            return np.where(count > 0, np.nansum(stack, 0) / np.maximum(count, 1), np.nan)

    def family(self, name: str, path: Sequence[str], trajectory: str) -> np.ndarray:
        """Return the same of one trajectory."""
        out = []
        for scene in self.scenes:
            seeds = self._by.get((name, trajectory, scene), {})
            out.append([_entry(seeds[noise], path) for noise in sorted(seeds)] or [[np.nan] * BINS])
        return np.array(out, dtype=np.float64)

    def each(self, name: str) -> list[dict[str, Any]]:
        """Return the single rows of one name."""
        return [row for key, seeds in self._by.items() if key[0] == name for row in seeds.values()]

    def one(self, name: str, trajectory: str, scene: int) -> dict[str, Any] | None:
        """Return the first seed's row, None where there is none."""
        return next(iter(self._by.get((name, trajectory, scene), {}).values()), None)


def _entry(row: dict[str, Any], path: Sequence[str]) -> list[float]:
    value: Any = row
    for key in path:
        if key not in value:
            return [np.nan] * BINS
        value = value[key]
    return [np.nan if x is None else x for x in value]


def summarise(
    rows: list[dict[str, Any]],
    judged: str,
    seconds: float,
    gate: dict[str, Any] | None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the report's numbers; gate: what the pose estimator's own test found, None if it did not run."""
    table = Rows(rows, judged)
    edges = np.linspace(0.0, seconds, BINS + 1)
    nulls = _reasons(table, gate)
    poses = "rot_err_deg" not in nulls
    others = [name for name in table.names if name != judged]
    return {
        "bins": bins_of(table, judged, edges, poses, seed),
        "baselines": {name: bins_of(table, name, edges, poses, seed) for name in others},
        "nulls": nulls,
        "gain_over": {name: _gains(table, name, seed) for name in others},
        "trajectories": {
            one: {name: bins_of(table, name, edges, poses, seed, [one]) for name in table.names}
            for one in table.trajectories
        },
        "growth": {name: _growth(table, name, edges, seed) for name in table.names},
        "statistics": _z_scores(table),
        "faults": {name: faults(z) for name, z in _z_scores(table).items()},
        "horizon_h50": {name: _survival(table, name, edges) for name in table.names},
        "revisit": {name: _revisits(table, name) for name in table.names},
        "loop_closure": _closures(table, seed) if poses else None,
        "gain": _gain(table) if poses else None,
        "pose_gate": gate,
    }


def _reasons(table: Rows, gate: dict[str, Any] | None) -> dict[str, str]:
    """Return why a metric is None."""
    nulls: dict[str, str] = {}
    if not np.isfinite(table.table(table.judged, ["psnr"])).any():
        why = "no twin: the episode starts from a picture, so there is no truth to compare with"
        return dict.fromkeys(("psnr", "ssim", "mse", "mae", "skill", "rot_err_deg", "trans_err"), why)
    if CODEC not in table.names:
        nulls["skill"] = "this world has no autoencoder, so there is no ceiling to measure skill against"
    if gate is None:
        nulls["rot_err_deg"] = nulls["trans_err"] = "pose estimation was switched off (--pose-every 0)"
    elif not gate["passed"]:
        why = (
            f"withheld: on damaged truth the estimator errs by {gate['degrees']:.2f} deg and "
            f"{100 * gate['share_of_room']:.1f}% of the room; allowed are 0.5 deg and 1%"
        )
        nulls["rot_err_deg"] = nulls["trans_err"] = why
    return nulls


def bins_of(
    table: Rows,
    name: str,
    edges: np.ndarray,
    poses: bool,
    seed: int = 0,
    trajectories: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return one dict per bin: t0, t1 (s), psnr (mean, lo, hi), skill, rot_err_deg and more."""
    psnr = table.table(name, ["psnr"], trajectories)
    repeat = _bin_average(table.table(REPEAT, ["psnr"], trajectories))
    codec = _bin_average(table.table(CODEC, ["psnr"], trajectories))
    skills = skill(_bin_average(psnr), repeat, codec)
    single = {key: table.table(name, [key], trajectories) for key in ONE_VALUE}
    motion = table.table(name, ["statistics", "motion"], trajectories)
    pose = {
        key: table.table(name, ["pose", "first", key], trajectories)
        for key in ("rot_err_deg", "trans_err", "cammc")
    }
    upstream = table.table(name, ["pose", "upstream", "rot_err_deg"], trajectories)
    lost = table.table(name, ["pose", "lost_share"], trajectories)
    out = []
    for k in range(BINS):
        cell: dict[str, Any] = {"t0": float(edges[k]), "t1": float(edges[k + 1])}
        cell["psnr"] = _interval(band(psnr[..., k], seed))
        cell["skill"] = float(skills[k]) if np.isfinite(skills[k]) else None
        for key, values in pose.items():
            cell[key] = band(values[..., k], seed).mean if poses else None
        cell["rot_err_deg_interval"] = _interval(band(pose["rot_err_deg"][..., k], seed)) if poses else None
        cell["rot_err_deg_upstream"] = band(upstream[..., k], seed).mean if poses else None
        cell["lost_share"] = band(lost[..., k], seed).mean if poses else None
        for key, values in single.items():
            cell[key] = band(values[..., k], seed).mean
        cell["motion"] = band(motion[..., k], seed).mean
        cell["n"] = int(np.isfinite(psnr[..., k]).all(-1).sum()) or len(table.scenes)
        out.append(cell)
    return out


def _interval(found: Band) -> dict[str, float | None] | None:
    return None if found.mean is None else {"mean": found.mean, "lo": found.lo, "hi": found.hi}


def _bin_average(values: np.ndarray) -> np.ndarray:
    """Return the mean over scenes and seeds `(bins,)`, NaN where there is nothing."""
    flat = values.reshape(-1, BINS)
    count = np.isfinite(flat).sum(0)
    return np.where(count > 0, np.nansum(flat, 0) / np.maximum(count, 1), np.nan)


def _gains(table: Rows, name: str, seed: int) -> list[dict[str, Any]]:
    """Return the judged world's PSNR minus the row's per bin, paired by scene (seeds averaged first)."""
    difference = table.table(table.judged, ["psnr"]).mean(1) - table.table(name, ["psnr"]).mean(1)
    return [band(difference[:, k], seed).to_dict() for k in range(BINS)]


def _growth(table: Rows, name: str, edges: np.ndarray, seed: int) -> dict[str, Any]:
    """Return how PSNR falls: first minus last bin, worst and mean drop (dB), Theil-Sen slope (dB/s)."""
    psnr = table.table(name, ["psnr"])  # (S, K, bins)
    middle = (edges[1:] + edges[:-1]) / 2
    drop = psnr[..., :1] - psnr
    i, j = np.triu_indices(BINS, 1)
    slopes = np.median((psnr[..., j] - psnr[..., i]) / (middle[j] - middle[i]), axis=-1)
    return {
        "first_minus_last": band(drop[..., -1], seed).to_dict(),
        "worst": band(drop.max(-1), seed).to_dict(),
        "auc": band(drop.mean(-1), seed).to_dict(),
        "slope_db_per_s": band(slopes, seed).to_dict(),
    }


def _z_scores(table: Rows) -> dict[str, dict[str, list[float]]]:
    """Return the signed z of every statistic per bin, and D_app, by row: against the truth, else bin 0."""
    truth = [row for row in table.each(table.judged) if "reference" in row]
    out = {}
    spread = {}
    for component in COMPONENTS:
        if truth:
            means = np.array([_entry(row, ["reference", "statistics", component]) for row in truth])
            inner = np.array([_entry(row, ["reference", "variances", component]) for row in truth])
        else:
            rows = table.each(table.judged)
            means = np.array([_entry(row, ["statistics", component])[:1] for row in rows])
            inner = np.array([_entry(row, ["variances", component])[:1] for row in rows])
        spread[component] = float(np.sqrt(np.nanmean(inner) + np.nanvar(means)))
    for name in table.names:
        z: dict[str, np.ndarray] = {}
        for component in COMPONENTS:
            parts = []
            for row in table.each(name):
                own = np.array(_entry(row, ["statistics", component]))
                reference = np.full(BINS, own[0])
                if truth:
                    source = table.one(table.judged, row["trajectory"], row["scene"])
                    assert source is not None
                    reference = np.array(_entry(source, ["reference", "statistics", component]))
                parts.append(standardise(own, reference, spread[component]))
            z[component] = np.nanmean(parts, axis=0)
        out[name] = {key: [float(x) for x in value] for key, value in z.items()}
        out[name]["d_app"] = [float(x) for x in distance(z)]
    return out


def faults(z: dict[str, list[float]]) -> dict[str, float]:
    """Return how strong every named fault is: the largest deviation over bins in the fault's direction."""
    found = {}
    for name, (component, sign) in FAULTS.items():
        values = [sign * x for x in z[component] if np.isfinite(x)]
        found[name] = max(0.0, *values) if values else 0.0
    return found


def _survival(table: Rows, name: str, edges: np.ndarray) -> dict[str, Any] | None:
    """Return the useful horizon of the walks of a row and its survival curve; None without skill."""
    times, reached = [], []
    for row in table.each(name):
        own, ends = np.array(_entry(row, ["psnr"])), []
        for other in (REPEAT, CODEC):
            source = table.one(other, row["trajectory"], row["scene"])
            ends.append(np.full(BINS, np.nan) if source is None else np.array(_entry(source, ["psnr"])))
        with np.errstate(invalid="ignore"):
            skills = skill(own, ends[0], ends[1])
        if np.isfinite(skills).any():
            time, happened = useful_horizon(skills, edges)
            times.append(time)
            reached.append(happened)
    if not times:
        return None
    curve = kaplan_meier(np.array(times), np.array(reached))
    return {
        "median_s": curve.median(),
        "walks": len(times),
        "reached": int(np.sum(reached)),
        "curve": {"t": curve.times.tolist(), "alive": curve.alive.tolist()},
        "rule": f"skill under 0.5 for a whole bin; not where codec - repeat < {MIN_RANGE_DB:g} dB",
    }


def _revisits(table: Rows, name: str) -> list[dict[str, Any]]:
    """Return the mean over walks of revisit scores, by gap in whole seconds."""
    gathered: dict[int, list[dict[str, Any]]] = {}
    for row in table.each(name):
        for pair in row["revisit"]:
            gathered.setdefault(max(1, round(pair["gap_s"])), []).append(pair)
    out = []
    for gap, pairs in sorted(gathered.items()):
        cell: dict[str, Any] = {"gap_s": gap, "pairs": len(pairs)}
        for key in ("itself", "control", "memory", "truth"):
            values = [pair[key] for pair in pairs if pair[key] is not None]
            cell[key] = float(np.mean(values)) if values else None
        out.append(cell)
    return out


def _gain(table: Rows) -> dict[str, Any] | None:
    """Return how much of the commanded motion the judged world makes, by axis, over all its walks."""
    found = [row["pose"]["motion"] for row in table.each(table.judged) if "motion" in row.get("pose", {})]
    if not found:
        return None
    sums = [np.sum([one[key] for one in found], axis=0) for key in ("asked_asked", "got_asked")]
    matrix, used = gain_matrix(*sums)
    axes = ("right", "down", "forward", "pitch", "yaw", "roll")
    return {
        "diagonal": {axis: float(matrix[i, i]) if used[i] else None for i, axis in enumerate(axes)},
        "matrix": [[float(x) if np.isfinite(x) else None for x in row] for row in matrix],
        "meaning": "realised = matrix times commanded, metres and radians between samples; 1 is right",
    }


def _closures(table: Rows, seed: int) -> dict[str, Any]:
    """Return the loop-closure error of the judged world by trajectory."""
    out = {}
    for trajectory in table.trajectories:
        found = [
            row["pose"]["closure"]
            for row in table.each(table.judged)
            if row["trajectory"] == trajectory and "closure" in row.get("pose", {})
        ]
        if found:
            columns = {
                key: np.array([x[key] for x in found], dtype=np.float64) for key in found[0]
            }  # None: NaN
            out[trajectory] = {key: band(values, seed).to_dict() for key, values in columns.items()}
    return out

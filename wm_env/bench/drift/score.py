"""From rows to the numbers of a drift report: means over frames, seeds, scenes, trajectories, in that order.

Intervals resample scenes, then noise seeds; families of trajectories are averaged with equal weight
(docs/reference/evaluation.md#aggregation). What cannot be measured is None, and `nulls` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_env.bench.drift.behaviour import (
    closures,
    gain,
    half_life,
    latency,
    revisits,
    start_end_contrast,
    survival,
)
from wm_env.bench.drift.rollouts import BINS, CODEC, REPEAT
from wm_env.bench.drift.rows_table import Rows, entry
from wm_env.bench.drift.survival import skill
from wm_env.model.metrics.appearance import COMPONENTS, FAULTS, distance, standardise
from wm_env.model.metrics.intervals import Band, band, bootstrap_p, holm

ONE_VALUE = ("ssim", "mse", "mae", "freeze", "colour")
PLACE = ("psnr_commanded", "psnr_estimated")
LATENT = ("error", "mean_shift", "std_ratio")


def summarise(
    rows: list[dict[str, Any]],
    judged: str,
    seconds: float,
    gate: dict[str, Any] | None,
    seed: int = 0,
    compared: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report's numbers; gate: what the pose estimator's own test found, None if it did not run.

    compared: rows that are worlds of their own, beside the judged one.
    """
    table = Rows(rows, judged)
    edges = np.linspace(0.0, seconds, BINS + 1)
    nulls = _reasons(table, gate)
    poses = "rot_err_deg" not in nulls
    others = [name for name in table.names if name != judged]
    whole = [name for name in (judged, *compared) if name in table.names]
    visits = {name: revisits(table, name) for name in table.names}
    z = _z_scores(table)
    return {
        "bins": bins_of(table, judged, edges, poses, seed),
        "baselines": {name: bins_of(table, name, edges, poses, seed) for name in others},
        "compared": whole[1:],
        "nulls": nulls,
        "gain_over": {name: gains(table, name, seed) for name in others},
        "trajectories": {
            one: {name: bins_of(table, name, edges, poses, seed, [one]) for name in table.names}
            for one in table.trajectories
        },
        "growth": {name: _growth(table, name, edges, seed) for name in table.names},
        "statistics": z,
        "faults": {name: faults(found) for name, found in z.items()},
        "drift15": {name: start_end_contrast(table, name) for name in table.names},
        "horizon_h50": {name: survival(table, name, edges) for name in table.names},
        "revisit": visits,
        "memory_half_life": {name: half_life(found) for name, found in visits.items()},
        "latency": {name: latency(table, name, seed) for name in table.names},
        "loop_closure": {name: closures(table, name, seed) for name in whole} if poses else None,
        "gain": {name: gain(table, name) for name in whole} if poses else None,
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
    codec = _bin_average(table.table(CODEC, ["psnr"], trajectories))
    skills = _skills(table, name, trajectories or table.trajectories)
    single = {key: table.table(name, [key], trajectories) for key in ONE_VALUE}
    motion = table.table(name, ["statistics", "motion"], trajectories)
    pose = {
        key: table.table(name, ["pose", "first", key], trajectories)
        for key in ("rot_err_deg", "trans_err", "cammc")
    }
    upstream = table.table(name, ["pose", "upstream", "rot_err_deg"], trajectories)
    lost = table.table(name, ["pose", "lost_share"], trajectories)
    place = {key: table.table(name, ["place", key], trajectories) for key in PLACE}
    latent = {key: table.table(name, ["latent", key], trajectories) for key in LATENT}
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
        at = {key: band(values[..., k], seed).mean if poses else None for key, values in place.items()}
        cell |= split(at["psnr_commanded"], at["psnr_estimated"], float(codec[k]))
        for key, values in latent.items():
            cell[f"latent_{key}"] = band(values[..., k], seed).mean
        cell["n"] = int(np.isfinite(psnr[..., k]).all(-1).sum()) or len(table.scenes)
        out.append(cell)
    return out


def _skills(table: Rows, name: str, trajectories: Sequence[str]) -> np.ndarray:
    """Return the skill of the mean PSNRs `(bins,)` over the walks where codec - repeat is at least 1 dB.

    Where the camera stands still the repeated frame is perfect and skill means nothing.
    """
    own, repeat, codec = (
        np.concatenate([table.family(row, ["psnr"], one).mean(1) for one in trajectories])  # (walks, bins)
        for row in (name, REPEAT, CODEC)
    )
    used = np.isfinite(own) & np.isfinite(skill(own, repeat, codec))
    walks = used.sum(0)
    means = [np.where(used, x, 0.0).sum(0) / np.maximum(walks, 1) for x in (own, repeat, codec)]
    return np.where(walks > 0, skill(*means), np.nan)


def split(commanded: float | None, estimated: float | None, codec: float) -> dict[str, float | None]:
    """Return what the wrong place (geo) and the wrong picture (app) cost in a bin, dB (`error_split`)."""
    if commanded is None or estimated is None:
        return {"geo_db": None, "app_db": None}
    return {"geo_db": estimated - commanded, "app_db": codec - estimated if np.isfinite(codec) else None}


def _interval(found: Band) -> dict[str, float | None] | None:
    return None if found.mean is None else {"mean": found.mean, "lo": found.lo, "hi": found.hi}


def _bin_average(values: np.ndarray) -> np.ndarray:
    """Return the mean over scenes and seeds `(bins,)`, NaN where there is nothing."""
    flat = values.reshape(-1, BINS)
    count = np.isfinite(flat).sum(0)
    return np.where(count > 0, np.nansum(flat, 0) / np.maximum(count, 1), np.nan)


def gains(table: Rows, name: str, seed: int) -> list[dict[str, Any]]:
    """Return the judged world's PSNR minus the row's per bin, paired by scene (seeds averaged first).

    p: two-sided, of the bootstrap of the mean; p_holm: corrected for the bins that are looked at together.
    """
    difference = table.table(table.judged, ["psnr"]).mean(1) - table.table(name, ["psnr"]).mean(1)
    found = [band(difference[:, k], seed).to_dict() for k in range(BINS)]
    raw = [bootstrap_p(difference[:, k], seed) for k in range(BINS)]
    corrected = holm(raw)
    return [cell | {"p": p, "p_holm": q} for cell, p, q in zip(found, raw, corrected, strict=True)]


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
            means = np.array([entry(row, ["reference", "statistics", component]) for row in truth])
            inner = np.array([entry(row, ["reference", "variances", component]) for row in truth])
        else:
            rows = table.each(table.judged)
            means = np.array([entry(row, ["statistics", component])[:1] for row in rows])
            inner = np.array([entry(row, ["variances", component])[:1] for row in rows])
        spread[component] = float(np.sqrt(np.nanmean(inner) + np.nanvar(means)))
    for name in table.names:
        z: dict[str, np.ndarray] = {}
        for component in COMPONENTS:
            parts = []
            for row in table.each(name):
                own = np.array(entry(row, ["statistics", component]))
                reference = np.full(BINS, own[0])
                if truth:
                    source = table.one(table.judged, row["trajectory"], row["scene"])
                    assert source is not None
                    reference = np.array(entry(source, ["reference", "statistics", component]))
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

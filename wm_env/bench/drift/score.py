"""From rows to the numbers of a drift report: means over frames, seeds, scenes, trajectories, in that order.

Intervals resample scenes, then noise seeds; families of trajectories are averaged with equal weight
(docs/reference/evaluation.md#aggregation). Where the camera stands still a repeated frame scores 100 dB, and
a mean with it says nothing: such trajectories are in `trajectories` alone, and `standing` names them. What
cannot be measured is None, and `nulls` says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from wm_env.bench.drift.bins import BINS
from wm_env.bench.drift.columns import View, explained, scored
from wm_env.bench.drift.pose_estimate import Gate
from wm_env.bench.drift.report import Bin, Bins, Gain, Growth, Scores
from wm_env.bench.drift.rollouts import CODEC
from wm_env.bench.drift.rows_table import Rows, entry
from wm_env.model.metrics.appearance import COMPONENTS, FAULTS, distance, standardise
from wm_env.model.metrics.intervals import band, bootstrap_p, holm


def score(
    rows: list[dict[str, Any]],
    judged: str,
    seconds: float,
    gate: Gate | None,
    seed: int = 0,
    compared: Sequence[str] = (),
) -> Scores:
    """Return the report's numbers; gate: what the pose estimator's own test found, None if it did not run.

    compared: rows that are worlds of their own, beside the judged one.
    """
    walked = Rows(rows, judged)
    table = walked.moving()
    nulls = _reasons(table, gate)
    poses = "rot_err_deg" not in nulls
    others = [name for name in table.names if name != judged]
    whole = [name for name in (judged, *compared) if name in table.names]
    visits = {name: revisits(table, name) for name in table.names}
    deviations = _z_scores(table)
    edges = np.linspace(0.0, seconds, BINS + 1)

    def bins(name: str, one: str | None = None) -> Bins:
        rows, chosen = (table, table.trajectories) if one is None else (walked, [one])
        return bins_of(View(rows, name, tuple(chosen), seed), edges, poses)

    return Scores(
        bins=bins(judged),
        baselines={name: bins(name) for name in others},
        compared=tuple(whole[1:]),
        nulls=nulls,
        gain_over={name: gains(table, name, seed) for name in others},
        trajectories={one: {name: bins(name, one) for name in walked.names} for one in walked.trajectories},
        standing=walked.standing(),
        growth={name: _growth(table, name, edges, seed) for name in table.names},
        statistics=deviations,
        faults={name: faults(found) for name, found in deviations.items()},
        drift15={name: start_end_contrast(table, name) for name in table.names},
        horizon_h50={name: survival(table, name, edges) for name in table.names},
        revisit=visits,
        memory_half_life={name: half_life(found) for name, found in visits.items()},
        latency={name: latency(table, name, seed) for name in table.names},
        loop_closure={name: closures(table, name, seed) for name in whole} if poses else None,
        gain={name: gain(table, name) for name in whole} if poses else None,
        pose_gate=gate,
    )


def _reasons(table: Rows, gate: Gate | None) -> dict[str, str]:
    """Return why a metric is None."""
    nulls: dict[str, str] = {}
    if not np.isfinite(table.table(table.judged, ["psnr"])).any():
        why = "no twin: the episode starts from a picture, so there is no truth to compare with"
        return dict.fromkeys(explained("truth", "poses"), why)
    if CODEC not in table.names:
        nulls["skill"] = "this world has no autoencoder, so there is no ceiling to measure skill against"
    if gate is None:
        nulls |= dict.fromkeys(explained("poses"), "pose estimation was switched off (--pose-every 0)")
    elif not gate.passed:
        why = (
            f"withheld: on damaged truth the estimator errs by {gate.degrees:.2f} deg and "
            f"{100 * gate.share_of_room:.1f}% of the room; allowed are 0.5 deg and 1%"
        )
        nulls |= dict.fromkeys(explained("poses"), why)
    return nulls


def bins_of(view: View, edges: np.ndarray, poses: bool) -> Bins:
    """Return a row's bins between `edges` (s); without `poses` what needs them is None."""
    psnr = view.values("psnr")
    found = scored(view, poses)
    return tuple(
        Bin(
            float(edges[k]),
            float(edges[k + 1]),
            found[k],
            int(np.isfinite(psnr[..., k]).all(-1).sum()) or len(view.table.scenes),
        )
        for k in range(BINS)
    )


def gains(table: Rows, name: str, seed: int) -> tuple[Gain, ...]:
    """Return the judged world's PSNR minus the row's per bin, paired by scene (seeds averaged first).

    p: two-sided, of the bootstrap of the mean; p_holm: corrected for the bins that are looked at together.
    """
    difference = table.table(table.judged, ["psnr"]).mean(1) - table.table(name, ["psnr"]).mean(1)
    found = [band(difference[:, k], seed) for k in range(BINS)]
    raw = [bootstrap_p(difference[:, k], seed) for k in range(BINS)]
    corrected = holm(raw)
    return tuple(
        Gain(**one._asdict(), p=p, p_holm=q) for one, p, q in zip(found, raw, corrected, strict=True)
    )


def _growth(table: Rows, name: str, edges: np.ndarray, seed: int) -> Growth:
    """Return how PSNR falls: first minus last bin, worst and mean drop (dB), Theil-Sen slope (dB/s)."""
    psnr = table.table(name, ["psnr"])  # (S, K, bins)
    middle = (edges[1:] + edges[:-1]) / 2
    drop = psnr[..., :1] - psnr
    i, j = np.triu_indices(BINS, 1)
    slopes = np.median((psnr[..., j] - psnr[..., i]) / (middle[j] - middle[i]), axis=-1)
    return Growth(
        first_minus_last=band(drop[..., -1], seed),
        worst=band(drop.max(-1), seed),
        auc=band(drop.mean(-1), seed),
        slope_db_per_s=band(slopes, seed),
    )


def _z_scores(table: Rows) -> dict[str, dict[str, tuple[float | None, ...]]]:
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
        out[name] = {key: _known(value) for key, value in (z | {"d_app": distance(z)}).items()}
    return out


def _known(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(x) if np.isfinite(x) else None for x in values)


def faults(z: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Return how strong every named fault is: the largest deviation over bins in the fault's direction."""
    found = {}
    for name, (component, sign) in FAULTS.items():
        values = [sign * x for x in z[component] if x is not None]
        found[name] = max(0.0, *values) if values else 0.0
    return found

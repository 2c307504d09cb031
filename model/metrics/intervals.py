"""Numbers with their uncertainty: bootstraps, bands, p values, proportions, survival curves. Numpy only.

Frames are averaged within a walk, walks over noise seeds, then over scenes; intervals are 95% and resample
scenes, then seeds (docs/reference/evaluation.md#aggregation). With fewer than `MIN_SCENES` scenes there is no
interval and the text says `n too small`. Legend: `S` scenes or starts, `K` seeds, `R` resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

MIN_SCENES = 5
RESAMPLES = 5000

Scores = Mapping[tuple[str, str], np.ndarray]
"""`(S, K)` of an (environment, policy); start s is the same in all of them."""


class Interval(NamedTuple):
    """A mean with its percentile confidence bounds."""

    mean: float
    low: float
    high: float


def hierarchical_bootstrap(
    values: np.ndarray, *, resamples: int = 5000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean over scenes of means over seeds, with a percentile interval.

    values: `(S, K)` or `(S,)`, one number a scene and seed; frames are averaged beforehand, never pooled.
    Each resample draws scenes with replacement, then seeds within each drawn scene. For a comparison pass
    paired differences.
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"bootstrap needs finite values (scenes, seeds), got shape {np.shape(values)}")
    scenes, seeds = table.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows_at_once = max(1, 2_000_000 // table.size)
    for begin in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - begin)
        scene = rng.integers(scenes, size=(rows, scenes, 1))
        drawn = rng.integers(seeds, size=(rows, scenes, seeds))
        means[begin : begin + rows] = table[scene, drawn].mean((1, 2))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(table.mean()), float(low), float(high))


class Band(NamedTuple):
    """A mean over scenes with its 95% interval; lo and hi are None where n is too small, mean where n = 0."""

    mean: float | None
    lo: float | None
    hi: float | None
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        return dict(self._asdict())

    def text(self, digits: int = 2) -> str:
        """Return "mean [lo, hi]", or the mean and `n too small`."""
        if self.mean is None:
            return "-"
        if self.lo is None or self.hi is None:
            return f"{self.mean:.{digits}f} (n too small)"
        return f"{self.mean:.{digits}f} [{self.lo:.{digits}f}, {self.hi:.{digits}f}]"


def band(values: np.ndarray, seed: int = 0) -> Band:
    """Return the band of `(S,)` or `(S, K)` values, one a scene and noise seed; scenes with NaN drop out."""
    table = _known(values)
    if len(table) == 0:
        return Band(None, None, None, 0)
    if len(table) < MIN_SCENES:
        return Band(float(table.mean()), None, None, len(table))
    interval = hierarchical_bootstrap(table, resamples=RESAMPLES, seed=seed)
    return Band(interval.mean, interval.low, interval.high, len(table))


def mean_of(values: np.ndarray) -> float | None:
    """Return the mean that `band` has, without its interval."""
    table = _known(values)
    return float(table.mean()) if len(table) else None


def _known(values: np.ndarray) -> np.ndarray:
    """Return the scenes `(S', K)` float64 of `(S,)` or `(S, K)` values without NaN."""
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    return table[np.isfinite(table).all(1)]


def ratio_band(above: np.ndarray, below: np.ndarray, seed: int = 0) -> Band:
    """Return the ratio of two means over the same scenes `(S,)`, scenes resampled together."""
    ratio = float(above.mean() / below.mean())
    if len(above) < MIN_SCENES:
        return Band(ratio, None, None, len(above))
    drawn = np.random.default_rng(seed).integers(len(above), size=(RESAMPLES, len(above)))
    lo, hi = np.percentile(above[drawn].mean(1) / below[drawn].mean(1), [2.5, 97.5])
    return Band(ratio, float(lo), float(hi), len(above))


def bootstrap_p(values: np.ndarray, seed: int = 0) -> float | None:
    """Return the two-sided p of a mean `(S,)` being 0: twice the share of resampled means beyond 0.

    One resample is added to either side, so that p is never 0. None where n is too small for an interval.
    """
    known = values[np.isfinite(values)]
    if len(known) < MIN_SCENES:
        return None
    drawn = np.random.default_rng(seed).integers(len(known), size=(RESAMPLES, len(known)))
    means = known[drawn].mean(1)
    return float(min(1.0, 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (RESAMPLES + 1)))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return the p values after Holm: the i-th smallest of m times m - i, never falling, at most 1."""
    known = sorted((p, index) for index, p in enumerate(values) if p is not None)
    out: list[float | None] = [None] * len(values)
    highest = 0.0
    for place, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        out[index] = highest
    return out


def resampled_means(scores: Scores, seed: int = 0, resamples: int = RESAMPLES) -> dict[Any, np.ndarray]:
    """Return the mean of every table `(1 + R,)`, first as measured, then of resampled starts and seeds.

    One draw of starts for all tables and one draw of training seeds for a policy in both environments: what
    is compared stays paired.
    """
    sizes = {len(table) for table in scores.values()}
    if len(sizes) != 1:
        raise ValueError(f"paired tables need equal numbers of starts, got {sorted(sizes)}")
    (starts,) = sizes
    generator = np.random.default_rng(seed)
    weight = _weights(generator, starts, resamples)  # (1 + R, S)
    seeds: dict[tuple[str, int], np.ndarray] = {}
    for (_, policy), table in sorted(scores.items()):
        key = (policy, table.shape[1])
        if key not in seeds:
            seeds[key] = _weights(generator, table.shape[1], resamples)
    return {
        key: np.einsum("rs,sk,rk->r", weight, table, seeds[key[1], table.shape[1]], optimize=True)
        for key, table in scores.items()
    }


def _weights(generator: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    """Return weights `(1 + R, size)` that sum to 1: equal ones, then those of draws with replacement."""
    drawn = generator.multinomial(size, np.full(size, 1 / size), size=resamples) / size
    return np.concatenate([np.full((1, size), 1 / size), drawn])


def resampled_band(values: np.ndarray, starts: int) -> Band:
    """Return the first of `(1 + R,)` values with the 95% interval of the others; none for few starts."""
    if starts < MIN_SCENES:
        return Band(float(values[0]), None, None, starts)
    lo, hi = np.percentile(values[1:], [2.5, 97.5])
    return Band(float(values[0]), float(lo), float(hi), starts)


def iqm(values: np.ndarray) -> float:
    """Return the interquartile mean of `(K,)` values: a quarter trimmed on either side, rounded down."""
    trimmed = len(values) // 4
    return float(np.sort(values)[trimmed : len(values) - trimmed].mean())


def iqm_band(values: np.ndarray, seed: int = 0) -> Band:
    """Return the IQM of one score a training seed `(K,)` with its bootstrap interval; none for few seeds."""
    if len(values) < MIN_SCENES:
        return Band(iqm(values), None, None, len(values))
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    trimmed = len(values) // 4
    means = np.sort(values[drawn], axis=1)[:, trimmed : len(values) - trimmed].mean(1)
    return resampled_band(np.concatenate([[iqm(values)], means]), len(values))


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the chance that a training seed of ours `(K,)` beats one of theirs `(K',)`, ties half."""
    difference = ours[:, None] - theirs[None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def wilson(successes: int, trials: int, z: float = 1.959964) -> Interval:
    """Return the success rate with its Wilson score interval.

    (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n);  z = 1.96 is 95 %.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is no proportion")
    p, share = successes / trials, z * z / trials
    centre = p + share / 2
    half = z * math.sqrt(p * (1 - p) / trials + share / (4 * trials))
    low, high = (centre - half) / (1 + share), (centre + half) / (1 + share)
    return Interval(p, min(p, max(0.0, low)), max(p, min(1.0, high)))


class Survival(NamedTuple):
    """A step curve: from `times[i]` seconds on, the share `alive[i]` of walks is still useful."""

    times: np.ndarray
    alive: np.ndarray

    def median(self) -> float | None:
        """Return the first time at which half or less is alive, None if that never happens."""
        below = np.flatnonzero(self.alive <= 0.5)
        return float(self.times[below[0]]) if len(below) else None


def kaplan_meier(times: np.ndarray, happened: np.ndarray) -> Survival:
    """Return the survival curve of event times `(n,)`, censored where `happened` `(n,)` is False.

    alive(t) = product over event times u <= t of 1 - d_u / n_u, d events among n still at risk.
    """
    if len(times) == 0:
        raise ValueError("a survival curve needs at least one walk")
    points, alive, share = [0.0], [1.0], 1.0
    for t in np.unique(times):
        events, risk = int((happened & (times == t)).sum()), int((times >= t).sum())
        share *= 1 - events / risk
        if t == 0.0:
            alive[0] = share
            continue
        points.append(float(t))
        alive.append(share)
    return Survival(np.array(points), np.array(alive))

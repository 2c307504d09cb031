"""From samples and films to the numbers of a trust report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wm_env.bench.trust.report import Event, Horizon, Row, Truncation
from wm_env.bench.trust.samples import BINS
from wm_env.model.metrics.forecasts import (
    auroc,
    auroc_within,
    brier_skill,
    calibration_error,
    reliability,
)
from wm_env.model.metrics.intervals import MIN_SCENES, Band

RESAMPLES = 200  # walks drawn with replacement; an AUROC sorts all frames every time
SINGLE = {"step number": "steps", "contrast of the frame": "contrast", "share unseen": "unseen"}
WITHOUT_MEMORY = "new_directions"  # stands for the share unseen in a world without a point memory
TWO_DRAWS = "disagreement"


class Table:
    """Samples of some walks with the probability that was given to them.

    signals: columns by name. error, step, walk, forecast `(N,)`. scene `(N,)`: walks of one scene are
    resampled together; None where every walk has one of its own.
    """

    def __init__(
        self,
        signals: Mapping[str, np.ndarray],
        error: np.ndarray,
        step: np.ndarray,
        walk: np.ndarray,
        forecast: np.ndarray,
        scene: np.ndarray | None = None,
    ) -> None:
        self.signals, self.error, self.step, self.walk = signals, error, step, walk
        self.forecast = forecast
        self.bin = np.searchsorted([last for _, last in BINS], step)
        self.scene = walk if scene is None else scene
        self._rows = {one: np.flatnonzero(self.scene == one) for one in np.unique(self.scene)}

    def resampled(self, seed: int) -> np.ndarray:
        """Return the samples `(N',)` of as many scenes drawn with replacement."""
        names = list(self._rows)
        drawn = np.random.default_rng(seed).integers(len(names), size=len(names))
        return np.concatenate([self._rows[names[index]] for index in drawn])

    @property
    def walks(self) -> int:
        """How many walks there are."""
        return len(np.unique(self.walk))

    @property
    def scenes(self) -> int:
        """How many scenes they are in."""
        return len(self._rows)


def row_of(table: Table, bound: float) -> Row:
    """Return the numbers of a table whose forecast is of "error at most bound"."""
    happened = table.error <= bound
    bins = sorted(set(table.bin.tolist()))
    single = {name: _single(table, signal) for name, signal in _singles(table).items()}
    scores = {name: value for name, value in single.items() if value is not None}

    def rank(score: np.ndarray, rows: np.ndarray) -> float | None:
        return auroc_within(score[rows], table.error[rows], table.bin[rows], bins)

    def gain(rows: np.ndarray) -> float | None:
        own = rank(-table.forecast, rows)
        others = [rank(values, rows) for values, _ in scores.values()]
        known = [value for value in others if value is not None]
        return None if own is None or not known else own - max(known)

    return Row(
        walks=table.walks,
        frames=len(table.error),
        within=float(happened.mean()),
        skill=_band(table, lambda rows: brier_skill(table.forecast[rows], happened[rows])),
        ece=calibration_error(table.forecast, happened),
        auroc=_band(table, lambda rows: rank(-table.forecast, rows)),
        baselines={name: None if value is None else value[1] for name, value in single.items()},
        gain=_band(table, gain),
        bins=tuple(reliability(table.forecast, happened)),
        horizons=tuple(_horizon(table, index, happened, scores) for index in bins),
    )


def _singles(table: Table) -> dict[str, str]:
    """Return the signals that are tried alone, by what they are called."""
    found = {name: signal if signal in table.signals else WITHOUT_MEMORY for name, signal in SINGLE.items()}
    return {**found, "two draws": TWO_DRAWS} if TWO_DRAWS in table.signals else found


def _single(table: Table, signal: str) -> tuple[np.ndarray, float] | None:
    """Return a signal in the direction that ranks errors better, and its AUROC within horizons."""
    bins = sorted(set(table.bin.tolist()))
    values = table.signals[signal]
    up = auroc_within(values, table.error, table.bin, bins)
    if up is None:
        return None
    return (values, up) if up >= 0.5 else (-values, 1 - up)


def _horizon(
    table: Table, index: int, happened: np.ndarray, scores: Mapping[str, tuple[np.ndarray, float]]
) -> Horizon:
    rows = table.bin == index
    above = table.error[rows] > np.median(table.error[rows])
    others = [auroc(values[rows], above) for values, _ in scores.values()]
    known = [value for value in others if value is not None]
    return Horizon(
        first=int(table.step[rows].min()),
        last=int(table.step[rows].max()),
        within=float(happened[rows].mean()),
        auroc=auroc(-table.forecast[rows], above),
        baseline=max(known) if known else None,
    )


def _band(table: Table, measure: Callable[[np.ndarray], float | None]) -> Band:
    """Return a number of all samples with its interval over scenes drawn with replacement."""
    mean = measure(np.arange(len(table.error)))
    if mean is None or table.scenes < MIN_SCENES:
        return Band(mean, None, None, table.scenes)
    drawn = [measure(table.resampled(seed)) for seed in range(RESAMPLES)]
    known = [value for value in drawn if value is not None]
    lo, hi = np.percentile(known, [2.5, 97.5])
    return Band(mean, float(lo), float(hi), table.scenes)


def truncation(table: Table, least: float) -> Truncation | None:
    """Return what walks that end below `least` keep, beside walks that end at one step; None of nothing.

    A walk keeps the frames before the first whose trust is below. The fixed step T keeps as many frames in
    all: every walk's first floor(T), and of the next one the share that is missing.
    """
    order = np.lexsort((table.step, table.walk))
    walks, steps = table.walks, int(table.step.max())
    error = table.error[order].reshape(walks, steps)
    trusted = (table.forecast[order].reshape(walks, steps) >= least).cumprod(1).astype(bool)

    def both(rows: np.ndarray) -> tuple[float, float, float] | None:
        own, kept = error[rows], trusted[rows]
        count = int(kept.sum())
        if count == 0:
            return None
        whole, part = divmod(count / len(rows), 1)
        weight = np.zeros(steps)
        weight[: int(whole)] = 1
        if int(whole) < steps:
            weight[int(whole)] = part
        fixed = float((own * weight).sum() / (weight.sum() * len(rows)))
        return float(own[kept].mean()), fixed, count / kept.size

    found = both(np.arange(walks))
    if found is None:
        return None
    mine, fixed, share = found
    of_walk = table.scene[order].reshape(walks, steps)[:, 0]
    groups = [np.flatnonzero(of_walk == one) for one in np.unique(of_walk)]
    gain = Band(fixed - mine, None, None, len(groups))
    if len(groups) >= MIN_SCENES:
        rng = np.random.default_rng(0)
        scenes = [rng.integers(len(groups), size=len(groups)) for _ in range(5 * RESAMPLES)]
        drawn = [both(np.concatenate([groups[index] for index in one])) for one in scenes]
        differences = [one[1] - one[0] for one in drawn if one is not None]
        lo, hi = np.percentile(differences, [2.5, 97.5])
        gain = Band(fixed - mine, float(lo), float(hi), len(groups))
    return Truncation(least=least, kept=share, trusted=mine, fixed=fixed, gain=gain)


def event_of(control: Sequence[float], event: Sequence[float]) -> Event:
    """Return the AUROC of the surprise of events against that of their controls, pairs resampled."""
    a, b = np.array(control), np.array(event)
    truth = np.repeat([False, True], len(a))

    def rank(rows: np.ndarray) -> float | None:
        return auroc(np.concatenate([a[rows], b[rows]]), truth)

    mean = rank(np.arange(len(a)))
    band = Band(mean, None, None, len(a))
    if mean is not None and len(a) >= MIN_SCENES:
        rng = np.random.default_rng(0)
        drawn = [rank(rng.integers(len(a), size=len(a))) for _ in range(5 * RESAMPLES)]
        lo, hi = np.percentile([one for one in drawn if one is not None], [2.5, 97.5])
        band = Band(mean, float(lo), float(hi), len(a))
    return Event(films=len(a), auroc=band, control=float(a.mean()), event=float(b.mean()))


def table_of(
    parts: Mapping[str, Mapping[str, Any]], target: str, probability: Callable[[Any], np.ndarray]
) -> Table:
    """Return parts of walks by "split/context/batch" as a table. target: appearance or place.

    Walk n of a context is in scene n of its split, whatever the context.
    """
    names, seen = list(parts), dict.fromkeys(name.rpartition("/")[0] for name in parts)
    scenes = []
    for kind in seen:
        first = 0
        for name in names:
            if name.rpartition("/")[0] == kind:
                scenes.append(np.array(parts[name]["walk"]) + first)
                first += max(parts[name]["walk"]) + 1
    parts = {name: parts[name] for kind in seen for name in names if name.rpartition("/")[0] == kind}
    return _table(list(parts.values()), target, probability, np.concatenate(scenes))


def _table(
    parts: Sequence[Mapping[str, Any]],
    target: str,
    probability: Callable[[Any], np.ndarray],
    scene: np.ndarray,
) -> Table:
    before = np.cumsum([0, *(max(part["walk"]) + 1 for part in parts)])
    signals = {
        name: np.concatenate([part["signals"][name] for part in parts]) for name in parts[0]["signals"]
    }
    return Table(
        signals=signals,
        error=np.concatenate([np.array(part[target], float) for part in parts]),
        step=np.concatenate([part["step"] for part in parts]),
        walk=np.concatenate([np.array(part["walk"]) + n for part, n in zip(parts, before, strict=False)]),
        forecast=probability(signals),
        scene=scene,
    )

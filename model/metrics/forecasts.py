"""How good probabilities are: Brier skill, calibration error, reliability, and ranking by AUROC. Numpy only.

Of forecasts p_i in [0, 1] of events y_i in {0, 1}, i = 1 .. n:

    Brier score   mean (p_i - y_i)^2;       skill = 1 - score / (mean y (1 - mean y)), the base rate's score
    ECE           sum_b n_b / n |mean_b p - mean_b y| over bins of equally many forecasts
    AUROC         chance that an event has a higher score than a non-event, ties half (Mann-Whitney)

See docs/reference/evaluation.md#trust-and-surprise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 10


class Bin(NamedTuple):
    """Forecasts of one bin: their mean, how often the event was, how many."""

    forecast: float
    happened: float
    n: int


def brier_score(forecast: np.ndarray, happened: np.ndarray) -> float:
    """Return the mean squared error of forecasts `(n,)` of events `(n,)` bool."""
    return float(np.square(forecast - happened).mean())


def brier_skill(forecast: np.ndarray, happened: np.ndarray) -> float | None:
    """Return 1 - Brier score over that of the base rate; 1 is perfect, 0 the base rate alone.

    None where all or none of the events happened.
    """
    rate = float(happened.mean())
    base = rate * (1 - rate)
    return None if base == 0 else 1 - brier_score(forecast, happened) / base


def reliability(forecast: np.ndarray, happened: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Return bins of equally many forecasts, rising; fewer where there are fewer forecasts than bins."""
    order = np.argsort(forecast, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [Bin(float(forecast[part].mean()), float(happened[part].mean()), len(part)) for part in parts]


def calibration_error(forecast: np.ndarray, happened: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error over bins of equally many forecasts."""
    parts = reliability(forecast, happened, bins)
    return float(sum(one.n * abs(one.forecast - one.happened) for one in parts) / len(forecast))


def auroc(score: np.ndarray, happened: np.ndarray) -> float | None:
    """Return the AUROC of scores `(n,)` for events `(n,)` bool; None without an event or a non-event."""
    happened = happened.astype(bool)
    events = int(happened.sum())
    others = len(happened) - events
    if not events or not others:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[inverse]  # mean rank of equals, from 1
    return float((rank[happened].sum() - events * (events + 1) / 2) / (events * others))


def auroc_within(
    score: np.ndarray, value: np.ndarray, group: np.ndarray, groups: Sequence[int]
) -> float | None:
    """Return the mean over groups of the AUROC of scores for "value above the group's median".

    score, value, group `(n,)`. A high score means a high value. Groups of fewer than 4 values drop out.
    """
    found = []
    for one in groups:
        inside = group == one
        if inside.sum() >= 4:
            found.append(auroc(score[inside], value[inside] > np.median(value[inside])))
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if known else None

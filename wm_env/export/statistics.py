"""Statistics of a LeRobot dataset: min, max, mean, std, count and quantiles of every feature.

Quantiles are those of all values, by linear interpolation of the sorted ones as `numpy.quantile` has them,
over an episode and over the whole dataset; those of pictures, which are whole numbers of 0 to 255, come from
their counts. Pictures are described per channel in 0 .. 1, `(3, 1, 1)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

VIDEO = "observation.images.front"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_SPOTS = 64  # pixels per side and frames per episode that statistics of pictures look at, at most

Statistics = dict[str, dict[str, Any]]


def looked_at(frames: np.ndarray) -> np.ndarray:
    """Return the pixels uint8 `(n, h, w, 3)` of frames `(F, H, W, 3)` that their statistics look at."""
    skip = max(1, frames.shape[1] // _SPOTS)
    return frames[:: max(1, len(frames) // _SPOTS), ::skip, ::skip]


def statistics(columns: Mapping[str, np.ndarray], seen: np.ndarray) -> Statistics:
    """Return the statistics of one episode: columns `(n,)` or `(n, width)`, pixels as `looked_at` gives."""
    found: Statistics = {name: _of_rows(values.reshape(len(values), -1)) for name, values in columns.items()}
    pixels = _of_rows(seen.reshape(-1, 3) / 255.0)
    found[VIDEO] = {name: value.reshape(3, 1, 1) for name, value in pixels.items() if name != "count"}
    found[VIDEO]["count"] = np.array([len(seen)])
    return found


class Counted:
    """Values of all episodes, for the quantiles of the dataset: rows as they are, pixels as counts."""

    def __init__(self) -> None:
        self._rows: dict[str, list[np.ndarray]] = {}
        self._levels = np.zeros((3, 256), np.int64)

    def add(self, columns: Mapping[str, np.ndarray], seen: np.ndarray) -> None:
        """Take in one episode, as `statistics` is given it."""
        for name, values in columns.items():
            self._rows.setdefault(name, []).append(values.reshape(len(values), -1))
        for channel in range(3):
            self._levels[channel] += np.bincount(seen[..., channel].ravel(), minlength=256)

    def quantiles(self, feature: str) -> dict[str, np.ndarray]:
        """Return the quantiles of a feature over all episodes."""
        if feature != VIDEO:
            return _quantiles(np.concatenate(self._rows[feature]))
        return {
            name: np.array([_of_counts(levels, q) / 255 for levels in self._levels]).reshape(3, 1, 1)
            for name, q in QUANTILES.items()
        }


def aggregate(stats: Sequence[Statistics], counted: Counted) -> Statistics:
    """Return the statistics over all episodes as lists, means and variances weighted by their counts."""
    total: Statistics = {}
    for feature in stats[0]:
        parts = [each[feature] for each in stats]
        counts = np.array([part["count"][0] for part in parts], np.float64)
        weights = (counts / counts.sum()).reshape(-1, *[1] * np.ndim(parts[0]["mean"]))
        means = np.stack([part["mean"] for part in parts])
        mean = (weights * means).sum(0)
        variance = (weights * (np.stack([part["std"] for part in parts]) ** 2 + (means - mean) ** 2)).sum(0)
        total[feature] = {
            "min": np.min([part["min"] for part in parts], axis=0).tolist(),
            "max": np.max([part["max"] for part in parts], axis=0).tolist(),
            "mean": mean.tolist(),
            "std": np.sqrt(variance).tolist(),
            "count": [int(counts.sum())],
            **{name: value.tolist() for name, value in counted.quantiles(feature).items()},
        }
    return total


def _of_rows(values: np.ndarray) -> dict[str, np.ndarray]:
    rows = values.astype(np.float64)
    plain = {key: getattr(rows, key)(0) for key in ("min", "max", "mean", "std")}
    return {**plain, "count": np.array([len(rows)]), **_quantiles(rows)}


def _quantiles(rows: np.ndarray) -> dict[str, np.ndarray]:
    found = np.quantile(rows.astype(np.float64), list(QUANTILES.values()), axis=0)
    return dict(zip(QUANTILES, found, strict=True))


def _of_counts(levels: np.ndarray, q: float) -> float:
    """Return the quantile of whole numbers 0 .. 255 that are there `levels` `(256,)` times."""
    ends = levels.cumsum()
    place = q * (ends[-1] - 1)
    below = int(np.searchsorted(ends, int(place), side="right"))
    above = int(np.searchsorted(ends, min(int(place) + 1, int(ends[-1]) - 1), side="right"))
    return below + (place - int(place)) * (above - below)

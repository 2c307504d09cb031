"""A number with its uncertainty, as every report of this package writes it.

Frames are averaged within a walk, walks over noise seeds, then over scenes; the 95% interval resamples scenes
and then seeds (docs/reference/evaluation.md#aggregation, `wm_env.model.metrics.hierarchical_bootstrap`). With
fewer than `MIN_SCENES` scenes there is no interval and the text says `n too small`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wm_env.model.metrics.camera import hierarchical_bootstrap

MIN_SCENES = 5
RESAMPLES = 5000


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
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    table = table[np.isfinite(table).all(1)]
    if len(table) == 0:
        return Band(None, None, None, 0)
    if len(table) < MIN_SCENES:
        return Band(float(table.mean()), None, None, len(table))
    interval = hierarchical_bootstrap(table, resamples=RESAMPLES, seed=seed)
    return Band(interval.mean, interval.low, interval.high, len(table))


def ratio_band(above: np.ndarray, below: np.ndarray, seed: int = 0) -> Band:
    """Return the ratio of two means over the same scenes `(S,)`, scenes resampled together."""
    ratio = float(above.mean() / below.mean())
    if len(above) < MIN_SCENES:
        return Band(ratio, None, None, len(above))
    drawn = np.random.default_rng(seed).integers(len(above), size=(RESAMPLES, len(above)))
    lo, hi = np.percentile(above[drawn].mean(1) / below[drawn].mean(1), [2.5, 97.5])
    return Band(ratio, float(lo), float(hi), len(above))

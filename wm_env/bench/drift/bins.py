"""Equal time bins of an episode: bin k of n covers the frames (k F / n, (k + 1) F / n], without frame 0."""

from __future__ import annotations

import numpy as np

BINS = 6


def bin_of(frames: int, bins: int) -> np.ndarray:
    """Return the bin `(F,)` of frames 1 .. F."""
    return np.arange(frames) * bins // frames


def bin_means(values: np.ndarray, bin_index: np.ndarray, bins: int) -> list[float]:
    """Return the mean of `values` `(m,)` in every bin, NaN where a bin is empty; NaN values are left out."""
    out = []
    for k in range(bins):
        inside = values[(bin_index == k) & np.isfinite(values)]
        out.append(float(inside.mean()) if len(inside) else float("nan"))
    return out

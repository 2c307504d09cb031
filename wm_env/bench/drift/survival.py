"""For how long a world is useful: the horizon H50 and its survival curve.

Skill of a bin: S = (PSNR - PSNR of the repeated first frame) / (PSNR of the codec - the same), 0 for no model
and 1 for the codec's ceiling. H50 is the start of the first bin with S < 0.5; a walk that never falls below
is censored at its end. Curves are Kaplan-Meier's (docs/reference/evaluation.md#skill-and-useful-horizon).
"""

from __future__ import annotations

import numpy as np

USEFUL = 0.5
MIN_RANGE_DB = 1.0  # codec over repeat-first; below it skill means nothing


def skill(psnr: np.ndarray, repeat: np.ndarray, codec: np.ndarray) -> np.ndarray:
    """Return S of equal-shaped PSNR arrays; NaN where codec is less than 1 dB above repeat."""
    span = codec - repeat
    return np.where(span >= MIN_RANGE_DB, (psnr - repeat) / np.where(span == 0, 1.0, span), np.nan)


def useful_horizon(skills: np.ndarray, edges: np.ndarray) -> tuple[float, bool]:
    """Return (H50 in seconds, whether it was reached) of one walk's skills `(bins,)` and edges `(bins + 1,)`.

    Bins without a skill say nothing. Not reached: the time is the end of the walk, a censored value.
    """
    low = np.flatnonzero(skills < USEFUL)  # NaN compares False
    return (float(edges[low[0]]), True) if len(low) else (float(edges[-1]), False)

"""How far two sets of pictures are apart in the features of a network."""

from __future__ import annotations

import numpy as np

from wm_env.model.metrics.intervals import MIN_SCENES, Band

RESAMPLES = 200  # each costs two eigen-decompositions


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance of normal distributions fitted to features `(n, C)` and `(m, C)`.

        |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2)

    It grows as n and m shrink (Heusel et al. 2017 use 50 000), so only distances of equal n and m compare.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features {a.shape} and {b.shape}: two sets (n >= 2, C) of one C are needed")
    covariance = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    values, vectors = np.linalg.eigh(covariance[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ covariance[1] @ root).clip(0)
    spread = np.trace(covariance[0]) + np.trace(covariance[1]) - 2 * np.sqrt(mixed).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + max(0.0, spread))


def frechet_band(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Band:
    """Return the distance of features `(S, n, C)` by scene, with an interval that resamples scenes.

    The same scenes are drawn on both sides. Few different ones are in a draw, which makes distances larger,
    so the interval is moved until its median is the distance itself.
    """
    scenes = len(a)
    found = frechet_distance(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
    if scenes < MIN_SCENES:
        return Band(found, None, None, scenes)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        some = rng.integers(scenes, size=scenes)
        drawn.append(frechet_distance(a[some].reshape(-1, a.shape[-1]), b[some].reshape(-1, a.shape[-1])))
    lo, middle, hi = np.percentile(drawn, [2.5, 50, 97.5])
    return Band(found, max(0.0, float(lo - middle) + found), float(hi - middle) + found, scenes)

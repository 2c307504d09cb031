"""What a policy keeps when it leaves the world it was trained in: the numbers.

Definitions: docs/reference/evaluation.md#policy-transfer.

J_e(pi) is the mean undiscounted return of policy pi in environment e over equal starts:

    optimism         G     = J_sim(learned) - J_true(learned)
    relative         omega = G / (J_true(twin) - J_true(random))
    transfer ratio   rho   = (J_true(learned) - J_true(random)) / (J_true(twin) - J_true(random))
    regret           reg   = J_true(twin) - J_true(learned)
    reverse ratio    rho'  = (J_sim(twin) - J_sim(random)) / (J_sim(learned) - J_sim(random))

`learned` was trained in the learned world (sim), `twin` in the true one (true). Legend: `S` starts, `K`
training seeds, `R` resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wm_env.model.metrics.intervals import Band, Scores, resampled_band, resampled_means

SIM, TRUE = "learned world", "twin"
LEARNED, TWIN, BLIND, ABLATED = "trained in the learned world", "trained in the twin", "blind", "ablate=dit"
RANDOM, SCRIPTED = "random", "scripted"


def quantities(returns: Scores, success: Scores, seed: int = 0) -> tuple[dict[str, Band], dict[str, str]]:
    """Return the quantities that the policies at hand allow, and why the others are missing.

    returns, success: by (environment, policy). Differences named `over_...` are those of `learned` in the
    twin. A ratio whose denominator's interval reaches zero is missing: it has no meaning.
    """
    starts = len(next(iter(returns.values())))
    J, rate = resampled_means(returns, seed), resampled_means(success, seed)
    found: dict[str, Band] = {}
    why: dict[str, str] = {}
    differences = {
        "optimism": ((SIM, LEARNED), (TRUE, LEARNED)),
        "regret": ((TRUE, TWIN), (TRUE, LEARNED)),
        "over_random": ((TRUE, LEARNED), (TRUE, RANDOM)),
        "over_blind": ((TRUE, LEARNED), (TRUE, BLIND)),
        "over_ablated": ((TRUE, LEARNED), (TRUE, ABLATED)),
    }
    for name, (above, below) in differences.items():
        absent = [policy for key in (above, below) for policy in key[1:] if key not in J]
        if absent:
            why[name] = why[f"{name}_success"] = f"no policy {absent[0]!r} was scored"
            continue
        found[name] = resampled_band(J[above] - J[below], starts)
        found[f"{name}_success"] = resampled_band(rate[above] - rate[below], starts)
    span = ((TRUE, TWIN), (TRUE, RANDOM))
    own = ((SIM, LEARNED), (SIM, RANDOM))
    ratios = {
        "relative_optimism": (((SIM, LEARNED), (TRUE, LEARNED)), span),
        "transfer_ratio": (((TRUE, LEARNED), (TRUE, RANDOM)), span),
        "reverse_ratio": (((SIM, TWIN), (SIM, RANDOM)), own),
    }
    for name, (numerator, denominator) in ratios.items():
        absent = [key[1] for key in (*numerator, *denominator) if key not in J]
        if absent:
            why[name] = f"no policy {absent[0]!r} was scored"
            continue
        size = J[denominator[0]] - J[denominator[1]]
        known = resampled_band(size, starts)
        if (known.lo if known.lo is not None else known.mean or 0.0) <= 0:
            who = f"{denominator[0][1]!r} over random"
            why[name] = f"its denominator, {who}, is {known.text()}: not clearly above 0"
            continue
        found[name] = resampled_band((J[numerator[0]] - J[numerator[1]]) / size, starts)
    return found, why


def returns_by_horizon(rewards: Sequence[Sequence[float]], horizons: Sequence[int]) -> np.ndarray:
    """Return J^{0:H} `(S, len(horizons))`: the return of every episode up to env step H."""
    out = np.zeros((len(rewards), len(horizons)))
    for row, episode in zip(out, rewards, strict=True):
        total = np.concatenate([[0.0], np.cumsum(episode)])
        row[:] = [total[min(horizon, len(episode))] for horizon in horizons]
    return out


def exploitation(sim: np.ndarray, true: np.ndarray) -> float:
    """Return X = [J_sim(T) - J_sim(tau)] - [J_true(T) - J_true(tau)], tau = argmax J_true, over checkpoints.

    Above 0: what training gained in the learned world after tau was not real.
    """
    best = int(np.argmax(true))
    return float((sim[-1] - sim[best]) - (true[-1] - true[best]))


class Order(NamedTuple):
    """How well n policies are ordered: correlations, None where a side is constant, and MMRV."""

    n: int
    pearson: float | None
    spearman: float | None
    kendall: float | None
    mmrv: float


def ranking(true: np.ndarray, sim: np.ndarray) -> Order:
    """Return how well sim scores `(n,)` order policies by their true scores `(n,)`.

    pearson, spearman, kendall (tau-b): None where a side is constant. mmrv: mean over i of the largest
    |J_i - J_j| among the j that sim orders the wrong way round (SIMPLER's definition, J the true score).
    """
    gap = np.abs(true[:, None] - true[None, :])
    wrong = (sim[:, None] < sim[None, :]) != (true[:, None] < true[None, :])
    signs = [np.sign(x[:, None] - x[None, :])[np.triu_indices(len(true), 1)] for x in (true, sim)]
    return Order(
        n=len(true),
        pearson=_correlation(true, sim),
        spearman=_correlation(ranks(true), ranks(sim)),
        kendall=_cosine(signs[0], signs[1]),
        mmrv=float((gap * wrong).max(1).mean()),
    )


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks `(n,)` of values, ties sharing their mean rank."""
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return below + (equal - 1) / 2


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return _cosine(a - a.mean(), b - b.mean())


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size > 1e-12 else None

"""A probability from a few signals: logistic regression with squares, stored as plain numbers.

    z_i = clip((x_i - mean_i) / std_i, -4, 4)
    p   = 1 / (1 + exp(-(b + sum_i w_i z_i + u_i z_i^2)))

Two numbers a signal and one more. Fitted by Newton's method on

    - sum_n log p(y_n | x_n) + (lambda / 2) sum (w^2 + u^2)

with lambda the best of `RIDGES` by the likelihood of walks left out (`FOLDS` of them in turn), because steps
of one walk are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_env.model.storage.facts import check_fact, check_numbers, number

RIDGES = (1.0, 10.0, 100.0, 1000.0)
FOLDS = 4
ITERATIONS = 30
WIDEST = 4.0  # standard deviations; beyond, a signal says no more
LARGEST = 1e6  # of a stored number
FIELDS = ("mean", "std", "weight", "square")


@dataclass(frozen=True, kw_only=True)
class TrustModel:
    """The probability that an error is at most `bound` (in `unit`), from the signals `names`, in order.

    mean, std, weight, square: one a signal. bias: b. The equations are those of the module docstring.
    """

    bound: float
    unit: str
    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weight: tuple[float, ...]
    square: tuple[float, ...]
    bias: float

    def probability(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return p `(...)` float64 of signals `(...)` by name; `ValueError` names those that are missing."""
        missing = [name for name in self.names if name not in signals]
        if missing:
            raise ValueError(f"the signals {', '.join(missing)} are missing; the model was fitted with them")
        logit = np.full(np.shape(signals[self.names[0]]), self.bias)
        for name, mean, std, weight, square in zip(
            self.names, self.mean, self.std, self.weight, self.square, strict=True
        ):
            z = np.clip((np.asarray(signals[name], np.float64) - mean) / std, -WIDEST, WIDEST)
            logit = logit + weight * z + square * z * z
        return sigmoid(logit)

    def to_json(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> TrustModel:
        """Return the model that `to_json` wrote; `ValueError` names the first entry that cannot be."""
        known = ("bound", "unit", "names", *FIELDS, "bias")
        odd = sorted(set(found) - set(known))
        if odd:
            raise ValueError(f"{odd[0]!r} is unknown; known are {', '.join(known)}")
        check_fact(found, "bound", lambda x: number(x, 0, LARGEST), "a number from 0")
        check_fact(found, "bias", lambda x: number(x, -LARGEST, LARGEST), "a number")
        check_fact(found, "unit", lambda x: isinstance(x, str), "a text")
        names = check_fact(found, "names", _names, "names of signals, each once")
        for field in FIELDS:
            least = 1e-9 if field == "std" else -LARGEST
            check_numbers(found, field, len(names), least, LARGEST, "a signal")
        lists = {name: tuple(float(n) for n in found[name]) for name in FIELDS}
        return cls(
            bound=float(found["bound"]),
            unit=found["unit"],
            names=tuple(names),
            bias=float(found["bias"]),
            **lists,
        )


def _names(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return texts and 0 < len(value) == len(set(value))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def fit_trust(
    signals: Mapping[str, np.ndarray],
    error: np.ndarray,
    walk: np.ndarray,
    *,
    bound: float,
    unit: str,
    names: Sequence[str],
) -> TrustModel:
    """Return the model of "error at most bound" from signals `(N,)` by name, error and walk `(N,)`.

    walk: which walk a sample is of; whole walks are left out where lambda is chosen. Raises `ValueError`
    where there are no samples, or all or none of the errors are within the bound.
    """
    happened = (error <= bound).astype(np.float64)
    if len(error) == 0 or happened.min() == happened.max():
        raise ValueError(
            f"{int(happened.sum())} of {len(error)} samples are within {bound:g} {unit}; a probability needs "
            "some on either side: give another bound, or more scenes"
        )
    raw = np.stack([np.asarray(signals[name], np.float64) for name in names], axis=1)  # (N, n)
    mean, std = raw.mean(0), raw.std(0)
    std = np.where(std > 1e-6, std, 1.0)  # a signal that never changes says nothing
    z = np.clip((raw - mean) / std, -WIDEST, WIDEST)
    table = np.concatenate([np.ones((len(z), 1)), z, z * z], axis=1)  # (N, 1 + 2 n)
    solution = _newton(table, happened, _best_ridge(table, happened, walk))
    count = len(names)
    return TrustModel(
        bound=float(bound),
        unit=unit,
        names=tuple(names),
        mean=_rounded(mean),
        std=_rounded(std),
        weight=_rounded(solution[1 : 1 + count]),
        square=_rounded(solution[1 + count :]),
        bias=_rounded(solution[:1])[0],
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


def _best_ridge(table: np.ndarray, happened: np.ndarray, walk: np.ndarray) -> float:
    """Return the lambda with the least log loss on walks left out."""
    losses = []
    for ridge in RIDGES:
        loss = 0.0
        for fold in range(FOLDS):
            out = walk % FOLDS == fold
            if not out.any() or out.all() or happened[~out].min() == happened[~out].max():
                continue
            logit = table[out] @ _newton(table[~out], happened[~out], ridge)
            loss += float(np.logaddexp(0, np.where(happened[out] > 0, -logit, logit)).sum())
        losses.append(loss)
    return RIDGES[int(np.argmin(losses))]


def _newton(table: np.ndarray, happened: np.ndarray, ridge: float) -> np.ndarray:
    """Return the coefficients `(1 + 2 n,)` of least penalised log loss; the bias is not penalised."""
    penalty = np.full(table.shape[1], ridge)
    penalty[0] = 0.0
    x = np.zeros(table.shape[1])
    for _ in range(ITERATIONS):
        p = sigmoid(table @ x)
        gradient = table.T @ (p - happened) + penalty * x
        curvature = (table * (p * (1 - p))[:, None]).T @ table + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        x = x - step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-9:
            break
    return x

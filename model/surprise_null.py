"""What the denoising error of true chunks is where nothing strange happens: `wm_env.model.surprise`'s null.

    z(token, s)  = (log e(token, s) - a_s - b_s unseen - c_s detail - f_s log a(token, s)) / d_s
    raw(chunk)   = mean of the `TOP` largest over tokens of (mean over s of z(token, s)), minus m
    past(k)      = sum_{j < k} raw(j) / (`TRUST_IN_MEAN` + k)                   what the film was like so far
    surprise(k)  = (raw(k) - past(k)) / q                                       0 +- 1 where all is as usual

e and a(token, s), how far draws are apart, are those of `wm_env.model.surprise`. A world that does not know
says so by draws that are far apart: an error is surprising beside what it expected of itself. A place that
the world draws badly is so in every chunk; `past` takes that out. a, b, c, f, d by least squares over tokens,
one line a noise level s, m and q over chunks of true walks. Plain numbers, stored in a calibration
(`wm_env.model.trust_calibration`). Legend: `B` films, `n` chunks, `S` levels, `N` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from wm_env.model.storage.facts import check_fact, check_numbers, number

TOP = 12  # of the tokens of a chunk
TRUST_IN_MEAN = 0.5  # chunks that m counts as
FLOOR = 1e-6  # of an error
LARGEST = 1e6
T = TypeVar("T")
LISTS = ("sigmas", "intercept", "unseen", "detail", "apart", "spread")


class Watched(NamedTuple, Generic[T]):
    """What is seen of true chunks; T: arrays or tensors.

    errors, apart: squared denoising error, and variance of the draws, `(..., S, N)`. unseen, detail: of the
    tokens, `(..., N)`; unseen is 0 without a point memory.
    """

    errors: T
    apart: T
    unseen: T
    detail: T


@dataclass(frozen=True, kw_only=True)
class SurpriseNull:
    """sigmas: the levels s. intercept, unseen, detail, apart, spread: a, b, c, f, d, one a level. mean, std:
    m, q."""

    sigmas: tuple[float, ...]
    intercept: tuple[float, ...]
    unseen: tuple[float, ...]
    detail: tuple[float, ...]
    apart: tuple[float, ...]
    spread: tuple[float, ...]
    mean: float = 0.0
    std: float = 1.0

    def tokens(self, seen: Watched[np.ndarray]) -> np.ndarray:
        """Return z `(..., S, N)` of chunks."""
        a, b, c, f, d = (
            np.array(values)[:, None]
            for values in (self.intercept, self.unseen, self.detail, self.apart, self.spread)
        )
        told = a + b * seen.unseen[..., None, :] + c * seen.detail[..., None, :]
        return (_log(seen.errors) - told - f * _log(seen.apart)) / d

    def surprise(self, seen: Watched[np.ndarray]) -> np.ndarray:
        """Return the surprise `(B, n)` of films, whose errors are `(B, n, S, N)`."""
        raw = largest(self.tokens(seen)) - self.mean  # (B, n)
        before = np.cumsum(raw, axis=1) - raw
        past = before / (TRUST_IN_MEAN + np.arange(raw.shape[1]))
        return (raw - past) / self.std

    def to_json(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SurpriseNull:
        """Return the null that `to_json` wrote; `ValueError` names the first entry that cannot be."""
        odd = sorted(set(found) - {*LISTS, "mean", "std"})
        if odd:
            raise ValueError(f"{odd[0]!r} is unknown; known are {', '.join(LISTS)}, mean, std")
        sigmas = check_fact(found, "sigmas", lambda x: isinstance(x, list) and bool(x), "noise levels")
        for name in LISTS:
            least = {"sigmas": 0.0, "spread": 1e-6}.get(name, -LARGEST)
            check_numbers(found, name, len(sigmas), least, LARGEST, "a noise level")
        check_fact(found, "mean", lambda x: number(x, -LARGEST, LARGEST), "a number")
        check_fact(found, "std", lambda x: number(x, 1e-6, LARGEST), "a number above 0")
        lists = {name: tuple(float(n) for n in found[name]) for name in LISTS}
        return cls(**lists, mean=float(found["mean"]), std=float(found["std"]))


def largest(z: np.ndarray) -> np.ndarray:
    """Return the mean `(...)` of the `TOP` largest tokens of z `(..., S, N)`, averaged over levels first."""
    mean: np.ndarray = np.sort(z.mean(-2), axis=-1)[..., -min(TOP, z.shape[-1]) :].mean(-1)
    return mean


def fit_null(sigmas: tuple[float, ...], seen: Watched[np.ndarray]) -> SurpriseNull:
    """Return the null of true films, whose errors are `(B, n, S, N)`; at least 2 chunks of each."""
    shape = seen.errors.shape
    if len(shape) != 4 or shape[0] < 1 or shape[1] < 2:
        raise ValueError(f"a null distribution needs films of at least 2 chunks; errors have shape {shape}")
    known = [np.ones(seen.unseen.size), seen.unseen.ravel(), seen.detail.ravel()]
    lines, spreads = [], []
    for level in range(len(sigmas)):
        logs = _log(seen.errors[:, :, level]).ravel()
        table = np.stack([*known, _log(seen.apart[:, :, level]).ravel()], axis=1)
        line, *_ = np.linalg.lstsq(table, logs, rcond=None)
        lines.append([float(f"{x:.6g}") for x in line])
        spreads.append(max(float(f"{(logs - table @ line).std():.6g}"), 1e-3))
    a, b, c, f = (tuple(line[i] for line in lines) for i in range(4))
    null = SurpriseNull(sigmas=sigmas, intercept=a, unseen=b, detail=c, apart=f, spread=tuple(spreads))
    null = replace(null, mean=float(f"{largest(null.tokens(seen)).mean():.6g}"))
    spread = null.surprise(seen)[:, 1:].std()  # of chunks with a past
    return replace(null, std=max(float(f"{spread:.6g}"), 1e-3))


def _log(errors: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(np.maximum(errors, FLOOR))
    return found

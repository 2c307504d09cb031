"""What the denoising error of true chunks is where nothing strange happens: `wm_env.model.surprise`'s null.

    z(token, s)  = (log e(token, s) - a_s - b_s unseen - c_s detail) / d_s      one line a noise level s
    raw(chunk)   = mean of the `TOP` largest over tokens of (mean over s of z(token, s)), minus m
    past(k)      = sum_{j < k} raw(j) / (`TRUST_IN_MEAN` + k)                   what the film was like so far
    surprise(k)  = (raw(k) - past(k)) / q                                       0 +- 1 where all is as usual

A place that the world draws badly is so in every chunk; `past` takes that out. a, b, c, d by least squares
over tokens, m and q over chunks of true walks. Plain numbers, stored in a calibration
(`wm_env.model.trust_calibration`). Legend: `B` films, `n` chunks, `S` levels, `N` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wm_env.model.storage.facts import check_fact, check_numbers, number

TOP = 12  # of the tokens of a chunk
TRUST_IN_MEAN = 0.5  # chunks that m counts as
FLOOR = 1e-6  # of an error
LARGEST = 1e6
LISTS = ("sigmas", "intercept", "unseen", "detail", "spread")


@dataclass(frozen=True, kw_only=True)
class SurpriseNull:
    """sigmas: the levels s. intercept, unseen, detail, spread: a, b, c, d, one a level. mean, std: m, q."""

    sigmas: tuple[float, ...]
    intercept: tuple[float, ...]
    unseen: tuple[float, ...]
    detail: tuple[float, ...]
    spread: tuple[float, ...]
    mean: float = 0.0
    std: float = 1.0

    def tokens(self, errors: np.ndarray, unseen: np.ndarray, detail: np.ndarray) -> np.ndarray:
        """Return z `(..., S, N)` of errors `(..., S, N)`; unseen and detail `(..., N)` of the tokens."""
        a, b, c, d = (
            np.array(values)[:, None] for values in (self.intercept, self.unseen, self.detail, self.spread)
        )
        expected = a + b * unseen[..., None, :] + c * detail[..., None, :]
        return (np.log(np.maximum(errors, FLOOR)) - expected) / d

    def surprise(self, errors: np.ndarray, unseen: np.ndarray, detail: np.ndarray) -> np.ndarray:
        """Return the surprise `(B, n)` of films: errors `(B, n, S, N)`, unseen and detail `(B, n, N)`."""
        raw = largest(self.tokens(errors, unseen, detail)) - self.mean  # (B, n)
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


def fit_null(
    sigmas: tuple[float, ...], errors: np.ndarray, unseen: np.ndarray, detail: np.ndarray
) -> SurpriseNull:
    """Return the null of true films, as `SurpriseNull.surprise` takes them; at least 2 chunks of each."""
    if errors.ndim != 4 or errors.shape[0] < 1 or errors.shape[1] < 2:
        raise ValueError(
            f"a null distribution needs films of at least 2 chunks; errors have shape {errors.shape}"
        )
    table = np.stack([np.ones(unseen.size), unseen.ravel(), detail.ravel()], axis=1)
    lines, spreads = [], []
    for level in range(len(sigmas)):
        logs = np.log(np.maximum(errors[:, :, level].ravel(), FLOOR))
        line, *_ = np.linalg.lstsq(table, logs, rcond=None)
        lines.append([float(f"{x:.6g}") for x in line])
        spreads.append(max(float(f"{(logs - table @ line).std():.6g}"), 1e-3))
    a, b, c = (tuple(line[i] for line in lines) for i in range(3))
    null = SurpriseNull(sigmas=sigmas, intercept=a, unseen=b, detail=c, spread=tuple(spreads))
    null = replace(null, mean=float(f"{largest(null.tokens(errors, unseen, detail)).mean():.6g}"))
    spread = null.surprise(errors, unseen, detail)[:, 1:].std()  # of chunks with a past
    return replace(null, std=max(float(f"{spread:.6g}"), 1e-3))

"""The rows of a drift benchmark as arrays, by row name, trajectory, scene and noise seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_env.bench.drift.bins import BINS
from wm_env.bench.drift.rollouts import REPEAT
from wm_env.model.metrics.images import PSNR_CAP


class Rows:
    """The rows of `rows.jsonl`, by row name, trajectory, scene and noise seed."""

    def __init__(self, rows: Sequence[dict[str, Any]], judged: str) -> None:
        self.judged, self._rows = judged, rows
        self.trajectories = list(dict.fromkeys(row["trajectory"] for row in rows))
        self.names = sorted({row["row"] for row in rows}, key=lambda name: (name != judged, name))
        self.scenes = sorted({row["scene"] for row in rows})
        self._by: dict[tuple[str, str, int], dict[int, dict[str, Any]]] = {}
        for row in rows:
            key = (row["row"], row["trajectory"], row["scene"])
            self._by.setdefault(key, {})[row["noise"]] = row

    def standing(self) -> tuple[str, ...]:
        """Return the trajectories whose camera stands still: the first frame, repeated, equals the truth."""
        found = {one: self.family(REPEAT, ["psnr"], one) for one in self.trajectories}
        return tuple(
            one
            for one, psnr in found.items()
            if np.isfinite(psnr).any() and (psnr[np.isfinite(psnr)] == PSNR_CAP).all()
        )

    def moving(self) -> Rows:
        """Return the rows of the other trajectories; all where every camera stands still."""
        still = self.standing()
        rows = [row for row in self._rows if row["trajectory"] not in still]
        return Rows(rows, self.judged) if rows else self

    def table(self, name: str, path: Sequence[str], trajectories: Sequence[str] | None = None) -> np.ndarray:
        """Return entry `path` of a row `(scenes, seeds, bins)`, mean over trajectories, NaN if absent."""
        families = [self.family(name, path, one) for one in trajectories or self.trajectories]
        with np.errstate(invalid="ignore"):
            stack = np.stack(families)
            count = np.isfinite(stack).sum(0)
            return np.where(count > 0, np.nansum(stack, 0) / np.maximum(count, 1), np.nan)

    def family(self, name: str, path: Sequence[str], trajectory: str) -> np.ndarray:
        """Return the same of one trajectory."""
        found = [self._by.get((name, trajectory, scene), {}) for scene in self.scenes]
        absent = [[np.nan] * BINS] * max(1, *(len(seeds) for seeds in found))  # walked by other scenes only
        tables = [[entry(seeds[noise], path) for noise in sorted(seeds)] or absent for seeds in found]
        return np.array(tables, dtype=np.float64)

    def each(self, name: str) -> list[dict[str, Any]]:
        """Return the single rows of one name."""
        return [row for key, seeds in self._by.items() if key[0] == name for row in seeds.values()]

    def one(self, name: str, trajectory: str, scene: int) -> dict[str, Any] | None:
        """Return the first seed's row, None where there is none."""
        return next(iter(self._by.get((name, trajectory, scene), {}).values()), None)


def entry(row: dict[str, Any], path: Sequence[str]) -> list[float]:
    """Return entry `path` of a row, one number a bin, NaN where it has none."""
    value: Any = row
    for key in path:
        if key not in value:
            return [np.nan] * BINS
        value = value[key]
    return [np.nan if x is None else x for x in value]

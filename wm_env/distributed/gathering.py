"""Answers of several batches as the answer of one: observations, infos with their masks, snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def gather(parts: Sequence[Any]) -> Any:
    """Return observations (arrays, or dicts of arrays, slots first) of several batches as one."""
    if isinstance(parts[0], Mapping):
        return {name: gather([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


def gather_infos(parts: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    """Return the infos of several batches as Gymnasium would have written them for one.

    A batch that lacks an entry has zeros, None or False there, as a slot that lacks it has; `_NAME` says
    which slots have it. counts: slots of each batch.
    """
    names = list(dict.fromkeys(name for part in parts for name in part))
    return {name: _entry([part.get(name) for part in parts], counts) for name in names}


def _entry(values: Sequence[Any], counts: Sequence[int]) -> Any:
    present = next(value for value in values if value is not None)
    if isinstance(present, Mapping):
        return gather_infos([{} if value is None else value for value in values], counts)
    like = np.asarray(present)
    empty = None if like.dtype == object else 0
    filled = [
        np.full((count, *like.shape[1:]), empty, like.dtype) if value is None else value
        for value, count in zip(values, counts, strict=True)
    ]
    return np.concatenate(filled)

"""Numbers that a caller gives, as an array: known to be few and plain before anything is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_DEEPEST = 8  # lists in lists


def plain_array(given: Any, most: int) -> np.ndarray:
    """Return numbers as an array of their own shape and dtype, at most `most` of them.

    given: a number, an array, a tensor on any device (gradients are left behind), or lists of those. Raises
    `ValueError` in one sentence for what holds more, is ragged, or has no numbers to read, such as a tensor
    that is sparse or on the meta device.
    """
    array = np.asarray(_plain(given, most, 0))
    if array.size > most:
        raise ValueError(f"it holds {array.size} values, more than the {most} that are looked at")
    return array


def numbers_of(given: np.ndarray | Tensor, most: int) -> np.ndarray:
    """Return an array, or the values of a tensor as one, without a copy where none is needed; see above."""
    count = given.numel() if isinstance(given, Tensor) else given.size
    if count > most:
        raise ValueError(f"it holds {count} values, more than the {most} that are looked at")
    if isinstance(given, np.ndarray):
        return given
    if given.is_meta or given.layout is not torch.strided or given.is_quantized:
        raise ValueError("it is a tensor without values to read (meta, sparse or quantised)")
    plain = given.detach().cpu()
    return (plain.float() if plain.dtype is torch.bfloat16 else plain).resolve_conj().resolve_neg().numpy()


def _plain(given: Any, most: int, depth: int) -> Any:
    if isinstance(given, np.ndarray | Tensor):
        return numbers_of(given, most)
    if isinstance(given, list | tuple | range):
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        if given[most:]:
            raise ValueError(f"it holds more than the {most} values that are looked at")
        return [_plain(one, most, depth + 1) for one in given]
    if isinstance(given, str | bytes) and len(given) > most:
        raise ValueError("it is a text")
    return given

"""An error beside the bound it must not exceed, the bounds, and how unwritten memory is made to show."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

REASONS = {
    "float64": "rounding of sums over a few frames in float64 (1e-16 a term)",
    "float32": "rounding of sums over tokens and frames in float32 (6e-8 a term); products of three TF32 "
    "parts are as good, one TF32 product (5e-4) is not",
    "float16": "float16 keeps 11 bits (5e-4); gradients pass several rounded products",
    "bfloat16": "bfloat16 keeps 8 bits (4e-3); gradients pass several rounded products",
    "bits": "the same work on the same numbers: equal to the last bit",
}
BOUNDS = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}


class Proof(NamedTuple):
    """One property on one problem. error, bound: relative to the largest exact value unless the name says."""

    name: str
    error: float
    bound: float
    reason: str

    @property
    def holds(self) -> bool:
        """Whether the error is within the bound; an error that is not a number never is."""
        return self.error <= self.bound


Check = Callable[[], list[Proof]]


def label_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype, as the keys of `REASONS` have it."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def unwritten_is_nan() -> Iterator[None]:
    """Fill every buffer that torch hands out uninitialised with NaN, for the duration."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of library calls without a deterministic form: not asked for
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]

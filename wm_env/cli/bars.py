"""Progress bars of commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def steps_bar(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass steps through a progress bar."""
    yield from tqdm(steps, total=total, unit="step", desc=what, mininterval=0.5)

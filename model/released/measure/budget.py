"""A budget of time: how it is written, and the share of it that one part may use."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Return the seconds of "7m", "420s", "0.2h" or "420"; raise `ValueError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{text!r} is not a time; write 7m, 420s or 420 (seconds), above 0")
    return float(found[1]) * UNITS[found[2]]


@dataclass(frozen=True)
class Box:
    """The time that one part may use, in seconds of `clock`."""

    clock: Clock
    seconds: float
    began: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "began", self.clock())

    @property
    def left(self) -> float:
        return self.seconds - (self.clock() - self.began)

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so long still fits."""
        return seconds <= self.left

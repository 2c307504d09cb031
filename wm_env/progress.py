"""The progress bar of every long command: how much is done, and how long the rest takes.

The rate is that of the last minute, or of the newer half of a longer time, from the first move on:

    rate = (n(now) - n(then)) / (now - then),    then = max(first move, now - max(60 s, half the time so far))

so the wait before the first move (weights are read, kernels are made) is in no estimate, one slow step weighs
little, and pauses that come again and again (a policy learns, a report is drawn) are in it as often as they
come. Before the second move no estimate is shown.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, TypeVar

from tqdm import tqdm

SHORTEST = 60.0  # seconds of the window, at least
T = TypeVar("T")
_open: weakref.WeakSet[Bar] = weakref.WeakSet()


class Rate:
    """Things per second; see the module docstring."""

    def __init__(self) -> None:
        self._moves: deque[tuple[float, float]] = deque()
        self._begun = 0.0

    def move(self, now: float, n: float) -> None:
        """Note that `n` things are done at the time `now`."""
        if not self._moves:
            self._begun = now
        self._moves.append((now, n))
        then = now - max(SHORTEST, (now - self._begun) / 2)
        while len(self._moves) > 2 and self._moves[1][0] <= then:
            self._moves.popleft()

    def at(self, now: float) -> float:
        """Return the rate at the time `now`; 0 before the second move."""
        if len(self._moves) < 2:
            return 0.0
        (then, before), (last, n) = self._moves[0], self._moves[-1]
        pace = (last - then) / (len(self._moves) - 1)
        return (n - before) / max(last - then, now - then - pace, 1e-9)  # a move that is late slows it down


class Bar(tqdm):
    """A progress bar on standard error, to be left by `with` or `close`.

    total: of things in all; a fraction of one is fine where they are weighed. done: those that were there
    before. shown: False draws nothing. clock: seconds. file: to draw on instead.
    """

    def __init__(
        self,
        total: float | None,
        what: str,
        *,
        unit: str = "step",
        done: float = 0,
        shown: bool = True,
        leave: bool = True,
        clock: Callable[[], float] = time.monotonic,
        file: IO[str] | None = None,
    ) -> None:
        self._clock, self._rate = clock, Rate()
        super().__init__(
            total=total, initial=done, unit=unit, desc=what, disable=not shown, leave=leave, mininterval=0.5,
            miniters=1, file=file,
        )  # fmt: skip
        _open.add(self)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the line is made of: tqdm's, but for the rate, and weighed things are whole ones."""
        found: dict[str, Any] = super().format_dict
        whole = {name: None if found[name] is None else round(found[name]) for name in ("n", "total")}
        return {**found, **whole, "rate": self._rate.at(self._clock())}

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes, None while there is no telling."""
        rate = self._rate.at(self._clock())
        return (self.total - self.n) / rate if rate and self.total is not None else None

    def update(self, n: float | None = 1) -> bool | None:
        """Move by `n`; return whether the line was drawn anew."""
        moved = 1 if n is None else n
        if moved:
            self._rate.move(self._clock(), self.n + moved)
        drawn: bool | None = super().update(moved)
        return drawn

    def to(self, done: float, total: float | None = None, what: str | None = None) -> None:
        """Move to `done`, of `total` where that has changed, and say what is done now."""
        if total is not None:
            self.total = total
        if what is not None:
            self.set_postfix_str(what, refresh=False)
        self.update(done - self.n)

    def close(self) -> None:
        """Draw the line for the last time; may be called twice."""
        _open.discard(self)
        super().close()


def over(things: Iterable[T], total: int, what: str, unit: str = "step") -> Iterator[T]:
    """Pass things through a progress bar."""
    with Bar(total, what, unit=unit) as bar:
        for thing in things:
            yield thing
            bar.update()
        bar.total = bar.n  # there may have been fewer


def close_bars() -> None:
    """End every bar that an exception left open, so that none is drawn over what is said afterwards."""
    for bar in [*_open]:
        bar.close()

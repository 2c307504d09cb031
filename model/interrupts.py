"""SIGINT and SIGTERM while a command runs: what is half done is thrown away, what is done is saved.

    with caught() as guard:
        while not guard.asked:
            with guard.abandoning():      # a signal leaves this block at once, by `Interrupted`
                gradients = ...
            optimizer.step()              # here it waits: weights are never half moved

Outside the main thread Python cannot catch signals, and nothing is changed.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_held = 0  # blocks of `held_back` that are open, in the main thread
_waiting: int | None = None  # the signal that came within them
TIDYING = 2.0  # seconds that nothing cuts off after a first signal


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop; `signal` is its number. Its text says what was saved, "" that nothing was."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.signal = number


class Guard:
    """Which signal has come, and whether it may end the work that is being done."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._open = False

    @property
    def asked(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.signal is not None

    @contextlib.contextmanager
    def abandoning(self) -> Iterator[None]:
        """Let a signal leave this block at once; one that has come before leaves it before it begins."""
        self._leave_if_asked()
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Remember a signal; raise `Interrupted` where the work may be thrown away."""
        self.signal = number
        if self._open:
            self._open = False  # a second signal must not cut off the cleaning up
            self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if self.signal is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.signal).name}", self.signal)


@contextlib.contextmanager
def caught() -> Iterator[Guard]:
    """Catch SIGINT and SIGTERM within the block; afterwards they do what they did before."""
    guard = Guard()
    if threading.current_thread() is not threading.main_thread():
        yield guard
        return
    before = {number: signal.signal(number, guard.note) for number in SIGNALS}
    try:
        yield guard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Interrupted` in the block, so that `finally` blocks tidy up.

    They do so where SIGINT is ignored too, as it is in what a shell script runs in the background. Further
    signals of the next `TIDYING` seconds are ignored: Ctrl-C often comes twice, from the terminal and from a
    parent that hands it on.
    """
    first = -math.inf

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal first
        global _waiting
        if _held:
            _waiting = number
            return
        now = time.monotonic()
        if now - first > TIDYING:
            first = now
            raise Interrupted("", number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let no `Interrupted` of `terminated_like_interrupted` come within the block; it comes at its end."""
    global _held, _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held and _waiting is not None:
            number, _waiting = _waiting, None
            raise Interrupted("", number)


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Hold SIGINT back in the block: what it starts never gets one, this process gets it afterwards.

    Processes that are started here inherit the mask. Ctrl-C reaches all processes of a terminal; those that
    help are ended by their parent.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_process(status: int) -> NoReturn:
    """End this process after a signal, all being saved, without Python's own tidying up.

    With torch loaded that takes about half a second of CPU, and seconds on a busy machine.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a closed pipe
            stream.flush()
    os._exit(status)

"""Hostile inputs, one by one: what is refused is refused rightly, quickly, and changes nothing.

Right are `ValueError`, `OSError` and the errors of Gymnasium; a message has at most 1000 characters. A
refusal may take 20 s and touch 64 MiB at most, and what was attacked is then the same object as before.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

RIGHT = (ValueError, OSError, gym.error.Error)
SECONDS, MEBIBYTES, CHARACTERS = 20.0, 64.0, 1000
SHOWN = 5  # examples of each fault in the report


class Target(Protocol):
    """What is attacked."""

    def attempt(self, rng: np.random.Generator) -> tuple[str, Callable[[], Any]]:
        """Return a hostile call and a few words about it."""
        ...

    def state(self) -> Any:
        """Return what a refusal must not change, to be compared by ==."""
        ...

    def settle(self) -> str | None:
        """Undo what an accepted input did; return what is wrong with it, None where nothing is."""
        ...


class Hang(BaseException):
    """An input took too long."""


@dataclass
class Outcome:
    """Counts of one target, and the first examples of every fault."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    wrong_kind: list[str] = field(default_factory=list)
    state_changed: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    allocated: list[str] = field(default_factory=list)
    long_message: list[str] = field(default_factory=list)
    wrongly_accepted: list[str] = field(default_factory=list)

    def faults(self) -> dict[str, list[str]]:
        """Return the faults that there are, with their examples."""
        kinds = ("wrong_kind", "state_changed", "hung", "allocated", "long_message", "wrongly_accepted")
        return {kind: vars(self)[kind] for kind in kinds if vars(self)[kind]}

    def to_json(self) -> dict[str, Any]:
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return counts | {
            name: {"count": len(value), "examples": value[:SHOWN]}
            for name, value in vars(self).items()
            if isinstance(value, list)
        }


def attack(target: Target, count: int, seed: int) -> Outcome:
    """Return what became of `count` inputs; the same seed gives the same inputs."""
    outcome, rng = Outcome(), np.random.default_rng(seed)
    before = signal.signal(signal.SIGALRM, _hang)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(count):
                _one(target, outcome, rng)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return outcome


def _one(target: Target, outcome: Outcome, rng: np.random.Generator) -> None:
    words, call = target.attempt(rng)
    outcome.inputs += 1
    held, resident = target.state(), _watch_memory()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        call()
    except Hang:
        outcome.hung.append(words)
    except RIGHT as error:
        outcome.refused += 1
        if len(str(error)) > CHARACTERS:
            outcome.long_message.append(f"{words}: {len(str(error))} characters")
    except Exception as error:  # every other kind is what this looks for
        outcome.refused += 1
        outcome.wrong_kind.append(f"{words}: {type(error).__name__}: {str(error)[:120]}")
    else:
        signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.accepted += 1
        fault = target.settle()
        if fault is not None:
            outcome.wrongly_accepted.append(f"{words}: {fault}")
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    grown = (_peak() - resident) / 2**20
    if grown > MEBIBYTES:
        outcome.allocated.append(f"{words}: {grown:.0f} MiB")
    if target.state() != held:
        outcome.state_changed.append(words)
        target.settle()


def _hang(*_: object) -> None:
    raise Hang


def _watch_memory() -> int:
    """Let the peak of this process's memory begin anew; return what it holds now, in bytes.

    What was freed goes back to the system first: an allocation that finds it again would raise no peak.
    """
    if sys.platform != "linux":
        return 0
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others keep little
    if trim is not None:
        trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """Return the most memory that this process held since `_watch_memory`, in bytes."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

"""Parts of a measurement that take as long as they say, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wm_env.model.released.measure.budget import Box
from wm_env.model.released.measure.record import Record
from wm_env.model.released.measure.runner import Part, run_parts


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def takes(clock: Clock, seconds: float, result: dict[str, Any] | None = None) -> Callable[[Box], dict]:
    def run(box: Box) -> dict[str, Any]:
        clock.now += seconds
        return {"seen": box.seconds} if result is None else result

    return run


def fails(error: BaseException) -> Callable[[Box], dict]:
    def run(box: Box) -> dict[str, Any]:
        raise error

    return run


def go(
    todo: Sequence[Part], path: Path, clock: Clock, budget: float = 100, **more: Any
) -> tuple[Record, list[str], bool]:
    """Run parts on a fake clock; return the file, what was said, and whether the device still answers."""
    record, said = Record(path, {"device": "none"}), []
    options = {"code": "c", "run": "r", "budget": budget, "deadline": clock() + budget} | more
    answers = run_parts(todo, record, clock=clock, say=said.append, **options)
    return record, said, answers


def status(record: Record) -> dict[str, str]:
    return {name: part["status"] for name, part in record.parts.items()}

"""The files that hold the numbers, and how a page writes a number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]
SPLITS = ("val", "heldout")


class Files:
    """The JSON files below a folder, each read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, Any] = {}

    def __call__(self, path: str) -> Any:
        if path not in self._read:
            self._read[path] = json.loads((self._root / path).read_text(encoding="utf-8"))
        return self._read[path]

    def fidelity(self, world: str) -> Any:
        return self(f"docs/performance/fidelity-{world}.json")

    def context(self, world: str) -> Any:
        return self(f"docs/performance/context-{world}.json")

    @property
    def contact(self) -> Any:
        return self("docs/performance/contact.json")

    @property
    def goals(self) -> Any:
        return self("docs/performance/goals.json")

    @property
    def context_steps(self) -> Any:
        return self("docs/performance/context_steps.json")

    @property
    def speed(self) -> Any:
        return self("docs/performance/throughput.json")

    @property
    def turns(self) -> Any:
        return self("docs/performance/turns.json")

    @property
    def agents(self) -> Any:
        return self("docs/performance/agents.json")

    @property
    def context_check(self) -> Any:
        return self("docs/performance/context_check.json")

    @property
    def hardness(self) -> Any:
        return self("docs/performance/reliability.json")

    @property
    def drift(self) -> Any:
        return self("docs/reports/drift-tiny/drift.json")

    @property
    def minute(self) -> Any:
        return self("docs/reports/drift-tiny/60s/drift.json")

    @property
    def students(self) -> Any:
        return self("docs/reports/distillation/drift.json")

    @property
    def transfer(self) -> Any:
        return self("docs/reports/transfer-quick/transfer.json")


def made(*reports: Report) -> str:
    """Return the hardware, threads, torch and day of reports, once where they agree."""
    return "; ".join(
        dict.fromkeys(
            f"{one['hardware']}, {one['threads']} thread{'s' * (one['threads'] != 1)}, torch {one['torch']}, "
            f"{one['date'].partition(' ')[0]}"
            for one in reports
        )
    )


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rule = "|" + "---|" * len(head)
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def bold(row: Sequence[str]) -> list[str]:
    return [f"**{cell}**" if cell else cell for cell in row]


def span(values: Iterable[float], digits: int, between: str = " to ") -> str:
    """Return the smallest and the largest value, or the one where they read alike."""
    ends = sorted(values)
    return between.join(dict.fromkeys(f"{end:.{digits}f}" for end in (ends[0], ends[-1])))


def band(found: Report, digits: int = 2, scale: float = 1.0) -> str:
    """Return "mean [lo, hi]"."""
    return f"{scale * found['mean']:.{digits}f} {interval(found, digits, scale)}"


def interval(found: Report, digits: int = 2, scale: float = 1.0) -> str:
    """Return "[lo, hi]"; scores of agents call the ends so as well."""
    return f"[{scale * found['lo']:.{digits}f}, {scale * found['hi']:.{digits}f}]"


def listed(values: Iterable[float | None], digits: int, between: str = ", ", sign: str = "") -> str:
    return between.join("-" if value is None else f"{value:{sign}.{digits}f}" for value in values)


def means(files: Files, world: str, *path: str) -> list[float]:
    """Return the mean at a path in every split's results."""
    found = []
    for split in SPLITS:
        cell = files.fidelity(world)["splits"][split]
        for key in path:
            cell = cell[key]
        found.append(cell["mean"])
    return found


def judged(told: str, met: bool) -> str:
    """Return a value in words with a mark where it misses its gate."""
    return told if met else f"{told} (**missed**)"

"""`losses.jsonl` of a run: one JSON object a line, training losses as means and held-out measures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_env.model.storage.atomic import remove_leftovers, write_atomic


def open_folder(run: Path, step: int) -> None:
    """Make the folder of a run agree with its state at `step`, whatever ended the process before.

    What killed writers left is removed, and lines of the log from after `step`.
    """
    remove_leftovers(run)
    drop_lines_after(run / "losses.jsonl", step)


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Write `entry` as the last line of a log."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Remove the lines of later steps from a log, as a run does that goes on from `step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # cut off by a kill while writing
            break
        if entry["step"] > step:
            break
        kept.append(line)
    write_atomic(path, "".join(f"{line}\n" for line in kept).encode())


class Window:
    """Mean of the metrics of the last few steps, each over the steps that reported it."""

    def __init__(
        self, sums: Mapping[str, float] | None = None, counts: Mapping[str, int] | None = None
    ) -> None:
        self.sums, self.counts = dict(sums or {}), dict(counts or {})

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def mean(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}

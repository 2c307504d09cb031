"""Files of rows: what is already measured, so that an interrupted benchmark continues.

Line 1 holds the settings, every other line one walk, or one part of a smaller benchmark. A group of scenes
counts only with all of its rows (the batch size is part of the arithmetic); what an interruption cut off is
dropped and measured again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_env.bench.records import plain
from wm_env.model.storage.atomic import atomic_path, remove_leftovers

Job = tuple[str, list[int]]
"""A trajectory and the scenes that are walked along it together."""


def open_rows(
    out: Path, identity: dict[str, Any], groups: Sequence[Job], per_scene: int
) -> list[dict[str, Any]]:
    """Return the rows of whole groups in `out`, made for the same settings, or start the file.

    What killed writers left in `out` is removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    path = out / "rows.jsonl"
    return _whole_groups(path, _open_lines(path, identity), groups, per_scene)


def open_parts(path: Path, identity: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of the file `path` by their "part", made for the same settings, or start the file."""
    return {line.pop("part"): line for line in _open_lines(path, identity)[1:]}


def _open_lines(path: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the whole lines of a file of rows, the first one its settings; start it where there is none."""
    head = {"settings": identity}
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return [head]
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    if complete != text:  # a line cut off by an interruption
        with atomic_path(path) as temporary:
            temporary.write_text(complete, encoding="utf-8")
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in complete.splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is corrupted ({error}); delete it or choose another --out") from error
    if not lines or lines[0].get("settings") != identity:
        raise ValueError(f"{path} holds rows of another world or other settings; choose another --out")
    return lines


def _whole_groups(
    path: Path, lines: list[dict[str, Any]], groups: Sequence[Job], per_scene: int
) -> list[dict[str, Any]]:
    """Return the rows of groups that have all of theirs; drop the rest from the file as well."""
    counts: dict[tuple[str, int], int] = {}
    for row in lines[1:]:
        key = (row["trajectory"], row["scene"])
        counts[key] = counts.get(key, 0) + 1
    whole = {
        (name, scene)
        for name, scenes in groups
        if all(counts.get((name, one)) == per_scene for one in scenes)
        for scene in scenes
    }
    kept = [row for row in lines[1:] if (row["trajectory"], row["scene"]) in whole]
    if len(kept) < len(lines) - 1:
        with atomic_path(path) as temporary:
            temporary.write_text(
                "".join(json.dumps(line) + "\n" for line in [lines[0], *kept]), encoding="utf-8"
            )
    return kept


def append_rows(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add the rows of finished scenes."""
    with (out / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add one row to a file of rows."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def rounded(value: Any) -> Any:
    """Return a JSON value with every number at five significant digits, what a row is read to."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write one JSON value; the file appears only when it is complete."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=indent) + "\n", encoding="utf-8")

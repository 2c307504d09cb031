"""From the rows of films and tracks to the numbers of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wm_env.bench.annotate.films import KINDS
from wm_env.bench.annotate.report import SOURCES, KindRow, WrongRow
from wm_env.bench.annotate.rows import FAULTS
from wm_env.model.metrics.intervals import Band, band

PLACED = 0.9
Rows = Mapping[str, Mapping[str, Any]]


def kind_rows(films: Rows) -> dict[str, KindRow]:
    """Return the row of every kind that has films; films: rows of `annotated` by name."""
    told = {}
    for kind in KINDS:
        own = [row for row in films.values() if row["kind"] == kind]
        if own:
            told[kind] = _kind(own)
    return told


def _kind(rows: list[Mapping[str, Any]]) -> KindRow:
    def over(name: str) -> Band:
        return band(np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=float))

    status = [row["status"] for row in rows]
    return KindRow(
        films=len(rows),
        accepted=status.count("accepted"),
        rotation_only=status.count("rotation only"),
        placed=sum(row["placed"] >= PLACED for row in rows),
        wrong=sum(bool(row.get("wrong")) for row in rows),
        rotation=over("rotation"),
        translation=over("translation"),
        ate=over("ate"),
        focal=over("focal"),
        scale={name: over(name) for name in SOURCES},
        seconds=over("seconds"),
        cpu=over("cpu"),
    )


def wrong_rows(tracks: Rows) -> tuple[WrongRow, dict[str, WrongRow]]:
    """Return how true tracks and those with each fault were judged; tracks: rows of `judged`, by name."""
    faults = {fault: [row for row in tracks.values() if row["fault"] == fault] for fault in FAULTS}
    true = _judged(row for row in tracks.values() if row["fault"] == "true")
    return true, {fault: _judged(rows) for fault, rows in faults.items() if rows}


def _judged(rows: Iterable[Mapping[str, Any]]) -> WrongRow:
    by = [row["by"] for row in rows]
    return WrongRow(
        tracks=len(by),
        filters=by.count("filters"),
        clip=by.count("clip"),
        check=by.count("context check"),
        accepted=by.count("nobody"),
    )

"""Numbers of docs/measure_context_check.py."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from written import Files, Report, lines, made

VERDICTS = ("fits", "cannot tell", "does not fit")


def context_check(files: Files) -> dict[str, str]:
    groups = files.context_check["groups"]
    damaged, undamaged = groups["damaged"]["rows"], groups["undamaged"]["rows"]
    others = groups["others"]["rows"]
    rows = [counted("one fault of convention", damaged), counted("as they are", undamaged)]
    for damage in dict.fromkeys(row["damage"] for row in others):
        rows.append(counted(damage, [row for row in others if row["damage"] == damage]))
    head = ["clips", "number", *VERDICTS, "named and mended"]
    fits = sum(row["verdict"] == "fits" for row in undamaged)
    mended = sum(row["mended"] for row in damaged)
    every = [row["seconds"] for group in (damaged, undamaged, others) for row in group]
    return {
        "context-check": lines(head, rows),
        "context-machine": made(files.context_check),
        "context-right": f"{mended} of {len(damaged)} and {fits} of {len(undamaged)}",
        "context-fine": f"{sum(row['verdict'] == 'fits' for row in [*damaged, *others])} of "
        f"{len(damaged) + len(others)}",
        "context-seconds": f"{median(every):.1f}",
    }


def counted(name: str, rows: Sequence[Report]) -> list[str]:
    """Return a row of the table: how many clips got each verdict."""
    verdicts = [str(sum(row["verdict"] == verdict for row in rows)) for verdict in VERDICTS]
    return [name, str(len(rows)), *verdicts, str(sum(row["mended"] for row in rows))]

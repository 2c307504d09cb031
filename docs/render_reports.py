"""Write the committed reports again from what is kept of them; nothing is measured.

    python docs/render_reports.py

Numbers of the drift reports are scored from their rows (`rows.jsonl.gz`), pages and tables are made of the
numbers. Film strips and the memories of drift pages come from files that are too large to keep: those of the
page that is there are put where they belong. After a change of a page or a score, run this, then
`python docs/fill_numbers`, and read the diff; `tests/wm_env/bench/test_committed_reports.py` compares.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wm_env.agents.transfer.page import write_report as write_transfer
from wm_env.agents.transfer.report import TransferReport
from wm_env.bench import annotate, context, fidelity, throughput, trust
from wm_env.bench.drift.report import DriftReport, Head
from wm_env.bench.drift.run import draw
from wm_env.bench.drift.score import score
from wm_env.bench.page import folded
from wm_env.bench.records import load
from wm_env.bench.row_file import write_json

DOCS = Path(__file__).resolve().parent
DRIFT = ("drift-tiny", "drift-tiny/60s", "distillation")
TABLES: tuple[tuple[str, type[Any], Callable[[Any], str]], ...] = (
    ("fidelity-*.json", fidelity.FidelityReport, fidelity.markdown),
    ("context-*.json", context.ContextReport, context.markdown),
    ("trust-*.json", trust.TrustReport, trust.markdown),
    ("annotate.json", annotate.AnnotateReport, annotate.markdown),
    ("throughput.json", throughput.ThroughputReport, throughput.markdown),
)
_FILM = re.compile(r'<figure><img alt="[^"]*: truth, generated, error.*?</figure>')
_MEMORIES = re.compile(r"<details><summary>What the memories do</summary>.*</details>\n")
_COURSE = '<figure><img alt="Truth, place and motion'
_TABLES = "<details><summary>More tables"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a drift report."""
    with gzip.open(folder / "rows.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file][1:]


def rescored(report: DriftReport, rows: list[dict[str, Any]]) -> DriftReport:
    """Return a drift report with its numbers made of its rows again."""
    head = {field.name: report.__dict__[field.name] for field in dataclasses.fields(Head)}
    numbers = score(
        rows, report.world, report.seconds, report.pose_gate, report.settings.seed, report.compared
    )
    return DriftReport(**head, cost=report.cost, **vars(numbers))


def with_kept(made: str, there: str, first: str) -> str:
    """Return the page `made` with the film strips and memories of the page `there`.

    first: what begins the caption of the strip that stands on top.
    """
    films = sorted(_FILM.findall(there), key=lambda film: not film.startswith(f'<figure><img alt="{first}'))
    memories = "".join(_MEMORIES.findall(there))
    more = folded("More film strips", films[1:]) + "\n" if films[1:] else ""
    made = made.replace(_COURSE, "".join(f"{film}\n" for film in films[:1]) + _COURSE, 1)
    before, tables, after = made.partition(_TABLES)
    rest, end = after.split("\n", 1)
    return f"{before}{more}{tables}{rest}\n{memories}{end}"


def render_drift(folder: Path) -> None:
    """Write numbers and page of a drift report."""
    rows = rows_of(folder)
    report = rescored(load(DriftReport, folder / "drift.json"), rows)
    page = folder / "report.html"
    with tempfile.TemporaryDirectory() as made:
        draw(report, rows, Path(made))
        text = (Path(made) / "report.html").read_text(encoding="utf-8")
    page.write_text(
        with_kept(text, page.read_text(encoding="utf-8"), f"random_walk, {report.world}:"), encoding="utf-8"
    )
    write_json(folder / "drift.json", report.to_json())


def render_transfer(folder: Path) -> None:
    """Write the page of a transfer report; its numbers stay as they are."""
    with tempfile.TemporaryDirectory() as made:
        write_transfer(Path(made), load(TransferReport, folder / "transfer.json"))
        (folder / "report.html").write_bytes((Path(made) / "report.html").read_bytes())


def main() -> None:
    for name in DRIFT:
        render_drift(DOCS / "reports" / name)
    render_transfer(DOCS / "reports" / "transfer-quick")
    for name, kind, markdown in TABLES:
        for path in sorted((DOCS / "performance").glob(name)):
            path.with_suffix(".md").write_text(markdown(load(kind, path)), encoding="utf-8")


if __name__ == "__main__":
    main()

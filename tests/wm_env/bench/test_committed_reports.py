"""The committed reports are read, scored again from their rows and rendered again, and come out the same.

What a page shows beside them from files that are not kept (films and state telemetry) is left out on both
sides; docs/reports/README.md says so.
"""

from __future__ import annotations

import gzip
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from wm_env.bench.drift.report import DriftReport
from wm_env.bench.drift.run import draw
from wm_env.bench.drift.score import score
from wm_env.bench.records import load

ROOT = Path(__file__).resolve().parents[3]
REPORTS = ROOT / "docs" / "reports"
DRIFT = ("drift-tiny", "drift-tiny/60s", "distillation")
NOT_KEPT = (
    *(r"<figure><img alt=\"[^\"]*: truth, generated, error", r"<figure><img alt=\"GDN memories"),
    *(r"<figure><img alt=\"Decay gates", "<p>GDN steps with", "<h2>Does a memory foretell"),
    *("<table><tr><th></th><th>norm</th>", "<p class='note'>Evidence about the mechanism"),
)


def drawn_with_the_pinned_matplotlib() -> bool:
    """Return whether figures come out byte by byte as they were committed."""
    (pinned,) = re.findall(r"^matplotlib==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    return version("matplotlib") == pinned


def lines(page: Path) -> list[str]:
    """Return the lines of a page that come from what is kept; pictures only where they are comparable."""
    found = [line for line in page.read_text().splitlines() if not re.match("|".join(NOT_KEPT), line)]
    if drawn_with_the_pinned_matplotlib():
        return found
    return [re.sub(r'src="[^"]+"', "", line) for line in found]


def rows_of(name: str) -> list[dict[str, Any]]:
    with gzip.open(REPORTS / name / "rows.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file][1:]


@pytest.mark.parametrize("name", DRIFT)
def test_a_drift_report_is_what_its_rows_make(name: str) -> None:
    kept = json.loads((REPORTS / name / "drift.json").read_text())
    report = load(DriftReport, REPORTS / name / "drift.json")
    assert report.to_json() == kept
    seed, gate = report.settings.seed, report.pose_gate
    again = score(rows_of(name), report.world, report.seconds, gate, seed, report.compared).to_json()
    assert {key: kept[key] for key in again} == again


@pytest.mark.parametrize("name", DRIFT)
def test_a_drift_page_is_what_its_report_and_rows_make(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(load(DriftReport, REPORTS / name / "drift.json"), rows_of(name), tmp_path)
    made, kept = lines(tmp_path / "report.html"), lines(REPORTS / name / "report.html")
    assert len(kept) > 50 and made == kept

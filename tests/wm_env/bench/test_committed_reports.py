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

from wm_env.agents.transfer.page import write_report
from wm_env.agents.transfer.report import TransferReport
from wm_env.bench.drift.report import DriftReport
from wm_env.bench.drift.run import draw
from wm_env.bench.drift.score import score
from wm_env.bench.fidelity import FidelityReport
from wm_env.bench.provenance import Report
from wm_env.bench.records import load
from wm_env.bench.throughput import ThroughputReport

ROOT = Path(__file__).resolve().parents[3]
REPORTS = ROOT / "docs" / "reports"
DRIFT = ("drift-tiny", "drift-tiny/60s", "distillation")
NOT_KEPT = (
    *(r"<figure><img alt=\"[^\"]*: truth, generated, error", "<details><summary>More film strips"),
    "<details><summary>What the memories do",
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
    assert len(kept) > 20 and made == kept


def test_the_transfer_page_is_what_its_report_makes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = load(TransferReport, REPORTS / "transfer-quick" / "transfer.json")
    write_report(tmp_path, report)
    kept, made = lines(REPORTS / "transfer-quick" / "report.html"), lines(tmp_path / "report.html")
    told = (
        "<details><summary>How it was measured"  # every setting of today, one that came since at its default
    )
    assert [line.startswith(told) for line in kept].count(True) == 1
    assert [line for line in made if not line.startswith(told)] == [
        line for line in kept if not line.startswith(told)
    ]
    written = (tmp_path / "transfer.json").read_text()
    assert json.loads(written) == plain_settings(report, REPORTS / "transfer-quick" / "transfer.json")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fidelity-tiny", FidelityReport),
        ("fidelity-tiny-pure", FidelityReport),
        ("throughput", ThroughputReport),
    ],
)
def test_a_report_without_a_page_is_read_and_written_as_it_was(name: str, kind: type[Report]) -> None:
    """Its Markdown is compared in tests/test_numbers.py."""
    path = ROOT / "docs" / "performance" / f"{name}.json"
    report = load(kind, path)
    assert report.to_json() == plain_settings(report, path)


def plain_settings(report: Any, path: Path) -> dict[str, Any]:
    """Return a kept report with the settings that have come since at their defaults.

    What was not measured then is nothing in it: `imagination` of a split.
    """
    kept: dict[str, Any] = json.loads(path.read_text())
    now = report.to_json()["settings"]
    assert filled(kept["settings"], now) == now
    if isinstance(report, FidelityReport):
        kept["splits"] = {name: {"imagination": None, **split} for name, split in kept["splits"].items()}
    return {**kept, "settings": now}


def filled(kept: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return `kept` with the keys that it lacks taken from `now`."""
    return {
        key: filled(kept[key], value) if isinstance(value, dict) else kept.get(key, value)
        for key, value in now.items()
    }

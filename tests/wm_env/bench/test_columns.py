"""A column of the drift report is one entry of one table: measured, averaged, written, shown and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wm_env.bench.drift import columns
from wm_env.bench.drift.bins import BINS, bin_means, bin_of
from wm_env.bench.drift.columns import COLUMNS, Clip, Column
from wm_env.bench.drift.report import Bin, DriftReport
from wm_env.bench.drift.rollouts import DriftSettings
from wm_env.bench.drift.run import run
from wm_env.bench.records import load

COMMITTED = Path(__file__).resolve().parents[3] / "docs" / "reports" / "drift-tiny" / "drift.json"


def redness(clip: Clip) -> list[float]:
    """Return the mean of red per bin, grey levels."""
    red = clip.frames[1:, ..., 0].float().flatten(1).mean(1).numpy()
    return bin_means(red, bin_of(len(red), BINS), BINS)


TOY = Column(
    name="redness", label="redness", unit="grey levels", measure=redness, heading="Redness (grey levels)",
    figure="redness", since="99",
)  # fmt: skip


def test_a_column_added_to_the_table_is_in_rows_report_page_and_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, TOY))
    settings = DriftSettings(trajectories=("forward",), scenes=2, pose_every=0)
    report, paths = run(["twin"], settings, tmp_path, seconds=1.5)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()[1:]]
    assert all(len(row["redness"]) == BINS for row in rows)
    own = [row["redness"] for row in rows if row["row"] == "twin"]
    shown = [cell.mean(TOY) for cell in report.bins]
    assert shown == pytest.approx(np.mean(own, axis=0))
    kept = json.loads((tmp_path / "drift.json").read_text())
    assert [cell["redness"] for cell in kept["bins"]] == shown
    assert load(DriftReport, tmp_path / "drift.json") == report
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Redness (grey levels)</h2>" in page and f"<td>{shown[0]:.2f}</td>" in page
    assert tmp_path / "redness.png" in paths and "<figcaption>Redness.</figcaption>" in page


def test_a_report_that_is_older_than_a_column_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, TOY))
    assert load(DriftReport, COMMITTED).bins[0].mean(TOY) is None


def test_a_cell_with_a_column_too_many_or_too_few_is_refused_by_name() -> None:
    cell = json.loads(COMMITTED.read_text())["bins"][0]
    assert Bin.from_json(cell).to_json() == cell
    with pytest.raises(ValueError, match="bin lacks the key 'skill'"):
        Bin.from_json({key: value for key, value in cell.items() if key != "skill"})
    with pytest.raises(ValueError, match="bin has an unknown key 'sharp'"):
        Bin.from_json({**cell, "sharp": 1.0})


def test_every_column_has_a_name_of_its_own_and_says_what_it_is() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert all(column.label for column in COLUMNS)

"""Rows of an interrupted benchmark are taken up again only where they belong to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wm_env.bench.row_file import append_rows, open_rows

ROW = {"trajectory": "idle", "scene": 0}
PLAN = [("idle", [0])]


def test_rows_are_taken_up_only_with_the_same_settings(tmp_path: Path) -> None:
    assert open_rows(tmp_path, {"image": "a"}, PLAN, 1) == []
    append_rows(tmp_path, [ROW])
    assert open_rows(tmp_path, {"image": "a"}, PLAN, 1) == [ROW]
    with pytest.raises(ValueError, match="choose another --out"):
        open_rows(tmp_path, {"image": "b"}, PLAN, 1)


def test_a_cut_line_is_dropped_and_a_broken_file_named(tmp_path: Path) -> None:
    open_rows(tmp_path, {}, PLAN, 1)
    path = tmp_path / "rows.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"trajectory": "id')
    assert open_rows(tmp_path, {}, PLAN, 1) == [] and path.read_text() == whole
    for content in ("", "no JSON\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"rows\.jsonl"):
            open_rows(tmp_path, {}, PLAN, 1)

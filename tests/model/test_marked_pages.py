"""Marks of pages: what stands between them comes from files, and a mark that is wrong is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from wm_env.model.marked_pages import filled, rewrite

PAGE = (
    "A <!--=db-->1<!--/--> dB.\n\n<!-- measured: rows -->\nold\n<!-- end -->\n\nAgain <!--=db-->2<!--/-->.\n"
)
FOUND = {"db": "36", "rows": "| a |\n|---|\n| \\1 |"}


def test_numbers_and_sections_are_replaced_and_nothing_else() -> None:
    new = filled(PAGE, FOUND)
    assert new == (
        "A <!--=db-->36<!--/--> dB.\n\n<!-- measured: rows -->\n| a |\n|---|\n| \\1 |\n<!-- end -->\n\n"
        "Again <!--=db-->36<!--/-->.\n"
    )
    assert filled(new, FOUND) == new


@pytest.mark.parametrize(
    ("page", "found", "told"),
    [
        ("no marks", {"db": "36"}, r"marks \[\]; there are \['db'\]"),
        (PAGE, {"db": "36"}, r"marks \['db', 'rows'\]; there are \['db'\]"),
        (PAGE + "<!-- measured: rows -->\n<!-- end -->\n", FOUND, r"\['db', 'rows', 'rows'\]"),
        ("<!-- measured: rows -->\n", {"rows": ""}, "opens 1 marks and closes 0"),
        ("a <!-- measured: rows --> b <!-- end -->\n", {"rows": ""}, "0 of them are whole"),
        ("a <!--=db-->1\n<!--/-->\n", {"db": "36"}, "0 of them are whole"),
        ("a 1<!--/-->\n", {}, "opens 0 marks and closes 1"),
        ("a\n<!--=db-->1<!--/--> b\n", {"db": "36"}, r"\['db'\] begin their lines"),
        ("> <!--=db-->1<!--/--> b\n", {"db": "36"}, r"\['db'\] begin their lines"),
    ],
)
def test_a_wrong_mark_is_refused(page: str, found: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        filled(page, found)


def test_check_tells_what_differs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page"
    page.write_text(PAGE)
    assert rewrite(tmp_path, {"page": FOUND}, check=True) == 1
    told = capsys.readouterr().out
    assert "page: db: the page says '1', the files '36'" in told and "differs: page" in told
    assert page.read_text() == PAGE
    assert rewrite(tmp_path, {"page": FOUND}, check=False) == 0
    assert rewrite(tmp_path, {"page": FOUND}, check=True) == 0
    with pytest.raises(ValueError, match=r"^page: the page marks"):
        rewrite(tmp_path, {"page": {}}, check=True)

"""One file, one idea: no Python file is longer than a reader takes in."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "model", "wm_env", "agents", "examples", "docs", "tests")
MOST_LINES = 400
LONGER: dict[str, str] = {}  # and why


def too_long(root: Path, longer: dict[str, str]) -> list[str]:
    """Return what is wrong with the sizes of the Python files in the folders of the repository `root`."""
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    lines = {path.relative_to(root).as_posix(): len(path.read_text().splitlines()) for path in files}
    long = {name: count for name, count in lines.items() if count > MOST_LINES}
    wrong = [f"{name} has {long[name]} lines: split it by idea" for name in long if name not in longer]
    return wrong + [
        f"{name} is listed as longer and is not: delete it" for name in longer if name not in long
    ]


def test_no_file_is_longer_than_400_lines_but_those_with_a_reason() -> None:
    assert too_long(ROOT, LONGER) == []


def test_a_long_file_and_a_stale_entry_are_found(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name, lines in (("a.py", 401), ("b.py", 400), ("c.py", 500)):
        (tmp_path / "model" / name).write_text("x = 1\n" * lines)
    assert too_long(tmp_path, {"model/c.py": "a reason"}) == ["model/a.py has 401 lines: split it by idea"]
    assert too_long(tmp_path, dict.fromkeys(("model/a.py", "model/b.py", "model/c.py"), "")) == [
        "model/b.py is listed as longer and is not: delete it"
    ]

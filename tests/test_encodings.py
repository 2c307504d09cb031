"""Text files are UTF-8 wherever the program runs, so every place that opens one says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "model", "wm_env", "agents", "examples", "docs")


def silent(source: str) -> Iterator[int]:
    """Yield the lines of calls that read or write text in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        attribute = isinstance(node.func, ast.Attribute)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        said = {keyword.arg for keyword in node.keywords}
        if name == "read_text" or (name == "write_text" and attribute):
            if "encoding" not in said:
                yield node.lineno
        elif name == "open":
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            names = getattr(owner, "id", None), getattr(owner, "attr", None)  # of NAME.open, MODULE.NAME.open
            if set(names) & {"Image", "os", "zipfile", "tarfile", "Database"}:
                continue
            place = 0 if owner is not None else 1  # Path.open(mode), open(path, mode)
            mode = node.args[place] if len(node.args) > place else None
            binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
            if not binary and "encoding" not in said:
                yield node.lineno


def test_every_text_file_is_opened_as_utf_8() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in silent(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_silent_call_is_found() -> None:
    source = """
Path("a").read_text()
Path("a").write_text("x")
open("a")
open("a", "w")
Path("a").open("a")
Path("a").read_text(encoding="utf-8")
open("a", "rb")
Image.open("a")
"""
    assert list(silent(source)) == [2, 3, 4, 5, 6]

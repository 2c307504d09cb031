"""The file of a measurement, and the digest of the code that it is of."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from wm_env.model.released.measure.record import Record, code_digest

ROOT = Path(__file__).resolve().parents[4]


def test_the_file_is_whole_after_every_change_and_kept_from_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = Record(path, {"device": "H100"})
    record.put("a", status="running", code="c", began=0.0)
    assert json.loads(path.read_text())["parts"]["a"]["status"] == "running"
    assert list(tmp_path.iterdir()) == [path]
    Record(path).settle()
    assert Record(path).parts["a"] == {"status": "cut off", "code": "c", "reason": "the process was killed"}
    with pytest.raises(ValueError, match="device: 'H100' there, 'H200' here"):
        Record(path, {"device": "H200"})
    for text in ("{", "[]", '{"about": {}}', '{"about": {"format": 99}, "parts": {}}', "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a record of this command"):
            Record(path)
        assert path.read_text() == text


def reached(module: str) -> set[str]:
    """Return the files of kernels and model that a module imports, directly or not, at any place in them."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        base = Path(*todo.pop().removeprefix("wm_env.").split("."))
        path = base.with_suffix(".py") if (ROOT / base).with_suffix(".py").is_file() else base / "__init__.py"
        if path.as_posix() in seen or not (ROOT / path).is_file():
            continue
        seen.add(path.as_posix())
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wm_env."):
                todo += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return seen


def test_the_digest_is_of_every_file_that_the_command_imports(tmp_path: Path) -> None:
    used = reached("wm_env.model.released.measure.__main__")
    assert {"model/attention/gdn.py", "kernels/frame_gdn/triton_fwd.py", "kernels/timing.py"} <= used
    for folder in ("kernels", "model"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("weights", "*.json"))
    before = code_digest(tmp_path)
    assert before == code_digest(ROOT)
    for name in sorted(used):
        path = tmp_path / name
        text = path.read_bytes()
        path.write_bytes(text + b"#")
        assert code_digest(tmp_path) != before, f"a change of {name} goes unnoticed"
        path.write_bytes(text)
    (tmp_path / "model/released/measure/pages.py").write_text("")  # how pages are written changes no number
    assert code_digest(tmp_path) == before

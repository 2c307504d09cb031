"""The README's Python runs as printed, top to bottom, and its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from wm_env.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_printed_python_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 5
    for block in blocks:
        assert len(block.splitlines()) <= 6
        exec(block, names)


def test_the_printed_commands_exist() -> None:
    printed = re.findall(r"^wm-env (.+)$", README, re.M)
    assert printed
    for line in printed:
        assert any(line.startswith(f"{name} ") for name in COMMANDS), line


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target

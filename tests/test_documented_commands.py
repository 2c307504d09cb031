"""Every command line in the README and the documents exists with those options."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from wm_env.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words after `wm-env` of every line that starts with it and elides nothing with `...`."""
    for line in re.findall(r"^\s*wm-env (.+)$", page.read_text().replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(line, comments=True)
        if "..." not in words:
            yield words


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_documented_command_line_is_understood(page: Path) -> None:
    for words in commands(page):
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
        module, _, cls = COMMANDS[name].target.partition(":")
        try:
            tyro.cli(vars(importlib.import_module(module))[cls], args=words[len(name.split()) :])
        except SystemExit as refused:
            assert refused.code == 0, f"{page.name}: wm-env {shlex.join(words)}"


def test_there_are_commands_to_check() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 20

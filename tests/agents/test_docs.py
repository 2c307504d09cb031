"""The code of docs/agents.md runs as it is printed, on a small world."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/agents.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0][:40] for block in BLOCKS])
def test_a_printed_example_runs(block: str, pure_world: str) -> None:
    names: dict[str, Any] = {}
    for old, new in (
        ('task="pointnav"', f'world="{pure_world}", task="pointnav"'),
        ("VecEnv(16,", "VecEnv(2,"),
        ("learn(256)", "learn(32)"),
    ):
        block = block.replace(old, new) if 'world="twin"' not in block else block
    exec(block, names)


def test_every_printed_command_exists_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    from wm_env.cli import COMMANDS, main

    lines = re.findall(r"^wm-env (.*?)(?:\s+#.*)?$", PAGE.read_text(), re.M)
    assert len(lines) >= 7
    for line in lines:
        words = line.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        told = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in told] == []

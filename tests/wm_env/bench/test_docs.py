"""The commands that docs/benchmarks.md prints exist with their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wm_env.cli import main

PAGE = Path(__file__).resolve().parents[3] / "docs/benchmarks.md"
COMMANDS = re.findall(r"^    wm-env (bench .*)$", PAGE.read_text(), re.M)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_printed_command_exists_with_its_options(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    with pytest.raises(SystemExit) as exit:
        main([*words[:2], "--help"])
    assert exit.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in words if word.startswith("--"))


def test_every_benchmark_is_described() -> None:
    assert {line.split()[1] for line in COMMANDS} == {
        *("fidelity", "drift", "transfer", "throughput", "published")
    }

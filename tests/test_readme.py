"""The README's commands, top to bottom in a fresh folder, as printed; its Python is run by test_documents.py.

Two kinds of lines are not run here. Those that install (`INSTALLING`) need an index and a clone: `.ci/readme`
runs them. Blocks whose first line says that they take hours (`LONG`) are checked to be understood
(test_documents.py).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wm_env.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
INSTALLING = ("make demo", "make test", "source .venv/bin/activate", "pip install -c constraints.txt -e ")
LONG = re.compile("# .*hours? each")


def printed_commands() -> list[str]:
    """Return the lines of all shell blocks, in order, but for those of the blocks that are marked as long."""
    blocks = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", README, re.S)]
    return [line for lines in blocks if not LONG.fullmatch(lines[0]) for line in lines]


@pytest.mark.slow
def test_the_printed_commands_run_in_order(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    lines = printed_commands()
    uses = [line for line in lines if not line.startswith(INSTALLING)]
    assert len(lines) - len(uses) == len(INSTALLING)  # each once
    assert all(line.startswith("wm-env ") for line in uses)
    command = f'wm-env() {{ "{sys.executable}" -m wm_env.cli "$@"; }}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    session = "\n".join(["set -e", command, *uses])
    done = subprocess.run(
        [bash, "-c", session], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for film in ("walk.mp4", "walk.png", "beacon.mp4", "mine.mp4"):
        assert (tmp_path / film).stat().st_size > 0


def test_only_one_block_is_marked_as_long_and_its_commands_exist() -> None:
    long = [block for block in re.findall(r"```bash\n(.*?)```", README, re.S) if LONG.match(block)]
    assert len(long) == 1
    for line in re.findall(r"^wm-env (.+)$", README, re.M):
        assert any(line.startswith(f"{name} ") for name in COMMANDS), line

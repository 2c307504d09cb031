"""The examples run as they stand, at toy size and on the twin."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), "--world", "twin", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart_walks_and_saves_the_last_view(tmp_path: Path) -> None:
    out = tmp_path / "view.png"
    assert "step   3" in run("quickstart.py", "--steps", "3", "--out", str(out))
    assert Image.open(out).size == (256, 256)


def test_branch_futures_draws_one_row_for_every_future(tmp_path: Path) -> None:
    out = tmp_path / "futures.png"
    run("branch_futures.py", "--steps", "2", "--out", str(out))
    assert Image.open(out).size == (3 * 128, 4 * 128)


def test_record_writes_a_video_and_a_sheet(tmp_path: Path) -> None:
    run("record.py", "--steps", "2", "--out", str(tmp_path / "walk"))
    assert {file.name for file in tmp_path.iterdir()} == {"walk.mp4", "walk.png"}


def test_train_ppo_trains_and_scores(tmp_path: Path) -> None:
    out = tmp_path / "ppo.zip"
    words = ("--num-envs", "2", "--steps", "64", "--rollout", "32", "--episodes", "2", "--limit", "5")
    assert "2 episodes" in run("train_ppo.py", *words, "--out", str(out))
    assert out.is_file()


def test_plan_walks_towards_its_goal() -> None:
    printed = run("plan.py", "--candidates", "4", "--rounds", "1", "--decisions", "2")
    assert printed.count("promised") == 2


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_states_the_minutes_it_takes_or_the_gpu_it_needs(script: str) -> None:
    told = " ".join((EXAMPLES / script).read_text().split('"""')[1].split())
    assert re.search(r"\d+ (seconds|minutes) (of|on) one CPU core|\d+ CPU minutes|needs a GPU", told), told

"""The numbers that README and documents print are those of the JSON files beside them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wm_env.bench import context, fidelity, throughput
from wm_env.bench.records import load

ROOT = Path(__file__).resolve().parents[1]
PERFORMANCE = ROOT / "docs" / "performance"


def fill(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "fill_numbers"), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the pages and of all JSON files that numbers come from."""
    shutil.copy(ROOT / "README.md", tmp_path)
    for folder in ("docs", "agents/weights", "model/weights"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".md", ".json"):
                target = tmp_path / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    return tmp_path


def test_every_marked_number_is_the_one_in_its_file() -> None:
    done = fill("--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "differs: no page\n"


def test_a_number_changed_by_hand_is_found_and_filled_again(copy: Path) -> None:
    page = copy / "README.md"
    before = page.read_text()
    true = re.search(r"<!--=turn-->(\d+)<!--/-->", before)
    assert true is not None
    wrong = str(int(true[1]) + 1)
    page.write_text(before.replace(true[0], f"<!--=turn-->{wrong}<!--/-->"))
    done = fill("--folder", str(copy), "--check")
    assert done.returncode == 1
    assert f"README.md: turn: the page says '{wrong}', the files '{true[1]}'" in done.stdout
    assert fill("--folder", str(copy)).returncode == 0 and page.read_text() == before


def test_a_result_that_changes_changes_every_page_that_tells_it(copy: Path) -> None:
    kept = copy / "docs" / "performance" / "fidelity-tiny.json"
    report = json.loads(kept.read_text())
    report["splits"]["val"]["look_away"]["full_turn"]["tiny"]["itself"]["mean"] = 12.34
    kept.write_text(json.dumps(report))
    done = fill("--folder", str(copy), "--check")
    assert done.returncode == 1
    assert "differs: README.md, docs/environment.md, docs/performance/fidelity.md" in done.stdout


def test_a_missing_file_is_an_error_that_names_it(copy: Path) -> None:
    (copy / "docs" / "performance" / "turns.json").unlink()
    done = fill("--folder", str(copy), "--check")
    assert done.returncode == 2 and "turns.json" in done.stderr


@pytest.mark.parametrize(
    ("name", "kind", "markdown"),
    [
        ("fidelity-tiny", fidelity.FidelityReport, fidelity.markdown),
        ("fidelity-tiny-pure", fidelity.FidelityReport, fidelity.markdown),
        ("context-tiny", context.ContextReport, context.markdown),
        ("context-tiny-pure", context.ContextReport, context.markdown),
        ("throughput", throughput.ThroughputReport, throughput.markdown),
    ],
)
def test_a_page_written_with_its_report_is_what_the_report_makes(
    name: str, kind: type[Any], markdown: Callable[[Any], str]
) -> None:
    path = PERFORMANCE / f"{name}.json"
    assert path.with_suffix(".md").read_text() == markdown(load(kind, path))

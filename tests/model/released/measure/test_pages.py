"""The pages made of the files of measurements."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from wm_env.model.released.measure import pages

ROOT = Path(__file__).resolve().parents[4]
PAGES = [f"{name}.md" for name in ("kernels", "released")]


def test_the_pages_are_what_the_files_beside_them_make_of_them() -> None:
    assert pages.main(["--check"]) == 0


def gpu_file(**changes: Any) -> dict[str, Any]:
    """Return a file as a GPU would leave it, with made-up numbers."""
    step = {
        "seconds_per_step": 0.25, "times_real_time": 6.0, "times_real_time_all_slots": 6.0, "peak_gib": 12.3,
        "first_step_seconds": 9.0, "seconds_per_call": {"stage 1": [0.05] * 5},
    }  # fmt: skip
    row = {"ms": 0.2, "floor_ms": 0.1, "times_floor": 2.0, "host_ms": 0.3}
    proof = {"name": "match, float32: x", "error": 1e-6, "bound": 2e-5, "holds": True, "reason": ""}
    rows = [{"impl": "triton", **row}, {"impl": "chunk", "ms": None, "floor_ms": 0.1, "error": "x"}]
    busiest = {"device_ms": 200.0, "wall_ms": 250.0, "launches": 9000}
    held = {
        "ceilings": {"bytes_per_second": 3e12, "operations_per_second": 8e14},
        "stage 1, batch 1": step,
        "kernels: forward, B1 T3 bfloat16": {"rows": rows},
        "proofs: triton, odd, match float32: x": {"proofs": [proof]},
        "busiest kernels, stage 1": busiest | {"kernels": [{"kernel": "a|b", "ms": 80.0}]},
        "waits of the host, stage 1": {"waits": {"model/dit.py:1": 5}},
    }
    parts = {name: {"status": "done", "result": result} for name, result in held.items()}
    parts["stage 1, batch 4"] = {"status": "no room", "reason": "OutOfMemoryError: full"}
    return {"about": {"format": 1, "device": "H0"}, "parts": parts | changes}


def test_pages_show_what_was_measured_and_say_what_was_not(tmp_path: Path) -> None:
    for page in PAGES:
        shutil.copy(ROOT / "docs" / "performance" / page, tmp_path / page)
    (tmp_path / "gpu-h0.json").write_text(json.dumps(gpu_file()))
    assert pages.main(["--folder", str(tmp_path), "--check"]) == 1
    assert pages.main(["--folder", str(tmp_path)]) == 0
    assert pages.main(["--folder", str(tmp_path), "--check"]) == 0
    kernels, released = ((tmp_path / page).read_text() for page in PAGES)
    assert "| stage 1, batch 1 | H0 | 0.250 | 6.00x | 6x | 6.00x | 12.3 | 9.0 |" in released
    assert "| stage 1, batch 4 | H0 | no room in its memory |" in released
    assert "| with refiner, batch 1 | H0 | not yet measured |  | 1.6x |" in released
    assert "| stage 1 | H0 | 200 of 250 | 9000 | 5 | `a/b` 80 ms |" in released
    assert "- H0: stage 1, batch 4: no room, OutOfMemoryError: full" in released
    assert "| forward | B1 T3 | H0 | failed | not yet measured | 0.200 | 0.30 | 0.100 | 2.0 |  |" in kernels
    assert "| triton, odd | H0 | 1 of 1 | 1.0e-06 (bound 2e-05) |" in kernels
    assert "| H0 | 3.00 | 800 |" in kernels


def test_a_page_without_its_marks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for page in PAGES:
        (tmp_path / page).write_text("no marks\n")
    assert pages.main(["--folder", str(tmp_path)]) == 2
    assert f"error: ValueError: {PAGES[0]}: the page marks []" in capsys.readouterr().err

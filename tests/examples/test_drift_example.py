"""The drift example runs as it stands: the truth is perfect, the rows without a model are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "drift.py"


def test_the_drift_example_prints_every_row_by_second() -> None:
    words = ["--world", "twin", "--scenes", "2", "--seconds", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    titles, twin, repeated, unrelated = done.stdout.splitlines()
    assert "PSNR" in titles
    assert twin.startswith("twin") and "100.00 (n too small)" in twin
    assert "100.00" not in repeated + unrelated

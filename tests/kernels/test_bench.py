"""The benchmark runs from a bare checkout with torch alone, and its floor counts what must move."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wm_env.kernels.problems import Problem, problem_bytes, problem_operations

ROOT = Path(__file__).parents[2]
ABSENT = (
    "gymnasium",
    "imageio",
    "PIL",
    "safetensors",
    "tqdm",
    "tyro",
    "fla",
    "einops",
    "scipy",
    "hypothesis",
)


def bare_checkout(folder: Path) -> None:
    shutil.copytree(ROOT / "kernels", folder / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "wm_env").mkdir()
    for name in (
        "pyproject.toml",
        *(f"wm_env/{part}.py" for part in ("__init__", "forks", "moved", "registration")),
    ):
        shutil.copy(ROOT / name, folder / name)


@pytest.mark.slow
def test_it_runs_from_a_bare_checkout_without_the_other_packages(tmp_path: Path) -> None:
    bare_checkout(tmp_path)
    program = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"  # None: as if not installed
        "sys.argv = ['bench', '--quick', '--repeats', '1', '--device', 'cpu', '--json', 'results.json']\n"
        "runpy.run_module('wm_env.kernels.bench', run_name='__main__')\n"
        "import wm_env.kernels.frame_gdn as used; print(used.__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["impl"] for row in results["rows"]} == {"naive", "chunk", "softmax attention (SDPA)"}
    assert all(row["ms"] >= 0 and row["floor_ms"] > 0 for row in results["rows"])
    assert results["errors"]["chunk float32"] < 1e-4


def test_the_floor_reads_every_input_and_writes_every_output_once() -> None:
    shape = {"name": "", "batch": 2, "heads": 3, "frames": 5, "tokens": 7, "dim": 4, "dtype": "bfloat16"}
    tensor, gates, memory = 2 * (2 * 3 * 5 * 7 * 4), 4 * (2 * 3 * 5 * 8), 4 * (2 * 3 * 4 * 5)
    assert problem_bytes(Problem(**shape)) == 6 * tensor + gates + memory
    assert problem_bytes(Problem(**shape, stream=True)) == 6 * tensor + gates + 2 * memory
    both = problem_bytes(
        Problem(**shape, backward=True)
    )  # again all inputs, out, its gradient; 5 gradients out
    assert both == (6 + 12) * tensor + 3 * gates + 2 * memory


def test_the_floor_of_a_single_frame_takes_the_residual_form() -> None:
    one = Problem(name="", batch=1, heads=1, frames=1, tokens=8, dim=4, dtype="float32", normalised=False)
    assert problem_operations(one) == 3 * 2 * 8 * 4 * 4
    two = Problem(name="", batch=1, heads=1, frames=2, tokens=8, dim=4, dtype="float32", normalised=False)
    assert problem_operations(two) == 2 * (3 * 2 * 8 * 4 * 4 + 2 * 2 * 4**3)

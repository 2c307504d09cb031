"""The measuring command at toy size: a bare checkout, bad input, what only a GPU would run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
import torch
from fake_parts import status

from wm_env.model.released.measure import pages, parts
from wm_env.model.released.measure.__main__ import main
from wm_env.model.released.measure.parts import Setting, all_parts
from wm_env.model.released.measure.record import Record
from wm_env.model.released.measure.runner import failures

ROOT = Path(__file__).resolve().parents[4]
ALLOWED = ("torch", "triton", "numpy", "safetensors")


# --- the whole command, from a bare checkout


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that is not installed, and a Python in which nothing but what is allowed can be imported."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("kernels", "model"):
        ignored = shutil.ignore_patterns("__pycache__", "weights", "training", "scenes", "data")
        shutil.copytree(ROOT / name, folder / "checkout" / name, ignore=ignored)
    (folder / "checkout" / "wm_env").mkdir()
    for name in (
        "pyproject.toml",
        *(f"wm_env/{part}.py" for part in ("__init__", "forks", "moved", "registration")),
    ):
        shutil.copy(ROOT / name, folder / "checkout" / name)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(other_packages())!r}))\n"  # None: as if not installed
    )
    return folder


def other_packages() -> set[str]:
    """Return the top-level modules of every installed package that those allowed do not need themselves."""
    needed, todo = set(), list(ALLOWED)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in needed:
            continue
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        needed.add(name)
        todo += [
            w.split(";")[0].split("[")[0].strip(" ()<>=!~.0123456789,") for w in wanted if "extra" not in w
        ]
    return {
        module
        for module, packages in metadata.packages_distributions().items()
        if not {package.lower().replace("_", "-") for package in packages} & needed
    } - {"wm_env"}


def measure_bare(bare: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")}
    environment |= {"PYTHONPATH": str(bare / "site"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "wm_env.model.released.measure", *words],
        cwd=bare / "checkout",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_bare_checkout_measures_everything_and_goes_on_where_it_was(bare: Path, tmp_path: Path) -> None:
    for name in ("tyro", "gymnasium", "tqdm", "imageio", "PIL", "diffusers", "transformers"):
        assert name in other_packages()
    assert "sympy" not in other_packages()  # torch needs it
    out = tmp_path / "toy.json"
    done = measure_bare(bare, "--toy", "--out", str(out), "--budget", "5m")
    assert done.returncode == 0, done.stderr
    held = json.loads(out.read_text())
    assert held["about"]["size"] == "toy" and "CPU" in held["about"]["device"]
    found = {name: part["status"] for name, part in held["parts"].items()}
    skipped = {name for name, was in found.items() if was == "skipped"}
    assert skipped == set(parts.SKIPPED)
    assert {was for name, was in found.items() if name not in skipped} == {"done"}
    assert {"stage 1, batch 2", "with refiner, batch 2", "ceilings"} <= found.keys()
    assert sum(name.startswith("proofs") for name in found) >= 3

    del held["parts"]["stage 1, batch 1"]  # as if the run had been killed before and in the midst of a part
    held["parts"]["ceilings"] |= {"status": "running", "began": 0.0, "share": 1.0}
    before = held["parts"]["with refiner, batch 1"]
    out.write_text(json.dumps(held))
    again = measure_bare(bare, "--toy", "--out", str(out), "--budget", "5m")
    assert again.returncode == 0, again.stderr
    measured = [line.split(":")[0] for line in again.stdout.splitlines() if ": done" in line]
    assert measured == ["stage 1, batch 1", "ceilings"]  # what was cut off comes last
    assert json.loads(out.read_text())["parts"]["with refiner, batch 1"] == before


# --- bad input


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(list(words)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


def test_bad_arguments_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "r.json")
    assert "write 7m, 420s or 420" in refused(["--budget", "soon", "--out", out], capsys)
    assert "is a folder" in refused(["--out", str(tmp_path)], capsys)
    assert "cannot be written" in refused(["--out", str(tmp_path / "no" / "r.json")], capsys)
    (tmp_path / "other.json").write_text("{}")
    assert "not a record" in refused(["--out", str(tmp_path / "other.json")], capsys)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the error is about")
def test_without_a_gpu_one_line_says_what_it_needs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "r.json")]) == 2
    told = capfd.readouterr().err  # of the worker that it starts
    assert told.count("\n") == 1 and "no CUDA device" in told and "--toy" in told
    assert not (tmp_path / "r.json").exists()


# --- what a GPU would run


def test_the_parts_of_a_gpu_come_in_order_of_value(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'wm-env[gpu]'")
    names = [part.name for part in all_parts(Setting("cuda", toy=False))[0]]
    assert len(set(names)) == len(names)
    assert names[0] == "ceilings" and "match bfloat16: 3 frames" in names[1]
    assert names[2:4] == ["stage 1, batch 1", "with refiner, batch 1"]
    steps = {f"{what}, batch {b}" for what in ("stage 1", "with refiner") for b in (1, 2, 3, 4)}
    assert steps <= set(names)
    for name, batch, frames in pages.KERNELS:
        assert f"kernels: {name}, B{batch} T{frames} bfloat16" in names
    assert sum(name.startswith("proofs: triton") for name in names) > 25


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that is simulated")
def test_what_only_a_gpu_runs_is_run_on_a_simulated_one(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'wm-env[gpu]'")
    script, out = Path(__file__).with_name("simulated_cuda.py"), tmp_path / "r.json"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(out)],
        capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = Record(out)
    assert record.about["device"] == "simulated"
    assert failures(record) == []
    assert set(status(record).values()) == {"done"} and len(record.parts) >= 8
    found = record.parts["with refiner, batch 1"]["result"]
    assert found["peak_gib"] == 1.0 and len(found["seconds_per_call"]["refiner"]) == 4
    rows = record.parts["kernels: forward, B1 T2 float32"]["result"]["rows"]
    assert {"triton", "chunk", "naive"} <= {row["impl"] for row in rows if row["ms"] is not None}

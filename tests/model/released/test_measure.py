"""The measuring command: bare machines, budgets, kills, resuming, faults; and the pages made of its file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from wm_env.kernels.proofs import Proof
from wm_env.model.flow import STUDENT_STEPS
from wm_env.model.released.measure import against_diffusers, pages, parts, runner
from wm_env.model.released.measure.__main__ import main
from wm_env.model.released.measure.budget import Box, seconds_of
from wm_env.model.released.measure.parts import Setting, all_parts, prove, roomy
from wm_env.model.released.measure.record import Record, code_digest
from wm_env.model.released.measure.runner import NoRoom, Part, failures, run_parts, supervise
from wm_env.model.released.measure.step import TOY, Networks, time_steps

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = ("torch", "triton", "numpy", "safetensors")


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def takes(clock: Clock, seconds: float, result: dict[str, Any] | None = None) -> Callable[[Box], dict]:
    def run(box: Box) -> dict[str, Any]:
        clock.now += seconds
        return {"seen": box.seconds} if result is None else result

    return run


def fails(error: BaseException) -> Callable[[Box], dict]:
    def run(box: Box) -> dict[str, Any]:
        raise error

    return run


def go(
    todo: Sequence[Part], path: Path, clock: Clock, budget: float = 100, **more: Any
) -> tuple[Record, list[str], bool]:
    """Run parts on a fake clock; return the file, what was said, and whether the device still answers."""
    record, said = Record(path, {"device": "none"}), []
    options = {"code": "c", "run": "r", "budget": budget, "deadline": clock() + budget} | more
    answers = run_parts(todo, record, clock=clock, say=said.append, **options)
    return record, said, answers


def status(record: Record) -> dict[str, str]:
    return {name: part["status"] for name, part in record.parts.items()}


# --- the whole command at toy size, from a bare checkout


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


# --- the streaming step


def test_a_step_times_every_call_with_full_memories() -> None:
    networks = Networks(TOY, "cpu", torch.float32)
    found = time_steps(networks, batch=2, refiner=True, box=Box(lambda: 0.0, 1.0))
    denoising = len([t for t in STUDENT_STEPS if t])
    assert len(found["seconds_per_call"]["stage 1"]) == denoising + 1
    assert len(found["seconds_per_call"]["refiner"]) == 3 + 1
    calls = sum(map(sum, found["seconds_per_call"].values()))
    assert 0 < calls < found["seconds_slowest"] * 1.01
    assert found["seconds_shown_per_step"] == 24 / 16
    assert found["times_real_time"] == pytest.approx(1.5 / found["seconds_per_step"])
    assert found["times_real_time_all_slots"] == pytest.approx(2 * found["times_real_time"])
    assert (found["frame_gdn"], found["batch"], found["peak_gib"]) == ("chunk", 2, None)
    assert time_steps(networks, batch=1, refiner=False, box=Box(lambda: 0.0, 1.0))["refiner"] is False


def test_a_step_is_repeated_only_while_it_fits_its_box() -> None:
    clock = Clock()
    networks = Networks(TOY, "cpu", torch.float32)
    assert time_steps(networks, batch=1, refiner=False, box=Box(clock, 0.0))["steps"] == 1
    assert time_steps(networks, batch=1, refiner=False, box=Box(clock, 1e9))["steps"] == 9


def test_random_weights_are_the_same_every_time_and_their_steps_are_finite() -> None:
    first, second = (Networks(TOY, "cpu", torch.float32).world(refiner=True) for _ in range(2))
    for a, b in ((first.parts.dit, second.parts.dit), (first.parts.refiner, second.parts.refiner)):
        assert a is not None and b is not None
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        assert all(torch.equal(x, y) and bool(x.isfinite().all()) for x, y in pairs)


def test_numbers_that_are_not_finite_are_an_error_and_no_time() -> None:
    networks = Networks(TOY, "cpu", torch.float32)
    networks.world(refiner=False).parts.dit.head.weight.fill_(torch.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        time_steps(networks, batch=1, refiner=False, box=Box(lambda: 0.0, 0.0))


# --- budgets


def test_budgets_are_read_and_others_refused() -> None:
    assert [seconds_of(text) for text in ("7m", "420s", "420", "0.5m", "1h")] == [420, 420, 420, 30, 3600]
    for text in ("", "seven", "7 minutes", "-7m", "0", "0m", "7m30", "nan", "inf"):
        with pytest.raises(ValueError, match="is not a time; write 7m, 420s or 420"):
            seconds_of(text)


def test_a_part_gets_its_share_and_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    clock = Clock()
    todo = [
        Part(name="a", run=takes(clock, 70), share=0.25),
        Part(name="b", run=takes(clock, 20), share=0.5),
        Part(name="long", run=takes(clock, 1), least=30),
        Part(name="short", run=takes(clock, 5), share=0.5, least=10),
        Part(name="last", run=takes(clock, 1), least=6),
    ]
    record, said, _ = go(todo, tmp_path / "r.json", clock)
    assert record.parts["a"]["result"] == {"seen": 25}  # a quarter of the budget
    assert record.parts["b"]["result"] == {"seen": 30}  # what is left, not its half
    assert status(record) == {
        "a": "done", "b": "done", "long": "left out", "short": "done", "last": "left out"
    }  # fmt: skip
    assert record.parts["long"]["reason"] == "needs 30 s, 10 s of the budget are left"
    assert record.parts["a"]["seconds"] == 70
    assert len(said) == 5


def test_the_next_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    clock, ran = Clock(), []

    def part(name: str) -> Part:
        return Part(name=name, run=lambda box: ran.append(name) or {})

    todo = [part("a"), part("b"), part("c")]
    record, _, _ = go(todo[:1], tmp_path / "r.json", clock)
    record.put("b", status="left out", code="c", reason="")
    go(todo, tmp_path / "r.json", clock)
    assert ran == ["a", "b", "c"]
    go(todo, tmp_path / "r.json", clock, code="changed")
    assert ran == ["a", "b", "c"] * 2


def test_proofs_stop_at_the_end_of_their_box_and_are_taken_up_again(tmp_path: Path) -> None:
    clock = Clock()

    def check() -> list[Proof]:
        clock.now += 10
        return [Proof("p", 0.0, 1.0, "")]

    checks = {"x": check, "y": check, "z": check}
    todo = [Part(name="proofs", run=lambda box: prove(checks, box), share=0.15)]
    record, _, _ = go(todo, tmp_path / "r.json", clock)
    assert status(record) == {"proofs": "partial"}
    assert record.parts["proofs"]["result"]["not_run"] == ["z"]
    todo = [Part(name="proofs", run=lambda box: prove(checks, box), share=0.5)]
    assert status(go(todo, tmp_path / "r.json", clock)[0]) == {"proofs": "done"}


# --- faults


def test_a_failing_part_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    clock = Clock()
    bad = {"proofs": [{"name": "state", "error": 2.0, "bound": 1.0, "holds": False, "reason": ""}]}
    todo = [
        Part(name="bad", run=fails(ValueError("first line\nsecond"))),
        Part(name="big", run=roomy(fails(torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB")))),
        Part(name="proof", run=takes(clock, 1, bad)),
        Part(name="elsewhere", run=takes(clock, 1), skip="needs what is not here"),
        Part(name="good", run=takes(clock, 1)),
    ]
    record, _, answers = go(todo, tmp_path / "r.json", clock)
    assert answers
    assert status(record) == {
        "elsewhere": "skipped", "bad": "failed", "big": "no room", "proof": "done", "good": "done"
    }  # fmt: skip
    assert record.parts["bad"]["reason"] == "ValueError: first line"
    assert "Tried 9 GiB" in record.parts["big"]["reason"]
    assert failures(record) == ["bad: ValueError: first line", "proof: state: 2.0 is above 1.0"]
    again, said, _ = go(todo, tmp_path / "r.json", clock, run="another")
    assert [line.split(":")[0] for line in said] == ["bad"]  # no room stays no room, a failure is tried anew
    assert status(again)["bad"] == "failed"


def test_lack_of_memory_inside_a_library_is_lack_of_room_and_other_errors_are_not() -> None:
    box = Box(Clock(), 1.0)
    with pytest.raises(NoRoom):
        roomy(fails(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")))(box)
    with pytest.raises(RuntimeError, match="illegal"):
        roomy(fails(RuntimeError("CUDA error: an illegal memory access")))(box)


def test_a_lost_device_ends_the_process_and_the_next_one_takes_up_the_rest(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "r.json"
    todo = [Part(name="breaks", run=fails(RuntimeError("illegal"))), Part(name="good", run=takes(clock, 1))]
    record, _, answers = go(todo, path, clock, is_broken=lambda: True)
    assert not answers and status(record) == {"breaks": "failed"}
    record, said, answers = go(todo, path, clock)  # the same run
    assert answers and [line.split(":")[0] for line in said] == ["good"]


WORKER = """
import sys, time
from pathlib import Path
from wm_env.model.released.measure.record import Record
record = Record(Path(sys.argv[1]), {"device": "none"})
part = next((n for n in ("a", "b", "c") if n not in record.parts), None)
if part is None:
    sys.exit(0)
record.put(part, status="running", code="c", run="r", began=time.monotonic(), share=float(sys.argv[2]))
exec(sys.argv[3])
record.put(part, status="done", code="c", result={})
sys.exit(70)
"""


def supervised(
    path: Path, action: str, *, share: float = 100, clock: Callable[[], float] | None = None
) -> int:
    import time

    command = [sys.executable, "-c", WORKER, str(path), str(share), action]
    return supervise(
        lambda: subprocess.Popen(command),
        path,
        run="r",
        deadline=time.monotonic() + 600,
        clock=clock or time.monotonic,
        say=lambda line: None,
    )


def test_a_worker_that_dies_or_hangs_costs_the_part_it_was_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "OVERRUN", (1.0, 0.0))
    path = tmp_path / "r.json"
    assert supervised(path, "part == 'b' and __import__('os').kill(__import__('os').getpid(), 11)") == 0
    record = Record(path)
    assert status(record) == {"a": "done", "b": "failed", "c": "done"}
    assert record.parts["b"]["reason"] == "the process ended with code -11"
    path.unlink()
    assert supervised(path, "part == 'a' and time.sleep(600)", share=0.05) == 0
    record = Record(path)
    assert status(record) == {"a": "failed", "b": "done", "c": "done"}
    assert "with a share of" in record.parts["a"]["reason"]


def test_a_worker_that_ends_outside_any_part_is_not_begun_again(tmp_path: Path) -> None:
    assert supervised(tmp_path / "none" / "r.json", "") == 1  # no folder: it cannot even begin its file


def test_a_worker_is_ended_with_the_budget(tmp_path: Path) -> None:
    import time

    path, late = tmp_path / "r.json", []

    def clock() -> float:  # jumps past the deadline once the worker has begun a part
        if path.exists() and Record(path).running:
            late.append(1)
        return time.monotonic() + 1000 * bool(late)

    assert supervised(path, "time.sleep(600)", share=1e9, clock=clock) == 124
    assert status(Record(path)) == {"a": "cut off"}
    assert Record(path).parts["a"]["reason"] == "the budget was used up"


# --- the file


def test_the_file_is_whole_after_every_change_and_kept_from_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = Record(path, {"device": "H100"})
    record.put("a", status="running", code="c", began=0.0)
    assert json.loads(path.read_text())["parts"]["a"]["status"] == "running"
    assert list(tmp_path.iterdir()) == [path]
    Record(path).settle()
    assert Record(path).parts["a"] == {"status": "cut off", "code": "c", "reason": "the process was killed"}
    with pytest.raises(ValueError, match="device: 'H100' there, 'H200' here"):
        Record(path, {"device": "H200"})
    for text in ("{", "[]", '{"about": {}}', '{"about": {"format": 99}, "parts": {}}', "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a record of this command"):
            Record(path)
        assert path.read_text() == text


def test_the_digest_is_of_what_is_measured() -> None:
    assert code_digest(ROOT) == code_digest(ROOT)
    assert len(code_digest(ROOT)) == 16


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the error is about")
def test_without_a_gpu_one_line_says_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wm_env.model.released.measure", "--out", str(tmp_path / "r.json")],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no CUDA device" in done.stderr and "--toy" in done.stderr
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


# --- the pages

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


# --- beside diffusers


def test_the_comparison_with_diffusers_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'wm-env[released]'")
    assert against_diffusers.main(["--repeats", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ours"] > 0 and told["theirs"] > 0 and told["relative_error"] < 0.1
    assert against_diffusers.main(["--repeats", "0"]) == 2

"""Budgets and faults: every part gets its share, and one that fails costs no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_parts import Clock, fails, go, status, takes

from wm_env.kernels.proofs import Proof
from wm_env.model.released.measure import runner
from wm_env.model.released.measure.budget import Box, seconds_of
from wm_env.model.released.measure.parts import prove, roomy
from wm_env.model.released.measure.record import Record
from wm_env.model.released.measure.runner import NoRoom, Part, failures, supervise

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


@pytest.mark.slow
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

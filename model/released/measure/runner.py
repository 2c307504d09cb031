"""Running parts in order of value, each within its share of the budget.

What does not fit in what is left is left out and noted; what fails is noted with its error and the next part
goes on. A process that the device or the operating system ends is followed by a new one that takes up the
rest (`supervise`), and so is one whose part overran its time by far.
"""

from __future__ import annotations

import gc
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_env.model.released.measure.budget import Box, Clock
from wm_env.model.released.measure.record import FINAL, Record, one_line

RESTART = 70  # exit code of a worker whose device no longer answers
GRACE = 5.0  # seconds after the budget until the worker is ended
LEAST = 10.0  # seconds in which a new worker can still do something
OVERRUN = 2.0, 30.0  # a part is ended after this factor of its share, plus these seconds


class NoRoom(Exception):
    """The device has too little memory for what was tried."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to measure.

    run: returns plain values for the file, among them `not_run`, the names of what did not fit its time; may
    raise. share: of the budget that it may use. least: seconds without which it is not begun. skip: why it
    cannot run here, None where it can.
    """

    name: str
    run: Callable[[Box], dict[str, Any]]
    share: float = 0.1
    least: float = 1.0
    skip: str | None = None


def in_order(parts: Sequence[Part], record: Record, code: str, run: str) -> list[Part]:
    """Return the parts still to run: those cut off by an earlier run come last, in case they are to blame.

    A part is over once its status is final under the same code, or once it has failed in this very run.
    """

    def over(part: Part) -> bool:
        held = record.parts.get(part.name, {})
        final = held.get("status") in FINAL and held.get("code") == code
        return final or (held.get("status") == "failed" and held.get("run") == run)

    def cut_off(part: Part) -> bool:
        return record.parts.get(part.name, {}).get("status") == "cut off"

    return sorted((part for part in parts if not over(part)), key=cut_off)


def run_parts(
    parts: Sequence[Part],
    record: Record,
    *,
    code: str,
    run: str,
    budget: float,
    deadline: float,
    clock: Clock = time.monotonic,
    is_broken: Callable[[], bool] = lambda: False,
    free: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> bool:
    """Run what is missing and return whether the device still answers.

    code: digest of what is measured. run: name of this run, the same for workers that follow each other.
    budget: seconds that shares are taken of. deadline: on `clock`. is_broken: asked after a failure. free:
    gives memory back between parts.
    """
    todo = in_order(parts, record, code, run)
    for part in todo:
        if part.skip is not None:
            record.put(part.name, status="skipped", code=code, reason=part.skip)
            say(f"{part.name}: skipped, {part.skip}")
    for part in todo:
        if part.skip is not None:
            continue
        left = deadline - clock()
        if left < part.least:
            reason = f"needs {part.least:.0f} s, {max(left, 0):.0f} s of the budget are left"
            record.put(part.name, status="left out", code=code, reason=reason)
            say(f"{part.name}: left out, {reason}")
            continue
        box = Box(clock, min(part.share * budget, left))
        record.put(part.name, status="running", code=code, run=run, began=box.began, share=box.seconds)
        told = _run(part, box)
        facts = {
            "code": code,
            "run": run,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seconds": clock() - box.began,
        }
        record.put(part.name, **facts, **told)
        say(f"{part.name}: {told['status']} in {clock() - box.began:.1f} s" + _told(told))
        gc.collect()
        free()
        if told["status"] == "failed" and is_broken():
            return False
    return True


def _run(part: Part, box: Box) -> dict[str, Any]:
    """Return status and result of a part; what it held is free when this returns."""
    try:
        result = part.run(box)
        return {"status": "partial" if result.get("not_run") else "done", "result": result}
    except NoRoom as error:
        return {"status": "no room", "reason": one_line(error)}
    except Exception as error:  # noted in the file; the parts after it go on
        return {"status": "failed", "reason": one_line(error)}


def _told(told: dict[str, Any]) -> str:
    if "reason" in told:
        return f": {told['reason']}"
    summary = told["result"].get("summary")
    return f": {summary}" if summary else ""


def failures(record: Record) -> list[str]:
    """Return, in words, every part that failed and every proof that does not hold."""
    found = []
    for name, part in record.parts.items():
        if part["status"] == "failed":
            found.append(f"{name}: {part['reason']}")
        for proof in part.get("result", {}).get("proofs", []):
            if not proof["holds"]:
                found.append(f"{name}: {proof['name']}: {proof['error']} is above {proof['bound']}")
    return found


def overran(part: dict[str, Any], now: float) -> bool:
    """Whether a running part is so far beyond its share that it must hang."""
    factor, more = OVERRUN
    return now - part["began"] > factor * part["share"] + more


def supervise(
    start: Callable[[], subprocess.Popen[bytes]],
    path: Path,
    *,
    run: str,
    deadline: float,
    clock: Clock = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = print,
) -> int:
    """Return the exit code of the worker that got through to the end, begun anew after one that did not.

    A worker that dies, hangs in a part or loses its device costs that part alone. 124 where one had to be
    ended because the budget was used up.
    """
    while True:
        worker = start()
        reason = None
        try:
            while worker.poll() is None:
                pause(0.2)
                reason = must_end(path, clock(), deadline)
                if reason is not None:
                    break
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        code = worker.returncode
        if reason is None and 0 <= code != RESTART:
            return code
        name = blame(path, reason or f"the process ended with code {code}", run, clock(), deadline, say)
        if name is None and code != RESTART:  # ended outside any part: a new one would end there too
            return 124 if reason else 1
        if deadline - clock() < LEAST:
            return 124


def must_end(path: Path, now: float, deadline: float) -> str | None:
    """Return why the worker must be ended, None while it may go on."""
    if now > deadline + GRACE:
        return "the budget was used up"
    if not path.exists():
        return None
    for facts in json.loads(path.read_text(encoding="utf-8"))["parts"].values():
        if facts["status"] == "running" and overran(facts, now):
            return f"still at it after {now - facts['began']:.0f} s, with a share of {facts['share']:.0f} s"
    return None


def blame(
    path: Path, reason: str, run: str, now: float, deadline: float, say: Callable[[str], None]
) -> str | None:
    """Note why the part that was running did not end, and return its name; None if there was none."""
    if not path.exists():
        return None
    record = Record(path)
    name = record.running
    if name is not None:
        part = record.parts[name]
        status = "cut off" if now > deadline else "failed"
        record.put(
            name, status=status, code=part["code"], run=run, seconds=now - part["began"], reason=reason
        )
        say(f"{name}: {status}, {reason}")
    return name

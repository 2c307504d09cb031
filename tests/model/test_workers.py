"""Worker processes end with their parent, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wm_env.model.interrupts import Interrupted, terminated_like_interrupted
from wm_env.model.workers import Workers

PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_workers as t
from wm_env.model.workers import Workers
if __name__ == "__main__":
    with Workers(2) as pool:
        for number in range(2):
            pool.submit(t.work_for_ever, Path({out!r}, str(number)))
"""


def work_for_ever(told: Path) -> None:
    told.with_suffix(".part").write_text(str(os.getpid()))
    told.with_suffix(".part").rename(told)
    while True:
        time.sleep(0.1)


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.is_file() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_a_parent_that_gets_a_signal(sent: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(here=str(Path(__file__).parent), out=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, start_new_session=True)
    files = [tmp_path / "0", tmp_path / "1"]
    deadline = time.monotonic() + 120
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [int(file.read_text()) for file in files]
    assert all(runs(one) for one in workers)
    if sent == signal.SIGINT:
        os.killpg(parent.pid, sent)  # as a terminal does: to all of them
    else:
        parent.send_signal(sent)
    _, said = parent.communicate(timeout=30)  # its workers hold the same pipe: they have ended too
    assert not any(runs(one) for one in workers)
    assert said.count(b"KeyboardInterrupt") == (1 if sent == signal.SIGINT else 0)  # the parent's alone


def test_a_second_signal_does_not_cut_off_the_tidying_up() -> None:
    tidied = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stop, terminated_like_interrupted():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            tidied.append(True)
    assert stop.value.signal == signal.SIGTERM and tidied
    assert signal.getsignal(signal.SIGTERM) == before


def test_results_come_back_in_order() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Workers(0)
    with Workers(1) as pool:
        assert pool.map(abs, [-3, 2, -1]) == [3, 2, 1]

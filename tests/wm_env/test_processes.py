"""Worker processes: by every start method they show what one process shows, or say what to use."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wm_env import forks

pytest.importorskip("stable_baselines3", reason="SubprocVecEnv is Stable-Baselines3's: the extra rl")

JOB = Path(__file__).with_name("process_job.py")
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300  # seconds; a case takes 2 to 8 of them, 60 where ten others share the cores, a deadlock for ever
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_THREAD_LIMIT")

# start method, interface, OMP_NUM_THREADS (None: no thread variable), what the parent did before, threads=
CASES = (
    # Any two values of any two of the first four columns meet in one of these nine.
    ("fork", "AsyncVectorEnv", "2", "env", 1),
    ("fork", "make_vec", "1", "nothing", 1),
    ("fork", "SubprocVecEnv", None, "torch", 1),  # wm_env is first imported in the forked child
    ("spawn", "AsyncVectorEnv", "1", "torch", 1),
    ("spawn", "make_vec", None, "env", 1),
    ("spawn", "SubprocVecEnv", "2", "nothing", 1),
    ("forkserver", "AsyncVectorEnv", None, "nothing", 1),
    ("forkserver", "make_vec", "2", "torch", 1),
    ("forkserver", "SubprocVecEnv", "1", "env", 1),
    # What deadlocked: Linux' start method until 3.13, no variable. threads=None is torch's own number.
    ("fork", "AsyncVectorEnv", None, "nothing", 1),
    ("fork", "make_vec", None, "torch", None),
)


def run(
    interface: str, method: str, variable: str | None, before: str, world: str, threads: int | None = 1
) -> subprocess.CompletedProcess[str]:
    """Run one job in a session of its own; a job that hangs is killed with its workers and fails the test."""
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    environment["PYTHONPATH"] = str(ROOT)  # the job is a file in another folder: this checkout, not another
    if variable is not None:
        environment["OMP_NUM_THREADS"] = variable
    # Workers that are not forked import torch anew, which is most of their time.
    slots = "2" if method == "fork" else "1"
    words = [sys.executable, str(JOB), interface, method, before, world, str(threads), slots]
    with subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            out, err = job.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            pytest.fail(
                f"{interface} by {method} hung for {LIMIT} s (OMP_NUM_THREADS={variable}, {before} before)"
            )
    return subprocess.CompletedProcess(words, job.returncode, out, err)


@pytest.fixture(scope="module")
def alone(memory_world: str) -> list[str]:
    """Digests of what two slots see in one process, one thread."""
    job = run("solo", "fork", None, "nothing", memory_world)
    assert job.returncode == 0, job.stderr
    digests = job.stdout.split()
    assert len(set(digests)) == 2
    return digests


@pytest.mark.slow
@pytest.mark.parametrize(("method", "interface", "variable", "before", "threads"), CASES)
def test_workers_show_what_one_process_shows(
    method: str,
    interface: str,
    variable: str | None,
    before: str,
    threads: int | None,
    memory_world: str,
    alone: list[str],
) -> None:
    job = run(interface, method, variable, before, memory_world, threads)
    assert job.returncode == 0, job.stderr
    assert job.stdout.split() == (alone if method == "fork" else alone[:1])


@pytest.mark.slow
def test_more_threads_in_a_forked_worker_are_refused_in_one_line(memory_world: str) -> None:
    job = run("AsyncVectorEnv", "fork", None, "torch", memory_world, threads=2)
    assert job.returncode == 1
    last = job.stderr.strip().splitlines()[-1]
    assert "threads=2" in last and "'spawn' or 'forkserver'" in last and "threads=1" in last


def test_only_forked_workers_count_as_forked() -> None:
    assert forks.is_forked_worker(multiprocessing.get_context("fork").Process())
    assert not forks.is_forked_worker(multiprocessing.get_context("spawn").Process())
    assert not forks.is_forked_worker(multiprocessing.get_context("forkserver").Process())


FORKED = """
import os, sys
import torch
import wm_env
torch.set_num_threads(2)
torch.randn(4_000_000).exp()
child = os.fork()
if child == 0:
    torch.randn(4_000_000).exp()
    os._exit(10 + torch.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
"""


@pytest.mark.slow
def test_a_child_of_os_fork_has_one_thread_and_the_parent_keeps_its_own() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        try:
            out, _ = parent.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(parent.pid, signal.SIGKILL)
            pytest.fail("the forked child hung")
    assert out.split() == ["11", "2"]

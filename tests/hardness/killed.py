"""SIGKILL at random moments of long commands: the same command goes on to the undisturbed result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
ENDING = 15.0  # seconds; a worker that is killed while it imports torch learns of it when it has
VARYING = ("date", "command", "cost", "wall_seconds", "hardware", "commit", "timing")


@dataclass(frozen=True)
class Command:
    """A long command at smoke size. result: what two runs of it have in common, from their folder."""

    words: tuple[str, ...]
    result: Callable[[Path], Any]


def _json(path: Path) -> Any:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name not in VARYING}


def _episodes(folder: Path) -> Any:
    files = sorted(path for path in (folder / "out").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _training(folder: Path) -> Any:
    """Return the losses and every weight of a training."""
    lines = [json.loads(line) for line in (folder / "out/losses.jsonl").read_text().splitlines()]
    state = torch.load(folder / "out/state.pt", weights_only=True)
    weights = {name: tensor.numpy().tobytes() for name, tensor in state["ema"].items()}
    return [(line["step"], line.get("train"), line.get("eval")) for line in lines], weights


COMMANDS: dict[str, Command] = {
    "record": Command(
        (
            *("record", "--world", "twin", "--format", "folder", "--episodes", "6", "--steps", "12"),
            *("--workers", "2", "--out", "out"),
        ),
        _episodes,
    ),
    "bench fidelity": Command(
        (
            *("bench", "fidelity", "--world", "twin", "--splits", "val", "heldout", "--scenes", "4"),
            *("--horizons", "4", "8", "--long-steps", "8", "--out", "out"),
        ),
        lambda folder: _json(folder / "out/fidelity-twin.json"),
    ),
    "bench drift": Command(
        (
            *("bench", "drift", "--world", "twin", "--scenes", "4", "--batch", "1", "--horizon", "4s"),
            *("--trajectories", "forward,idle", "--pose-every", "0", "--out", "out"),
        ),
        lambda folder: _json(folder / "out/drift.json"),
    ),
    "train vae": Command(
        ("train", "vae", "--preset", "smoke", "--total-steps", "12", "--out", "out"), _training
    ),
}


def kill(name: str, times: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Return how often a command that was killed at random went on to the undisturbed result.

    Every time is a new folder; the command is killed, with all of its processes left to themselves, at a
    moment drawn from what the undisturbed run took, given again, and compared. "early": kills before
    anything was written; "over": the command had ended before.
    """
    command, rng = COMMANDS[name], np.random.default_rng(seed)
    whole = folder / "whole"
    whole.mkdir(parents=True)
    started = time.monotonic()
    _run(command, whole)
    seconds = time.monotonic() - started
    expected = command.result(whole)
    found: dict[str, Any] = {"command": " ".join(command.words), "kills": 0, "over": 0, "equal": 0}
    found |= {"failed": [], "different": [], "left": [], "survivors": 0}
    for number in range(times):
        place = folder / f"killed-{number}"
        place.mkdir()
        moment = float(rng.uniform(0.3, 1.0)) * seconds
        process = _begin(command, place)
        try:
            process.wait(timeout=moment)
            found["over"] += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # to the command alone, as an OOM killer does
            found["kills"] += 1
        process.wait()
        found["survivors"] += _living(process.pid)
        again = subprocess.run(**_call(command, place), check=False)
        if again.returncode != 0:
            found["failed"].append(f"after {moment:.1f} s: {again.stderr.strip().splitlines()[-1:]}")
            continue
        if command.result(place) == expected:
            found["equal"] += 1
        else:
            found["different"].append(f"after {moment:.1f} s")
        found["left"] += [str(path.relative_to(place)) for path in place.rglob(".*")]
    return found


def _call(command: Command, folder: Path) -> dict[str, Any]:
    return {
        "args": [sys.executable, "-m", "wm_env.cli", *command.words],
        "cwd": folder,
        "env": {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def _begin(command: Command, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        **{**_call(command, folder), "stderr": subprocess.DEVNULL}, start_new_session=True
    )


def _run(command: Command, folder: Path) -> None:
    done = subprocess.run(**_call(command, folder), check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the undisturbed command failed: {done.stderr[-500:]}")


def _living(session: int) -> int:
    """Return how many processes of a session still live `ENDING` seconds after its leader was killed."""
    deadline = time.monotonic() + ENDING
    while (count := _counted(session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return count


def _counted(session: int) -> int:
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        count += int(words[3]) == session and words[0] != "Z"
    return count

"""Write docs/performance/scaling.json: what Ray costs and brings, and what a dead worker costs.

    python docs/measure_scaling.py [--quick]         (about twenty minutes on two idle cores)

Steps per second are medians over rounds in which all settings take their turn. Kills are SIGKILL at random
moments of a run, beside the same run undisturbed; every frame is compared.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from measuring import write

import wm_env  # noqa: F401  (registers the ids)
from wm_env.bench.provenance import provenance
from wm_env.distributed import RayVectorEnv
from wm_env.distributed.worker import Worker
from wm_env.export.collect import Job, collect
from wm_env.model.embedded import load_embedded

OUT = Path(__file__).parent / "performance" / "scaling.json"
WORLD = "tiny"
SETTINGS: dict[str, Any] = {"world": WORLD, "max_episode_steps": None, "threads": 1}
SHAPES = ((1, 8), (1, 16), (2, 4), (2, 8), (4, 4), (4, 8))  # workers, slots of each; (4, 4) is held out


def local(slots: int) -> Any:
    return gym.make_vec("SanaWM-v0", num_envs=slots, **SETTINGS)


def rates(rounds: int, steps: int) -> dict[str, float]:
    """Return env steps of all slots per second, by setting: the median over rounds."""
    makers: dict[str, Callable[[], Any]] = {
        f"local x {slots}": lambda slots=slots: local(slots)  # type: ignore[misc]
        for slots in sorted({slots for _, slots in SHAPES} | {16})
    }
    for workers, slots in SHAPES:
        makers[f"{workers} workers x {slots}"] = lambda w=workers, n=slots: RayVectorEnv(w, n, **SETTINGS)  # type: ignore[misc]
    envs = {name: make() for name, make in makers.items()}
    taken: dict[str, list[float]] = {name: [] for name in envs}
    for env in envs.values():
        env.reset(seed=0)
        env.step(np.ones(env.num_envs, int))  # warm
    for _ in range(rounds):
        for name, env in envs.items():
            actions = np.random.default_rng(0).integers(0, 9, (steps, env.num_envs))
            before = time.perf_counter()
            for row in actions:
                env.step(row)
            taken[name].append(steps * env.num_envs / (time.perf_counter() - before))
    for env in envs.values():
        env.close()
    return {name: float(np.median(values)) for name, values in taken.items()}


def model(found: dict[str, float]) -> dict[str, Any]:
    """Return a fit of seconds per step to workers and slots, and its error on the setting left out.

    seconds = a + b n max(1, w / cores)        w workers of n slots
    """
    cores = os.cpu_count() or 1
    rows, seconds = [], []
    for workers, slots in SHAPES:
        rows.append((1.0, slots * max(1.0, workers / cores)))
        seconds.append(workers * slots / found[f"{workers} workers x {slots}"])
    keep = np.array([shape != (4, 4) for shape in SHAPES])
    table, values = np.array(rows), np.array(seconds)
    a, b = np.linalg.lstsq(table[keep], values[keep], rcond=None)[0]
    told = float(table[~keep][0] @ (a, b))
    return {"a_s": float(a), "b_s": float(b), "held_out_s": float(values[~keep][0]), "told_s": told}


def costs() -> dict[str, float]:
    """Return bytes and seconds of a snapshot of eight slots, and bytes of a step's answer."""
    worker = Worker(0, 8)
    worker.make(SETTINGS)
    worker.reset(list(range(8)), {})
    answer = worker.step(np.ones(8, int))
    data, seconds = worker.snapshot()
    before = time.perf_counter()
    worker.restore(data)
    restored = time.perf_counter() - before
    sent = answer[0].nbytes + sum(x.nbytes for x in answer[4].values() if isinstance(x, np.ndarray))
    return {
        "snapshot_bytes": len(data), "snapshot_s": seconds, "restore_s": restored, "answer_bytes": sent,
    }  # fmt: skip


def frames(envs: Any, rows: np.ndarray) -> list[bytes]:
    envs.reset(seed=0)
    return [envs.step(row)[0].tobytes() for row in rows]


def kills(count: int, steps: int) -> dict[str, Any]:
    """Return how many of the kills left every frame as it was, and the seconds until the next answer."""
    rows = np.random.default_rng(1).integers(0, 9, (steps, 4))
    expected = frames(local(4), rows)
    rng = np.random.default_rng(2)
    envs = RayVectorEnv(2, 2, **SETTINGS)
    before = time.perf_counter()
    frames(envs, rows[:4])
    usual = (time.perf_counter() - before) / 4
    envs.reset(seed=0)
    moments = sorted(rng.choice(np.arange(1, steps), count, replace=False).tolist())
    equal, waits = 0, []
    wrong = False
    for step, row in enumerate(rows):
        killed = step in moments
        if killed:
            victim = envs.pids()[int(rng.integers(2))]
            threading.Timer(float(rng.random() * usual), os.kill, (victim, signal.SIGKILL)).start()
        before = time.perf_counter()
        same = envs.step(row)[0].tobytes() == expected[step]
        if killed:
            waits.append(time.perf_counter() - before)
            wrong = False
        wrong = wrong or not same
        if step + 1 in moments or step + 1 == steps:
            equal += not wrong
    envs.close()
    before = time.perf_counter()
    fresh = RayVectorEnv(1, 2, **SETTINGS)
    loading = time.perf_counter() - before
    fresh.close()
    return {
        "kills": count, "steps": steps, "equal": min(equal, count), "wait_s_median": float(np.median(waits)),
        "wait_s_worst": float(max(waits)), "load_s": loading,
    }  # fmt: skip


def player(policy: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda env: rng.integers(0, 2, 8)


def recorded(episodes: int, folder: Path) -> dict[str, Any]:
    """Return how many of the episodes are there after five kills of recording processes."""
    settings = {"world": WORLD, "task": "explore", "action_type": "multikeys"}
    job = Job(settings=settings, make_player=player, policy="random", steps=16, seed=0, out=folder)
    rng, killed, done = np.random.default_rng(3), 0, []
    when = set(rng.choice(np.arange(2, episodes - 4), 5, replace=False).tolist())
    before = time.perf_counter()
    for path in collect(job, episodes, 2, ray="local"):
        done.append(path.name)
        if len(done) in when:
            os.kill(int(rng.choice(recorders())), signal.SIGKILL)
            killed += 1
    return {
        "episodes": episodes, "kills": killed, "folders": len(list(folder.glob("episode_*"))),
        "told_once": len(set(done)) == len(done) == episodes, "seconds": time.perf_counter() - before,
    }  # fmt: skip


def recorders() -> list[int]:
    """Return the processes of the recording actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::Recorder" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def measure(quick: bool = False) -> dict[str, Any]:
    """Return the report. quick: a run of minutes, whose numbers mean little."""
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found = rates(2 if quick else 9, 4 if quick else 12)
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "benchmark": "scaling",
            **provenance(load_embedded(WORLD).spec, "python docs/measure_scaling.py"),
            "steps_per_s": found,
            "model": model(found),
            "costs": costs(),
            "kills": kills(3 if quick else 20, 24 if quick else 300),
            "recorded": recorded(12 if quick else 200, Path(folder) / "set"),
        }
    ray.shutdown()
    return report


if __name__ == "__main__":
    write(__doc__, OUT, measure, quick=lambda: measure(quick=True))

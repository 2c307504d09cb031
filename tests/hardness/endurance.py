"""Long use: one environment stepped for long, a vector with partial resets: memory, descriptors, time.

Step time is compared in pairs: every `PAIR` steps one step of the old environment and one of a young one
follow each other, CPU time of this process, so that other work on the machine meets both.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import wm_env  # noqa: F401  (registers the ids)
from wm_env.model.metrics.intervals import band

PAIR = 25
READINGS = 20


def resident() -> int:
    """Return the memory that this process holds, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reading() -> dict[str, int]:
    """Return memory, open descriptors and threads of this process."""
    return {
        "bytes": resident(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def long_episode(world: str, steps: int, seed: int = 0) -> dict[str, Any]:
    """Return readings and paired step times of `steps` random steps of one episode."""
    env: Any = gym.make("SanaWM-v0", world=world).unwrapped
    young: Any = gym.make("SanaWM-v0", world=world).unwrapped
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    readings, pairs = [], []
    for step in range(steps):
        env.step(int(rng.integers(9)))
        if step % PAIR == PAIR - 1:
            young.reset(seed=seed + step)
            for _ in range(2):
                young.step(1)
            pairs.append((_cpu(env), _cpu(young)))
        if step % max(1, steps // READINGS) == 0:
            readings.append({"step": step, **reading()})
    readings.append({"step": steps, **reading()})
    return {
        "world": world,
        "steps": steps,
        "readings": readings,
        **_growth(readings),
        "pairs": _paired(pairs),
    }


def long_vector(world: str, steps: int, slots: int = 8, seed: int = 0) -> dict[str, Any]:
    """Return readings of `steps` steps of a vector environment whose slots are reset now and then."""
    settings: dict[str, Any] = {"autoreset_mode": "disabled", "max_episode_steps": 60}
    envs: Any = gym.make_vec("SanaWM-v0", num_envs=slots, world=world, **settings)
    rng = np.random.default_rng(seed)
    envs.reset(seed=seed)
    readings, resets = [], 0
    for step in range(steps):
        *_, terminated, truncated, _ = envs.step(rng.integers(9, size=slots))
        mask = terminated | truncated | (rng.random(slots) < 0.01)
        if mask.any():
            envs.reset(options={"reset_mask": mask})
            resets += int(mask.sum())
        if step % max(1, steps // READINGS) == 0:
            readings.append({"step": step, **reading()})
    readings.append({"step": steps, **reading()})
    facts = {"world": world, "steps": steps, "slots": slots, "resets": resets}
    return {**facts, "readings": readings, **_growth(readings)}


def _cpu(env: Any) -> float:
    started = time.process_time()
    env.step(1)
    return time.process_time() - started


def _growth(readings: list[dict[str, int]]) -> dict[str, Any]:
    """Return how memory changed after the first quarter, and whether descriptors and threads stayed."""
    late = readings[len(readings) // 4 :]
    return {
        "growth": late[-1]["bytes"] / late[0]["bytes"] - 1,
        "descriptors": sorted({one["descriptors"] for one in late}),
        "threads": sorted({one["threads"] for one in late}),
    }


def _paired(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return medians of both in milliseconds, and the mean paired difference with its 95% interval."""
    old, young = (np.array(side) * 1000 for side in zip(*pairs, strict=True)) if pairs else (np.zeros(1),) * 2
    found = band(old - young)
    return {
        "number": len(pairs),
        "old_ms": float(np.median(old)),
        "young_ms": float(np.median(young)),
        "difference_ms": {"mean": found.mean, "lo": found.lo, "hi": found.hi},
    }

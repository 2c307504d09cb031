"""Slots of a batch against the same episodes alone: how many values of their frames differ."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

import wm_env  # noqa: F401  (registers the ids)


def compare(world: str, slots: int, steps: int, seed: int = 0) -> dict[str, Any]:
    """Return the number of values of all frames, those that differ, and the largest difference in levels."""
    keys = np.random.default_rng(seed).integers(0, 9, size=(steps, slots))
    envs: Any = gym.make_vec("SanaWM-v0", num_envs=slots, world=world, threads=1)
    envs.reset(seed=seed)
    alone: list[Any] = [gym.make("SanaWM-v0", world=world).unwrapped for _ in range(slots)]
    for slot, env in enumerate(alone):
        env.reset(seed=seed + slot)
    values = differ = largest = 0
    for row in keys:
        envs.step(row)
        batched = envs.state.frames.numpy().astype(np.int16)
        for slot, env in enumerate(alone):
            env.step(int(row[slot]))
            off = np.abs(batched[slot] - env.state.frames[0].numpy())
            values, differ = values + off.size, differ + int((off > 0).sum())
            largest = max(largest, int(off.max()))
    return {
        "world": world,
        "slots": slots,
        "steps": steps,
        "values": values,
        "differ": differ,
        "largest": largest,
    }

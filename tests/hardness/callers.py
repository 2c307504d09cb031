"""Every setting of the caller's own against every world: the frames have to be equal, byte by byte."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym

import wm_env  # noqa: F401  (registers the ids)

sys.path.append(str(Path(__file__).resolve().parents[1] / "contract"))
from test_callers_world import DISTURBANCES

WORLDS = ("twin", "tiny-pure", "tiny")


def digest(world: str) -> str:
    """Return the digest of a short episode: reset, steps, a snapshot restored, a step."""
    env: Any = gym.make("SanaWM-v0", world=world).unwrapped
    found = hashlib.sha256()
    env.reset(seed=3)
    for action in (1, 4):
        env.step(action)
        found.update(env.state.frames.numpy().tobytes())
    moment = env.snapshot()
    env.step(2)
    env.restore(moment)
    env.step(3)
    found.update(env.state.frames.numpy().tobytes())
    return found.hexdigest()


def matrix(worlds: tuple[str, ...] = WORLDS) -> dict[str, Any]:
    """Return how many of the pairs of setting and world give the bytes of no setting, and which do not."""
    different = []
    for world in worlds:
        expected = digest(world)
        for name, disturbance in DISTURBANCES.items():
            with warnings.catch_warnings(), disturbance():
                warnings.simplefilter("ignore")
                found = digest(world)
            if found != expected:
                different.append(f"{name}, {world}")
    pairs = len(worlds) * len(DISTURBANCES)
    return {"settings": list(DISTURBANCES), "worlds": list(worlds), "pairs": pairs, "different": different}

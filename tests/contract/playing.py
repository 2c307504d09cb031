"""An environment that shows every frame, and what it answers to actions, as comparable bytes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import wm_env  # noqa: F401  (registers the ids)


def make(world: str, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("SanaWM-v0", world=world, obs_type="rgb_sequence", **kwargs)


def play(env: gym.Env[Any, Any], actions: list[int]) -> list[tuple[bytes, float, bytes]]:
    """Return frames, reward and poses of every step, as comparable bytes."""
    steps = [env.step(action) for action in actions]
    return [(frames.tobytes(), reward, info["c2w_frames"].tobytes()) for frames, reward, _, _, info in steps]

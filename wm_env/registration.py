"""The Gymnasium ids of this package, as string entry points (docs/reference/environment.md#ids)."""

from __future__ import annotations

import gymnasium as gym

TASK_IDS = {
    "SanaWM-v0": {},
    "SanaWM-Explore-v0": {"task": "explore"},
    "SanaWM-PointNav-v0": {"task": "pointnav"},
    "SanaWM-ObjectNav-v0": {"task": "objectnav"},
    "SanaWM-ImageNav-v0": {"task": "imagenav"},
    "SanaWM-Follow-v0": {"task": "follow"},
    "SanaWM-Twin-v0": {"world": "twin"},
}

DEFAULT_MAX_EPISODE_STEPS = 256


def register_ids() -> None:
    """Register every id once; a second call (or a second import under another name) does nothing."""
    for env_id, kwargs in TASK_IDS.items():
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="wm_env.env:SanaWMEnv",
                vector_entry_point="wm_env.vector:SanaWMVectorEnv",
                max_episode_steps=DEFAULT_MAX_EPISODE_STEPS,
                kwargs=dict(kwargs),
            )

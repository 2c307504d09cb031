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

RELEASED_IDS = {
    "SanaWM-Streaming-v0": {"world": "sana-wm-streaming"},
    "SanaWM-ChunkCausal-v0": {"world": "sana-wm-chunk-causal"},
}

DEFAULT_MAX_EPISODE_STEPS = 256
RELEASED_MAX_EPISODE_STEPS = 40  # of 24 pixel frames: a minute, which is what the models were trained for


def register_ids() -> None:
    """Register every id once; a second call (or a second import under another name) does nothing."""
    limits = dict.fromkeys(TASK_IDS, DEFAULT_MAX_EPISODE_STEPS)
    limits |= dict.fromkeys(RELEASED_IDS, RELEASED_MAX_EPISODE_STEPS)
    for env_id, kwargs in {**TASK_IDS, **RELEASED_IDS}.items():
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="wm_env.env:SanaWMEnv",
                vector_entry_point="wm_env.vector:SanaWMVectorEnv",
                max_episode_steps=limits[env_id],
                kwargs=dict(kwargs),
            )

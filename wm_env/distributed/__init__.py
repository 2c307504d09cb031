"""Vector environments over many processes and machines, with Ray (extra `ray`).

    from wm_env.distributed import RayVectorEnv
    envs = RayVectorEnv(workers=4, envs_per_worker=16, task="objectnav")

A worker is one batched environment on one device; what dies is replaced (docs/scaling.md).
"""

from __future__ import annotations

from wm_env.distributed.ray_env import RayVectorEnv
from wm_env.distributed.worker import Fragment

__all__ = ["Fragment", "RayVectorEnv"]

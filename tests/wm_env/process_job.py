"""Step slots that live in worker processes and print a digest of what they saw; run by test_processes.py.

python process_job.py FACE METHOD BEFORE WORLD THREADS SLOTS
FACE: AsyncVectorEnv, make_vec, SubprocVecEnv or solo (no worker). METHOD: a start method. BEFORE: what the
parent does first: nothing, torch (one operation that is shared out) or env. THREADS: a number or None.
Only the standard library is imported at the top, so that "nothing" is true.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from typing import Any

STEPS = 2


def make(world: str, threads: int | None) -> Any:
    """Return one environment; the import is here, so that a worker may be the first to do it."""
    import gymnasium as gym

    import wm_env  # noqa: F401  (registers the ids)

    return gym.make("SanaWM-v0", world=world, threads=threads)


def use_before(what: str, make_one: Callable[[], Any]) -> None:
    if what == "torch":
        import torch

        torch.randn(4_000_000).exp()  # large enough to be shared out
    if what == "env":
        make_one().reset(seed=0)


def walk(
    interface: str, method: str, world: str, make_one: Callable[[], Any], threads: int | None, slots: int
) -> Any:
    """Return the last observations (slots, h, w, 3) of slots with the seeds 0, 1, ... that walked forward."""
    import numpy as np

    forward = np.ones(slots, np.int64)
    if interface == "solo":
        seen = []
        for seed in range(slots):
            env = make_one()
            env.reset(seed=seed)
            seen.append([env.step(1)[0] for _ in range(STEPS)][-1])
        return np.stack(seen)
    if interface == "SubprocVecEnv":
        from stable_baselines3.common.vec_env import SubprocVecEnv

        workers = SubprocVecEnv([make_one] * slots, start_method=method)
        workers.seed(0)
        workers.reset()
        observed = [workers.step(forward)[0] for _ in range(STEPS)][-1]
        workers.close()
        return observed

    import gymnasium as gym

    if interface == "AsyncVectorEnv":
        envs: Any = gym.vector.AsyncVectorEnv([make_one] * slots, context=method)
    else:
        import wm_env  # noqa: F401

        envs = gym.make_vec(
            "SanaWM-v0",
            num_envs=slots,
            vectorization_mode="async",
            vector_kwargs={"context": method},
            world=world,
            threads=threads,
        )
    envs.reset(seed=0)
    observed = [envs.step(forward)[0] for _ in range(STEPS)][-1]
    envs.close()
    return observed


if __name__ == "__main__":
    interface, method, before, world, asked, number = sys.argv[1:]
    threads = None if asked == "None" else int(asked)
    make_one = functools.partial(make, world, threads)
    use_before(before, make_one)
    for observed in walk(interface, method, world, make_one, threads, int(number)):
        print(hashlib.sha256(observed.tobytes()).hexdigest())

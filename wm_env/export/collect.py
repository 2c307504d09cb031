"""Many episodes, by several processes: each finished one is on disk, whatever happens to the others."""

from __future__ import annotations

import functools
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_env.env import SanaWMEnv
from wm_env.export.episode import play_episode, save_recording
from wm_env.recording import Policy


@dataclass(frozen=True, kw_only=True)
class Job:
    """Episodes to record: environment settings, who plays (a picklable function and its argument), length.

    settings: plain values, as JSON holds them. Episode i has the environment seed and the policy seed
    `seed + i`, however many workers there are.
    """

    settings: Mapping[str, Any]
    make_policy: Callable[[str, int], Policy]
    policy: str
    steps: int
    seed: int
    out: Path

    def record(self, index: int, env: SanaWMEnv) -> Path:
        """Play and write one episode; return its folder."""
        seed = self.seed + index
        played = play_episode(env, self.make_policy(self.policy, seed), seed, self.steps)
        return save_recording(played, self.out / f"episode_{index:06d}")


def collect(job: Job, episodes: int, workers: int) -> Iterator[Path]:
    """Yield the folder of every episode as it is finished; each worker process loads the world once."""
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes={episodes} and workers={workers} must be at least 1")
    existing = sorted(job.out.glob("episode_*"))
    if existing:
        raise FileExistsError(f"{str(job.out)!r} holds episodes already; give another folder")
    if workers == 1:
        env = SanaWMEnv(**job.settings)
        for index in range(episodes):
            yield job.record(index, env)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = [pool.submit(_record, job, index) for index in range(episodes)]
        try:
            for done in as_completed(pending):
                yield done.result()
        except BrokenProcessPool as error:
            raise OSError("a recording process was ended from outside; its episode is lost") from error
        finally:
            for each in pending:
                each.cancel()


@functools.cache
def _environment(settings: str) -> SanaWMEnv:
    """Return the one environment of a worker process. settings: as JSON."""
    return SanaWMEnv(**json.loads(settings))


def _record(job: Job, index: int) -> Path:
    return job.record(index, _environment(json.dumps(dict(job.settings))))

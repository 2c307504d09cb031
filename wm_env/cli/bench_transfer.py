"""`wm-env bench transfer`: does a policy trained in a learned world work in the true one?"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wm_env.cli.options import Device, World

_RUN = "wm_env.agents.transfer.run"  # an upper layer, named by string


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Train policies in a learned world and in the twin with equal budgets; score all in both.

    Writes OUT/transfer.json, figures and a self-contained report.html, beside the policies and the episodes.
    Run again with the same options to continue an interrupted run. --quick scores the policies that come with
    the package, about 10 minutes on 2 CPU cores; the full setting trains 4 policies per seed.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: World = "tiny"
    task: Literal["objectnav", "pointnav", "imagenav"] = "objectnav"
    """What is rewarded."""
    quick: bool = False
    """Train nothing: score the policies that come with the package on 30 starts."""
    policy: str | None = None
    """A policy of your own to score in both: FILE.zip (it holds pickles, which run when it is loaded: only
    yours), a run's folder, or module:function."""
    learner: str | None = None
    """Folder of an `agent train` run whose settings to train with; else those of the shipped policy."""
    steps: int | None = None
    """Env steps of every training; the learner's own by default."""
    seeds: int = 5
    """Trainings of every policy."""
    episodes: int = 100
    """Starts every policy is scored on, equal in both environments."""
    checkpoints: int = 8
    """Checkpoints of a training that the learning curves show."""
    curve_episodes: int = 30
    """Starts every checkpoint is scored on."""
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.5)
    """Temperatures of the learned world to score in, beside 1."""
    train_temperatures: tuple[float, ...] = ()
    """Temperatures to train a further policy at, each."""
    max_episode_steps: int | None = None
    """Time limit of an episode in env steps; the learner's own by default."""
    num_envs: int = 16
    """Slots, stepped in one model call."""
    device: Device = "cpu"
    threads: int = 2
    """CPU threads of torch."""
    seed: int = 0
    """First seed of trainings and episodes."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if min(self.checkpoints, self.threads) < 1 or self.seed < 0:
            raise ValueError("--checkpoints and --threads must be at least 1, --seed at least 0")
        learner = {
            "world": self.world,
            "num_envs": self.num_envs,
            "evaluate_episodes": self.curve_episodes,
            "device": self.device,
            "seed": self.seed,
        }
        if self.max_episode_steps is not None:
            learner["max_episode_steps"] = self.max_episode_steps
        torch.set_num_threads(self.threads)
        report, paths, verdict = importlib.import_module(_RUN).run(
            self.out,
            learner,
            {
                "seeds": self.seeds,
                "episodes": self.episodes,
                "curve_episodes": self.curve_episodes,
                "temperatures": tuple(self.temperatures),
                "train_temperatures": tuple(self.train_temperatures),
                "seed": self.seed,
            },
            task=self.task,
            source=self.learner,
            steps=self.steps,
            checkpoints=self.checkpoints,
            quick=self.quick,
            policy=self.policy,
        )
        print(verdict)
        print("\n".join(str(path) for path in paths))
        found: dict[str, Any] = report.to_json()
        return found

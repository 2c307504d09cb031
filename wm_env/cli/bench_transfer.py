"""`wm-env bench transfer`: does a policy trained in a learned world work in the true one?"""

from __future__ import annotations

import dataclasses
import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wm_env.bench.provenance import provenance
from wm_env.bench.row_file import finite
from wm_env.cli.bench import command_line
from wm_env.worlds import resolve_world

# Upper layers, named by string.
_PLAYERS, _TRANSFER = "wm_env.agents.transfer.players", "wm_env.agents.transfer.rows"
_SUMMARY, _REPORT = "wm_env.agents.transfer.score", "wm_env.agents.transfer.page"

QUICK_EPISODES, QUICK_TEMPERATURES = 30, (0.0,)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Train policies in a learned world and in the twin with equal budgets; score all in both.

    Writes OUT/transfer.json, figures and a self-contained report.html, beside the policies and the episodes.
    Run again with the same options to continue an interrupted run. --quick scores the policies that come with
    the package, about 10 minutes on 2 CPU cores; the full setting trains 4 policies per seed.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: str = "tiny"
    """Preset or checkpoint folder of the learned world."""
    task: Literal["objectnav", "pointnav", "imagenav"] = "objectnav"
    """What is rewarded."""
    quick: bool = False
    """Train nothing: score the policies that come with the package on 30 starts."""
    policy: str | None = None
    """A policy of your own to score in both: FILE.zip, a run's folder, or module:function."""
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
    device: str = "cpu"
    """Torch device of worlds and policies."""
    threads: int = 2
    """CPU threads of torch."""
    seed: int = 0
    """First seed of trainings and episodes."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""

    def run(self) -> dict[str, Any]:
        if min(self.checkpoints, self.threads) < 1 or self.seed < 0:
            raise ValueError("--checkpoints and --threads must be at least 1, --seed at least 0")
        report = importlib.import_module(_REPORT)
        report.check_figures()
        settings = self._settings()
        spec = resolve_world(self.world, device=self.device).spec
        torch.set_num_threads(self.threads)
        walked = importlib.import_module(_TRANSFER).transfer(
            settings, self.out, shipped=self.quick, policy=self.policy
        )
        replayed = json.loads((self.out / "episodes" / "replay.json").read_text())
        found = importlib.import_module(_SUMMARY).summarise(
            walked, replayed, settings.learner.max_episode_steps, self.seed
        )
        result: dict[str, Any] = finite(
            {
                "benchmark": "transfer",
                **provenance(spec, command_line("transfer")),
                "settings": asdict(settings),
                "policies": _digests(walked),
                **found,
            }
        )
        paths = report.write_report(self.out, result)
        print(report.verdict(result))
        print("\n".join(str(path) for path in paths))
        return result

    def _settings(self) -> Any:
        """Return the run's `TransferSettings`."""
        players = importlib.import_module(_PLAYERS)
        base = players.learner_settings(self.learner, self.task)
        steps = base.steps if self.steps is None else self.steps
        own = {
            "world": self.world,
            "task": self.task,
            "steps": steps,
            "num_envs": self.num_envs,
            "checkpoint_every": max(1, steps // self.checkpoints),
            "evaluate_every": steps + 1,  # the curves come from the checkpoints
            "evaluate_episodes": self.curve_episodes,
            "device": self.device,
        }
        if self.max_episode_steps is not None:
            own["max_episode_steps"] = self.max_episode_steps
        return players.TransferSettings(
            learner=dataclasses.replace(
                base, **own, seed=self.seed, blind=False, ablate=None, temperature=1.0
            ),
            seeds=1 if self.quick else self.seeds,
            episodes=QUICK_EPISODES if self.quick else self.episodes,
            curve_episodes=self.curve_episodes,
            temperatures=QUICK_TEMPERATURES if self.quick else tuple(self.temperatures),
            train_temperatures=tuple(self.train_temperatures),
            seed=self.seed,
        )


def _digests(records: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every policy's file by role and training seed."""
    found: dict[str, dict[str, str]] = {}
    for one in records:
        if one["checkpoint"] is None and one["policy_sha256"]:
            found.setdefault(one["role"], {})[str(one["seed"])] = one["policy_sha256"]
    return found

"""Trained policies: their settings, how they act, and how they come back from disk. Needs the extra `rl`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from wm_env.core import State
from wm_env.model.rollout import Ablation

try:
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnvWrapper
except ImportError as error:
    raise ImportError("wm_env.agents.policies needs Stable-Baselines3: pip install 'wm-env[rl]'") from error

MEMORIES = ("none", "lstm")
PICTURES = ("image", "latent")  # entries of a Dict observation that are views


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """Everything about a training run, as it is written to its folder.

    steps: env steps over all slots. split: scenes trained on; evaluation is on `val`. memory: "none" for a
    policy of the newest view, "lstm" for a recurrent one. temperature: factor on the world's noise in
    training. ablate: a part of a tiny world to train without. blind: the view is zeroed, in training and
    after, for the baseline that cannot see. rollout: env steps a slot between updates. evaluate_every,
    checkpoint_every: env steps over all slots.
    """

    world: str = "tiny"
    task: str = "objectnav"
    split: str = "train"
    action_type: str = "keys"
    obs_type: str = "rgb"
    obs_size: int | None = None
    max_episode_steps: int = 120
    num_envs: int = 16
    steps: int = 200_000
    memory: str = "none"
    temperature: float = 1.0
    ablate: Ablation | None = None
    blind: bool = False
    rollout: int = 128
    batch_size: int = 256
    epochs: int = 4
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy: float = 0.01
    evaluate_every: int = 50_000
    evaluate_episodes: int = 50
    checkpoint_every: int = 50_000
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ValueError(f"unknown memory {self.memory!r}; valid are {', '.join(MEMORIES)}")
        for name in (
            *("max_episode_steps", "num_envs", "steps", "rollout", "batch_size", "epochs"),
            *("evaluate_every", "evaluate_episodes", "checkpoint_every"),
        ):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if (self.num_envs * self.rollout) % self.batch_size:
            whole = self.num_envs * self.rollout
            raise ValueError(f"batch_size={self.batch_size} must divide num_envs * rollout = {whole}")

    def env_settings(self) -> dict[str, Any]:
        """Return the environment's settings that a policy is used with in any world, but for the split."""
        names = ("world", "task", "action_type", "obs_type", "obs_size", "device")
        return {name: self.__dict__[name] for name in names}

    def own_world(self) -> dict[str, Any]:
        """Return `env_settings` and what only the world of training has: temperature and ablation."""
        return self.env_settings() | {"temperature": self.temperature, "ablate": self.ablate}


class PolicyAgent:
    """A trained policy as an `evaluate.Agent`; keeps the memory of recurrent policies between calls."""

    def __init__(self, model: BaseAlgorithm, blind: bool, deterministic: bool = False) -> None:
        self.model, self._blind, self._deterministic = model, blind, deterministic
        self._memory: Any = None

    def __call__(self, observations: Any, state: State | None, starts: np.ndarray) -> np.ndarray:
        if bool(starts.all()):
            self._memory = None
        seen = blindfold(observations) if self._blind else observations
        actions, self._memory = self.model.predict(
            seen, state=self._memory, episode_start=starts, deterministic=self._deterministic
        )
        return actions


def blindfold(observations: Any) -> Any:
    """Return the observations with every view zeroed; what the task adds stays."""
    if isinstance(observations, dict):
        return {
            name: np.zeros_like(seen) if name in PICTURES else seen for name, seen in observations.items()
        }
    return np.zeros_like(observations)


class Blindfold(VecEnvWrapper):
    """The same environment for an agent that cannot see."""

    def reset(self) -> Any:
        return blindfold(self.venv.reset())

    def step_wait(self) -> Any:
        observed, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = blindfold(info["terminal_observation"])
        return blindfold(observed), rewards, dones, infos


def algorithm(settings: PPOSettings) -> Any:
    """Return the SB3 class of the settings."""
    return RecurrentPPO if settings.memory == "lstm" else PPO


def load_policy(
    path: str | Path, device: str = "cpu", *, deterministic: bool = False
) -> tuple[PolicyAgent, PPOSettings]:
    """Return the agent and the settings of a run's folder, or of one of its `.zip` files."""
    target = Path(path)
    file = target / "policy.zip" if target.is_dir() else target
    homes = [home for home in (file.parent, file.parent.parent) if (home / "settings.json").is_file()]
    if not file.is_file() or not homes:
        raise FileNotFoundError(f"{str(target)!r} holds no policy.zip with a settings.json of `agent train`")
    settings = read_settings(homes[0])
    model = algorithm(settings).load(file, device=device)
    return PolicyAgent(model, settings.blind, deterministic), settings


def read_settings(folder: Path) -> PPOSettings:
    """Return the settings that a run wrote into its folder."""
    stored = json.loads((folder / "settings.json").read_text())
    unknown = sorted(set(stored) ^ {field.name for field in fields(PPOSettings)})
    if unknown:
        raise ValueError(f"{str(folder / 'settings.json')!r} and this version differ in {unknown}")
    return PPOSettings(**stored)

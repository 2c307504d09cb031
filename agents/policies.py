"""Trained policies: their settings, how they act, and how they come back from disk. Needs the extra `rl`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from torch import nn

from wm_env.actions import ActionSpec
from wm_env.agents.episode_starts import check_starts
from wm_env.agents.evaluate import Agent
from wm_env.agents.goal_features import GoalFeatures
from wm_env.agents.key_combinations import MovingAgent, held_table
from wm_env.agents.sb3_files import load_zip
from wm_env.agents.shipped import policy_path
from wm_env.contexts import SCENE_CONTEXTS
from wm_env.core import State
from wm_env.model.config import check_ranges
from wm_env.model.isolation import undisturbed
from wm_env.model.names import unknown
from wm_env.model.placement import check_device
from wm_env.model.rollout_state import Ablation
from wm_env.model.storage.checkpoint import Card, load_checkpoint, load_into, save_checkpoint
from wm_env.model.storage.facts import check_fact, read_json, shown, whole
from wm_env.model.world import WorldSpec
from wm_env.observations import ObservationSpec
from wm_env.tasks import make_task
from wm_env.twin import TWIN_SPEC

try:
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.preprocessing import is_image_space
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecTransposeImage
except ImportError as error:
    raise ImportError("wm_env.agents.policies needs Stable-Baselines3: pip install 'wm-env[rl]'") from error

MEMORIES = ("none", "lstm")
SIGHTS = ("pixels", "goal-color")
PICTURES = ("image", "latent")  # entries of a Dict observation that are views


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """Everything about a training run, as it is written to its folder.

    steps: env steps over all slots. split: scenes trained on; evaluation is on `val`. memory: "none" for a
    policy of the newest view, "lstm" for a recurrent one. temperature: factor on the world's noise in
    training. ablate: a part of a tiny world to train without. dtype: of its products, None for float32.
    blind: the view is zeroed, in training and after, for the baseline that cannot see. rollout: env steps a
    slot between updates. evaluate_every, checkpoint_every: env steps over all slots.

    moves: the key combinations a policy chooses among, as in "w,a,d"; "" leaves it the action space. lead_in:
    a training episode turns away for 0 to so many steps before actions count (`RandomTurns` of
    `wm_env.agents.key_combinations`). starts: the episodes trained on, `wm_env.agents.episode_starts`, drawn
    from `scenes` scene seeds; evaluate_starts: those scored on. sight: features of the picture, "pixels" for
    SB3's convolutions, "goal-color" for `wm_env.agents.goal_features`. hidden: width of the layer between
    features and action. reward_scale: factor on the rewards the learner sees. context: what the world is
    shown before every episode, "none", "turn" or "walk" of its scene, in training and where the policy is
    used.
    """

    world: str = "tiny"
    task: str = "objectnav"
    split: str = "train"
    context: str = "none"
    starts: str = "any"
    scenes: int = 512
    lead_in: int = 0
    action_type: str = "keys"
    moves: str = ""
    obs_type: str = "rgb"
    obs_size: int | None = None
    sight: str = "pixels"
    hidden: int = 64
    max_episode_steps: int = 120
    num_envs: int = 16
    steps: int = 200_000
    memory: str = "none"
    temperature: float = 1.0
    ablate: Ablation | None = None
    dtype: str | None = None
    blind: bool = False
    rollout: int = 128
    batch_size: int = 256
    epochs: int = 4
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy: float = 0.01
    reward_scale: float = 1.0
    evaluate_starts: str = "any"
    evaluate_every: int = 50_000
    evaluate_episodes: int = 50
    checkpoint_every: int = 50_000
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        names = (
            *("max_episode_steps", "num_envs", "steps", "rollout", "batch_size", "epochs", "scenes"),
            *("evaluate_every", "evaluate_episodes", "checkpoint_every"),
        )
        integers = {**dict.fromkeys(names, (1, 2**53)), "hidden": (1, 2**16), "lead_in": (0, 2**53)}
        real = {"temperature": (0, 1e6), "gamma": (0, 1), "gae_lambda": (0, 1), "entropy": (-1e6, 1e6)}
        check_ranges(self, {**integers, "seed": (0, 2**63)}, real)
        if self.obs_size is not None:
            check_ranges(self, {"obs_size": (1, 4096)}, {})
        if self.memory not in MEMORIES:
            raise ValueError(unknown("memory", self.memory, MEMORIES))
        if self.sight not in SIGHTS:
            raise ValueError(unknown("sight", self.sight, SIGHTS))
        if self.sight == "goal-color" and (self.task, self.obs_type) != ("objectnav", "rgb"):
            raise ValueError(
                f"sight='goal-color' needs task objectnav and obs_type rgb, not {self.task}, {self.obs_type}"
            )
        if self.context not in ("none", *SCENE_CONTEXTS):
            raise ValueError(unknown("context", self.context, ("none", *SCENE_CONTEXTS)))
        check_starts(self.starts, self.task)
        check_starts(self.evaluate_starts, self.task)
        if self.moves:
            held_table(self.moves)
        if (self.moves or self.lead_in) and self.action_type != "multikeys":
            raise ValueError(f"moves and lead_in need action_type 'multikeys', not {self.action_type!r}")
        if not 0 <= self.lead_in < self.max_episode_steps:
            raise ValueError(f"lead_in={self.lead_in} must be from 0 to max_episode_steps - 1")
        if not (math.isfinite(self.reward_scale) and self.reward_scale > 0):
            raise ValueError(f"reward_scale={self.reward_scale} must be a finite number above 0")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate={self.learning_rate} must be a finite number above 0")
        if (self.num_envs * self.rollout) % self.batch_size:
            whole = self.num_envs * self.rollout
            raise ValueError(f"batch_size={self.batch_size} must divide num_envs * rollout = {whole}")

    def env_settings(self) -> dict[str, Any]:
        """Return the environment's settings that a policy is used with in any world, but for the split."""
        names = ("world", "task", "context", "action_type", "obs_type", "obs_size", "device")
        return {name: self.__dict__[name] for name in names}

    def own_world(self) -> dict[str, Any]:
        """Return `env_settings` and what only the world of training has: temperature, ablation, dtype."""
        own = {"temperature": self.temperature, "ablate": self.ablate, "dtype": self.dtype}
        return self.env_settings() | own


class Chooser(Protocol):
    """An SB3 policy or algorithm: the one call that acting takes."""

    def predict(
        self, observation: Any, state: Any, episode_start: np.ndarray, deterministic: bool
    ) -> tuple[np.ndarray, Any]: ...


class PolicyAgent:
    """A trained policy as an `evaluate.Agent`; keeps the memory of recurrent policies between calls."""

    def __init__(self, model: Chooser, blind: bool, deterministic: bool = False) -> None:
        self.model, self._blind, self._deterministic = model, blind, deterministic
        self._memory: Any = None

    @undisturbed()
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


class ScaledReward(VecEnvWrapper):
    """The same environment with every reward times a factor: a learner of values likes them near one."""

    def __init__(self, venv: VecEnv, factor: float) -> None:
        super().__init__(venv)
        self._factor = factor

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observed, rewards, dones, infos = self.venv.step_wait()
        return observed, rewards * self._factor, dones, infos


def algorithm(settings: PPOSettings) -> Any:
    """Return the SB3 class of the settings."""
    return RecurrentPPO if settings.memory == "lstm" else PPO


def policy_kind(settings: PPOSettings, observations: gym.Space[Any]) -> tuple[str, dict[str, Any]]:
    """Return SB3's name of the policy class and its arguments."""
    multi = isinstance(observations, gym.spaces.Dict)
    kind = "MultiInput" if multi else "Cnn" if settings.obs_type == "rgb" else "Mlp"
    arguments: dict[str, Any] = {}
    if settings.sight == "goal-color":
        arguments = {"features_extractor_class": GoalFeatures, "net_arch": [settings.hidden]}
    return f"{kind}{'Lstm' if settings.memory == 'lstm' else ''}Policy", arguments


def save_policy(path: Path, policy: nn.Module, settings: PPOSettings, spec: WorldSpec, card: Card) -> None:
    """Write a policy as `NAME.safetensors` and its card `NAME.json`; no pickle.

    The card names the settings, the world's frame and latent sizes (they give the observation space) and the
    SHA-256 of the weights of the world that it was trained in.
    """
    facts = {
        "settings": asdict(settings),
        "frame_size": spec.frame_size,
        "latent_shape": spec.latent_shape,
        "weights_sha256": spec.weights_sha256,
    }
    save_checkpoint(path, policy.state_dict(), {**card, **facts})


@undisturbed()
def load_policy(
    policy: str | Path, device: str = "cpu", *, deterministic: bool = False
) -> tuple[Agent, PPOSettings]:
    """Return the agent and the settings of a shipped policy, a run's folder, or one of its files.

    `.zip` checkpoints are SB3's own and hold pickles: a warning says so before one is loaded. Raises
    `ValueError` for a device that is not there.
    """
    check_device(device)
    file = policy_path(policy)
    if file.suffix == ".zip" and file.is_file():
        homes = [home for home in (file.parent, file.parent.parent) if (home / "settings.json").is_file()]
        if not homes:
            raise FileNotFoundError(
                f"{str(file)!r} lies in no folder of `agent train`: settings.json is missing"
            )
        settings = read_settings(homes[0])
        model: Chooser = load_zip(algorithm(settings), file, device=device)
    else:
        if not file.is_file():
            raise FileNotFoundError(f"{str(policy)!r} holds no policy.safetensors of `agent train`")
        tensors, card = load_checkpoint(file)
        source = str(file.with_suffix(".json"))
        try:
            settings = _settings(_entry(card, "settings", dict), source)
            built = _build(settings, card, device)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{source!r} describes no policy: {error}") from error
        load_into(built, tensors, f"policy {file.name}")
        model = built
    chosen = PolicyAgent(model, settings.blind, deterministic)
    return MovingAgent(chosen, settings.moves) if settings.moves else chosen, settings


def _entry(card: Card, name: str, kind: type) -> Any:
    """Return an entry of a card, or raise `ValueError` where it is missing or of another kind."""
    return check_fact(card, name, lambda value: isinstance(value, kind), f"a {kind.__name__}")


def _build(settings: PPOSettings, card: Card, device: str) -> Any:
    """Return the SB3 policy of a card, untrained."""
    latent = None if card.get("latent_shape") is None else _entry(card, "latent_shape", list)
    frame = _entry(card, "frame_size", list)
    sizes = [*frame, *(latent or ())]
    if len(frame) != 2 or len(latent or (1, 1, 1)) != 3 or not all(whole(n, 1, 4096) for n in sizes):
        raise ValueError(
            f"frame_size {shown(frame)} and latent_shape {shown(latent)} are no sizes in 1 .. 4096"
        )
    height, width = frame
    world = replace(
        TWIN_SPEC, frame_size=(height, width), latent_shape=None if latent is None else tuple(latent)
    )
    size = (height, width) if settings.obs_size is None else (settings.obs_size, settings.obs_size)
    views = ObservationSpec(kind=settings.obs_type, obs_size=size, world=world)
    seen = views.space(make_task(settings.task).spaces(world.frame_size))
    actions: gym.Space[Any] = ActionSpec(
        kind=settings.action_type, frames_per_step=1, max_translation=1.0, max_rotation_deg=1.0
    ).space()
    if settings.moves:
        actions = gym.spaces.Discrete(len(held_table(settings.moves)))
    name, arguments = policy_kind(settings, seen)
    make = algorithm(settings).policy_aliases[name]
    return make(_channels_first(seen), actions, lambda _: 0.0, **arguments).to(device)


def _channels_first(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return the space as SB3's VecTransposeImage, which every training passes, makes it."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({name: _channels_first(part) for name, part in space.spaces.items()})
    return VecTransposeImage.transpose_space(space) if is_image_space(space) else space


def read_settings(folder: Path) -> PPOSettings:
    """Return the settings that a run wrote into its folder."""
    path = folder / "settings.json"
    return _settings(read_json(path), str(path))


def _settings(stored: dict[str, Any], source: str) -> PPOSettings:
    if str(stored.get("world", "")).endswith("[bfloat16]"):  # how 0.1 wrote the dtype
        stored = {**stored, "world": stored["world"].removesuffix("[bfloat16]"), "dtype": "bfloat16"}
    stored = {"dtype": None, "context": "none", **stored}  # runs of before had no such settings
    unknown = sorted(set(stored) ^ {field.name for field in fields(PPOSettings)})
    if unknown:
        raise ValueError(f"{source!r} and this version differ in {unknown}")
    try:
        return PPOSettings(**stored)
    except TypeError as error:
        raise ValueError(f"{source!r} holds a setting of another kind: {error}") from error

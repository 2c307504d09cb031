"""Whoever plays, by one name: a scripted walker, chance, a trained policy, a function of one's own.

    found = find_player("objectnav")        # also "goal", "random", a run's folder or file, "module:function"
    env = SanaWMEnv(**found.shown())
    env.reset(seed=0)
    action = found.player(seed=0)(env)      # the next one; a film is nothing but these

A function of one's own is an `evaluate.Agent`: called with (observations, core state, starts), batch first,
it returns for every slot the number of a key as in `action_type="keys"`, or the held keys as in "multikeys".
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_env.actions import ActionSpec
from wm_env.agents.evaluate import Agent, RandomAgent, ScriptedAgent
from wm_env.agents.scripted import POLICIES, make_policy
from wm_env.agents.shipped import SHIPPED, policy_path
from wm_env.core import State
from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.model.names import unknown
from wm_env.recording import Player
from wm_env.tasks import make_task

NAMES = (*POLICIES, "random", *SHIPPED)
OTHERS = "the folder or file of a run, module:function"
GOAL_TASKS = ("pointnav", "objectnav", "imagenav")
LIMIT = 120  # steps of an episode, where the player names none


@dataclass(frozen=True, kw_only=True)
class FoundPlayer:
    """A player and where it plays.

    make: a fresh agent whose chances are those of a seed. settings: of the environments it acts in, without
    world. max_episode_steps, starts: of its episodes. sha256: of its weights, None without any.
    """

    make: Callable[[int], Agent]
    settings: dict[str, Any]
    max_episode_steps: int = LIMIT
    starts: str = "any"
    sha256: str | None = None

    def shown(self) -> dict[str, Any]:
        """Return the settings of an environment to show it in: single keys are held keys there.

        The context is left to whoever shows it.
        """
        kind = self.settings["action_type"]
        settings = {name: value for name, value in self.settings.items() if name != "context"}
        return {**settings, "action_type": "multikeys" if kind == "keys" else kind}

    def player(self, seed: int) -> Player:
        """Return the player of one episode of a single environment made with `shown`."""
        return OneSlot(self.make(seed), self.settings["action_type"])


class OneSlot:
    """An agent that plays a single environment. action_type: of the agent; "keys" are held where it plays."""

    def __init__(self, agent: Agent, action_type: str) -> None:
        self._agent, self._kind, self._begun = agent, action_type, False

    def __call__(self, env: SanaWMEnv) -> np.ndarray:
        seen, state = env.look(), env.state
        batched = {name: part[None] for name, part in seen.items()} if isinstance(seen, dict) else seen[None]
        fresh = not self._begun or int(state.chunk[0]) == 0
        self._begun = True
        actions = np.asarray(self._agent(batched, state, np.array([fresh])))
        held = self._kind == "keys" and env.config.action_type == "multikeys"
        chosen: np.ndarray = (held_keys(actions) if held else actions)[0]
        return chosen


def find_player(
    name: str, *, task: str | None = None, device: str = "cpu", deterministic: bool = False, moves: str = ""
) -> FoundPlayer:
    """Return who is meant by a name. task: None is a policy's own, pointnav for a goal to walk to.

    deterministic: a trained policy takes its most likely action. moves: what "random" draws from, as in
    "w,a,d". Raises `ValueError` for a name that is nobody's, or a task that a player cannot play.
    """
    if moves and name != "random":
        raise ValueError(f"moves={moves!r} are for the random agent; {name!r} has its own")
    if name in POLICIES:
        return _scripted(name, task)
    if name == "random":
        return _random(task, moves)
    if name in SHIPPED or Path(name).exists():
        return _trained(name, task, device, deterministic)
    if ":" in name:
        found = function_named(name)
        settings = {"task": task or "explore", "action_type": "multikeys"}
        return FoundPlayer(make=lambda seed: _KeysOf(found, name), settings=settings)
    raise ValueError(unknown("policy", name, NAMES, OTHERS))


def make_player(name: str, seed: int, **options: Any) -> Player:
    """Return the player of one episode; `options` are those of `find_player`. Weights are read once."""
    return _known(name, tuple(sorted(options.items()))).player(seed)


@functools.lru_cache(maxsize=4)
def _known(name: str, options: tuple[tuple[str, Any], ...]) -> FoundPlayer:
    return find_player(name, **dict(options))


def _scripted(name: str, task: str | None) -> FoundPlayer:
    if name == "goal" and task is not None and task not in GOAL_TASKS:
        raise ValueError(f"'goal' needs a task with a goal to walk to, {', '.join(GOAL_TASKS)}, not {task!r}")
    settings = {"task": task or ("pointnav" if name == "goal" else "explore"), "action_type": "multikeys"}
    return FoundPlayer(
        make=lambda seed: ScriptedAgent(lambda own: make_policy(name, own), seed), settings=settings
    )


def _random(task: str | None, moves: str) -> FoundPlayer:
    kind = "multikeys" if moves else "keys"
    settings = {"task": task or "explore", "action_type": kind}
    if moves:
        from wm_env.agents.key_combinations import random_mover

        return FoundPlayer(make=lambda seed: random_mover(moves, seed), settings=settings)
    space = ActionSpec(kind=kind, frames_per_step=1, max_translation=1.0, max_rotation_deg=1.0).space()
    return FoundPlayer(make=lambda seed: RandomAgent(space, seed), settings=settings)


def _trained(name: str, task: str | None, device: str, deterministic: bool) -> FoundPlayer:
    from wm_env.agents.policies import load_policy

    agent, trained = load_policy(name, device, deterministic=deterministic)
    settings = {key: value for key, value in trained.env_settings().items() if key not in ("world", "device")}
    settings["task"] = task or trained.task
    shown, known = (make_task(one).spaces((64, 64)) for one in (settings["task"], trained.task))
    if shown != known:
        raise ValueError(
            f"{name!r} was trained for task {trained.task}, whose goal it is shown; {task} shows another"
        )

    def make(seed: int) -> Agent:
        torch.manual_seed(seed)  # SB3's policies draw from torch's own generator
        return agent  # forgets at the start of an episode

    return FoundPlayer(
        make=make,
        settings=settings,
        max_episode_steps=trained.max_episode_steps,
        starts=trained.evaluate_starts if settings["task"] == trained.task else "any",
        sha256=hashlib.sha256(policy_path(name).read_bytes()).hexdigest(),
    )


def function_named(name: str) -> Agent:
    """Return the function of "module:function"; modules of the working folder are found too."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"policy {name!r} is neither a file nor module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found = vars(importlib.import_module(module))
    except ImportError as error:
        raise ValueError(f"policy {name!r}: {error}") from error
    if not callable(found.get(attribute)):
        raise ValueError(f"policy {name!r}: module {module!r} has no function {attribute!r}")
    chosen: Agent = found[attribute]
    return chosen


class _KeysOf:
    """A function of one's own as an agent of "multikeys"; what it returns is checked at every call."""

    def __init__(self, function: Agent, name: str) -> None:
        self._function, self._name = function, name

    def __call__(self, observations: Any, state: State, starts: np.ndarray) -> np.ndarray:
        actions = np.asarray(self._function(observations, state, starts))
        batch = len(starts)
        if actions.dtype.kind not in "iub" or actions.shape not in ((batch,), (batch, len(KEYS))):
            raise ValueError(
                f"{self._name} returned {actions.dtype} of shape {actions.shape}; expected whole numbers "
                f"({batch},), a key each as in action_type 'keys', or ({batch}, {len(KEYS)}), the held keys"
            )
        return held_keys(actions) if actions.ndim == 1 else actions.astype(np.int8)


def held_keys(actions: np.ndarray) -> np.ndarray:
    """Return actions of "keys" `(B,)` as those of "multikeys" `(B, 8)` int8. 0 holds none."""
    if actions.min() < 0 or actions.max() > len(KEYS):
        raise ValueError(f"keys are numbered from 0 (none) to {len(KEYS)}, not {actions.tolist()}")
    return np.eye(len(KEYS) + 1, dtype=np.int8)[actions][:, 1:]

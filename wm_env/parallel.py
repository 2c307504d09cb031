"""The PettingZoo face: several agents in one world.

    shared_camera   two agents, "mover" and "looker", drive one camera together: a truly shared world
    multi_camera    N cameras start at one place and each go their own way

What the cameras of "multi_camera" share depends on the world. In the twin they look at one true scene. In a
learned world each camera dreams on its own from the common start: what one sees need not be there for the
others, and they never see each other. Use "shared_camera" where agents must agree on what exists.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.vector import SanaWMVectorEnv

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError("wm_env.parallel needs pettingzoo: pip install 'wm-env[marl]'") from error

MODES = ("shared_camera", "multi_camera")
MAX_CYCLES = 256
HANDS = {"mover": "wsjl", "looker": "adik"}  # the keys of each agent; action 0 is none


def parallel_env(
    mode: str = "shared_camera",
    *,
    num_cameras: int = 2,
    max_cycles: int = MAX_CYCLES,
    render_mode: str | None = None,
    **settings: Any,
) -> ParallelEnv:
    """Return the parallel environment of a mode; `settings` are those of `wm_env.config.EnvConfig`."""
    if mode == "shared_camera":
        return SharedCamera(max_cycles=max_cycles, render_mode=render_mode, **settings)
    if mode == "multi_camera":
        return MultiCamera(
            num_cameras=num_cameras, max_cycles=max_cycles, render_mode=render_mode, **settings
        )
    raise ValueError(f"unknown mode {mode!r}; valid are {', '.join(MODES)}")


class _Parallel(ParallelEnv):
    """What both modes share: names, spaces, seeds."""

    def __init__(
        self,
        names: list[str],
        settings: dict[str, Any],
        action_space: gym.Space[Any] | None,
        max_cycles: int,
        render_mode: str | None,
    ) -> None:
        if max_cycles < 1:
            raise ValueError(f"max_cycles={max_cycles} must be at least 1")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}; valid are None and rgb_array")
        self.metadata = {
            "name": "sana_wm_v0",
            "render_modes": ["rgb_array"],
            "render_fps": 16,
            "is_parallelizable": True,
        }
        self.render_mode = render_mode
        self.possible_agents = names
        self.agents: list[str] = []
        self._env = SanaWMEnv(**settings)
        self._limit, self._cycle = max_cycles, 0
        move = action_space or self._env.action_space
        self._views = {name: copy.deepcopy(self._env.observation_space) for name in names}
        self._moves = {name: copy.deepcopy(move) for name in names}  # each samples from its own seed

    def observation_space(self, agent: str) -> gym.Space[Any]:
        return self._views[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        return self._moves[agent]

    def close(self) -> None:
        self._env.close()
        self.agents = []

    def _check_agents(self, actions: dict[str, Any]) -> None:
        if not self.agents:
            raise ResetNeeded("no agent is alive; call reset() first")
        if set(actions) != set(self.agents):
            raise ValueError(f"actions were given for {sorted(actions)}; the live agents are {self.agents}")


class SharedCamera(_Parallel):
    """Two agents hold the keys of one camera: "mover" w s j l, "looker" a d i k.

    Actions: Discrete(5), 0 holds none, then the keys in that order. Both see the same and are paid the same.
    """

    def __init__(self, *, max_cycles: int, render_mode: str | None, **settings: Any) -> None:
        chosen = settings.pop("action_type", "multikeys")
        if chosen != "multikeys":
            raise ValueError(f"shared_camera shares out the keys; action_type={chosen!r} does not apply")
        space = gym.spaces.Discrete(1 + len(HANDS["mover"]))
        everything = {**settings, "action_type": "multikeys"}
        super().__init__(list(HANDS), everything, space, max_cycles, render_mode)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        observed, info = self._env.reset(seed=seed, options=options)
        self.agents, self._cycle = list(self.possible_agents), 0
        return self._each(observed), self._each(info)

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        self._check_agents(actions)
        held = np.zeros(len(KEYS), np.int8)
        for agent, action in actions.items():
            if not self._moves[agent].contains(action):
                raise gym.error.InvalidAction(f"{agent}'s action {action!r} leaves {self._moves[agent]}")
            if action:
                held[KEYS.index(HANDS[agent][int(action) - 1])] = 1
        observed, reward, terminated, _, info = self._env.step(held)
        self._cycle += 1
        truncated = self._cycle >= self._limit
        results = tuple(self._each(value) for value in (observed, reward, terminated, truncated, info))
        if terminated or truncated:
            self.agents = []
        return results

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return self._env.state.frames[0, -1].numpy().copy()

    def _each(self, value: Any) -> dict[str, Any]:
        """Return `value` for every live agent, arrays as copies of their own."""
        return {agent: _own(value) for agent in self.agents}


class MultiCamera(_Parallel):
    """N cameras from one start, each with its own task, actions and frames; see the module docstring."""

    def __init__(
        self, *, num_cameras: int, max_cycles: int, render_mode: str | None, **settings: Any
    ) -> None:
        if num_cameras < 1:
            raise ValueError(f"num_cameras={num_cameras} must be at least 1")
        names = [f"camera_{index}" for index in range(num_cameras)]
        super().__init__(names, settings, None, max_cycles, render_mode)
        self._cameras: SanaWMVectorEnv | None = None

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        observed, info = self._env.reset(seed=seed, options=options)
        self.agents, self._cycle = list(self.possible_agents), 0
        self._cameras = self._env.branch(len(self.agents), noise="independent")
        return {a: _own(observed) for a in self.agents}, {a: _own(info) for a in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        self._check_agents(actions)
        assert self._cameras is not None
        idle = np.zeros_like(np.asarray(next(iter(actions.values()))))
        batch = [actions.get(agent, idle) for agent in self.possible_agents]
        observed, rewards, terminated, _, info = self._cameras.step(np.stack(batch))
        self._cycle += 1
        truncated = self._cycle >= self._limit
        live = {agent: self.possible_agents.index(agent) for agent in self.agents}
        results = (
            {agent: _slot(observed, slot) for agent, slot in live.items()},
            {agent: float(rewards[slot]) for agent, slot in live.items()},
            {agent: bool(terminated[slot]) for agent, slot in live.items()},
            dict.fromkeys(live, truncated),
            {agent: _slot_info(info, slot) for agent, slot in live.items()},
        )
        self.agents = [agent for agent, slot in live.items() if not (terminated[slot] or truncated)]
        return results

    def render(self) -> np.ndarray | None:
        """Return all cameras' newest frames side by side."""
        if self.render_mode is None or self._cameras is None:
            return None
        return np.concatenate(list(self._cameras.state.frames[:, -1].numpy()), axis=1)

    def close(self) -> None:
        super().close()
        self._cameras = None


def _own(value: Any) -> Any:
    """Return a copy that shares no array."""
    if isinstance(value, dict):
        return {key: _own(part) for key, part in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value


def _slot(observed: Any, slot: int) -> Any:
    if isinstance(observed, dict):
        return {name: values[slot].copy() for name, values in observed.items()}
    return observed[slot].copy()


def _slot_info(info: dict[str, Any], slot: int) -> dict[str, Any]:
    """Return one slot's part of a vector info, with plain Python numbers."""
    single: dict[str, Any] = {}
    for key, values in info.items():
        if not key.startswith("_") and info[f"_{key}"][slot]:
            value = values[slot]
            single[key] = value.copy() if isinstance(value, np.ndarray) else value.item()
    return single

"""The PettingZoo interface: several agents in one world.

A video world has one camera and no other bodies, so two arrangements make sense:

    shared_camera   two agents drive one camera: "mover" translates it, "looker" turns it. Both see the same
                    picture and earn the same reward: a truly shared world.
    multi_camera    "camera_0" ... "camera_N-1" leave one start, each with its own task state. In the twin
                    they move through one scene. On a learned world each camera goes on alone: they agree
                    at the start picture and on nothing else. Cameras never see or touch one another.

Needs the extra `marl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils import seeding

from wm_env.config import EnvConfig, EnvSettings, configured
from wm_env.core import State, check_reset_options, initial, observation, transition
from wm_env.episodes import draw_episode, reset_options
from wm_env.infos import cut_short, infos
from wm_env.model.kinematics import KEYS
from wm_env.model.names import unknown
from wm_env.model.plain_arrays import plain_array
from wm_env.model.storage.facts import as_integer, brief, shown, whole
from wm_env.model.world import World
from wm_env.modes import frame_rate
from wm_env.registration import DEFAULT_MAX_EPISODE_STEPS

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError("wm_env.parallel needs PettingZoo: pip install 'wm-env[marl]'") from error

MODES = ("shared_camera", "multi_camera")
KEYS_OF = {"mover": "wsjl", "looker": "adik"}
COLUMNS_OF = {"mover": [0, 1, 2], "looker": [3, 4, 5]}  # of a twist
SHARED_ACTIONS = ("keys", "multikeys", "camera")
MOST_CAMERAS = 4096
MOST_NUMBERS = 16 * 1024 * 6  # of an action
KEYWORDS = (
    "mode",
    "num_cameras",
    "max_episode_steps",
    "render_mode",
)  # of `parallel_env` beside the settings


def parallel_env(
    mode: Literal["shared_camera", "multi_camera"] = "shared_camera",
    *,
    num_cameras: int = 2,
    max_episode_steps: int = DEFAULT_MAX_EPISODE_STEPS,
    render_mode: str | None = None,
    **settings: Unpack[EnvSettings],
) -> _CameraEnv:
    """Return a PettingZoo `ParallelEnv`; `settings` are those of `wm_env.config.EnvConfig`.

    num_cameras: agents of "multi_camera". Actions of "shared_camera": `"keys"` gives each agent
    `Discrete(5)`, none and its four keys (mover w s j l, looker a d i k); `"multikeys"` `MultiBinary(4)`;
    `"camera"` `Box(-1, 1, (3,))`. Actions of "multi_camera" are those of the single environment.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(unknown("mode", mode, MODES))
    limit = as_integer(max_episode_steps)
    if not whole(limit, 1):
        raise ValueError(f"max_episode_steps={shown(max_episode_steps)} must be an integer of at least 1")
    if settings.get("output", "numpy") != "numpy":
        raise ValueError("output='torch': the PettingZoo interface gives NumPy arrays; leave output out")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"unknown render_mode {render_mode!r}; valid are None, rgb_array")
    if mode == "shared_camera":
        return SharedCamera(limit, render_mode, settings)
    cameras = as_integer(num_cameras)
    if not whole(cameras, 1, MOST_CAMERAS):
        raise ValueError(f"num_cameras={shown(num_cameras)} must be an integer in 1 .. {MOST_CAMERAS}")
    return MultiCamera(cameras, limit, render_mode, settings)


class _CameraEnv(ParallelEnv[str, Any, Any]):
    """What both modes share: episodes over the core, one slot a camera, every camera always stepped."""

    def __init__(
        self,
        name: str,
        agents: list[str],
        cameras: int,
        limit: int,
        render_mode: str | None,
        config: EnvConfig,
    ) -> None:
        self.metadata = {
            "name": name,
            "render_modes": ["rgb_array"],
            "is_parallelizable": True,
        }
        self.possible_agents = agents
        self.agents: list[str] = []
        self.render_mode = render_mode
        self.config = config
        self._cameras, self._limit = cameras, limit
        self._world = config.load_world()
        self.metadata["render_fps"] = frame_rate(self._world.spec, render_mode)
        self._rules = config.rules(self._world)
        self._defaults = config.reset_options(self._world.spec)
        seen = self._rules.views.space(self._rules.task.spaces(self._world.spec.frame_size))
        self._seen = {agent: _copy_of(seen) for agent in agents}
        self._acts = {agent: self._action_space(agent) for agent in agents}
        self._generator: np.random.Generator | None = None
        self._seed: int | None = None
        height, width = self._world.spec.frame_size
        self.state_space = gym.spaces.Box(0, 255, (cameras, height, width, 3), np.uint8)
        self._state: State | None = None
        self._closed = False

    def observation_space(self, agent: str) -> gym.Space[Any]:
        return self._seen[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        return self._acts[agent]

    @property
    def world(self) -> World:
        """The world that is stepped."""
        return self._world

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Start an episode of all agents; options as in `SanaWMEnv.reset`."""
        if self._closed:
            raise ClosedEnvironmentError("this environment is closed; make a new one")
        asked = reset_options(self._defaults, options, self._world.spec)
        check_reset_options(self._rules, asked)
        if seed is not None or self._generator is None:
            self._generator, self._seed = seeding.np_random(
                int(seed) if isinstance(seed, np.integer) else seed
            )
        episode = draw_episode(self._generator, asked, self._world.spec, self.config.temperature)
        episodes = [
            replace(episode, noise_seed=episode.noise_seed + camera) for camera in range(self._cameras)
        ]
        self._state = initial(self._rules, episodes)
        self.agents = list(self.possible_agents)
        return self._views(self.agents), self._facts(self.agents)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Move all cameras for one chunk; needs one action of every live agent."""
        if self._closed:
            raise ClosedEnvironmentError("this environment is closed; make a new one")
        if self._state is None or not self.agents:
            raise ResetNeeded("call reset() first: no agent is in an episode")
        live = list(self.agents)
        if not isinstance(actions, Mapping) or set(actions) != set(live):
            named = isinstance(actions, Mapping)
            given = sorted(map(str, actions)) if named else f"a {type(actions).__name__}"
            raise InvalidAction(f"actions are of {shown(given)}; the live agents are {sorted(live)}")
        numbers = {agent: self._numbers(agent, actions[agent]) for agent in live}
        command = self._rules.actions.command(self._joined(numbers), self._cameras)
        self._state, outcome = transition(self._rules, self._state, command)
        short = cut_short(self._rules, self._state) | bool(self._state.chunk[0] >= self._limit)
        rewards = {agent: float(outcome.reward[self._camera(agent)]) for agent in live}
        ended = {agent: bool(outcome.terminated[self._camera(agent)]) for agent in live}
        cut = {agent: bool(short[self._camera(agent)]) for agent in live}
        self.agents = [agent for agent in live if not (ended[agent] or cut[agent])]
        return self._views(live), rewards, ended, cut, self._facts(live)

    def state(self) -> np.ndarray:
        """Return what all agents see together, for central critics: frames `(cameras, h, w, 3)` uint8."""
        if self._state is None:
            raise ResetNeeded("call reset() first: nothing has been seen yet")
        return self._state.frames[:, -1].cpu().numpy().copy()

    @property
    def np_random(self) -> np.random.Generator:
        """The generator of episodes, seeded by `reset`, or at random before that."""
        if self._generator is None:
            self._generator, self._seed = seeding.np_random(None)
        return self._generator

    @property
    def np_random_seed(self) -> int | None:
        """The seed of the generator, None before there is one."""
        return self._seed

    def render(self) -> np.ndarray | None:
        """Return the newest frames of all cameras side by side, at full size."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; pass render_mode='rgb_array'")
            return None
        if self._state is None:
            raise ResetNeeded("call reset() first: nothing has been seen yet")
        return np.concatenate(list(self._state.frames[:, -1].cpu().numpy()), axis=1)

    def close(self) -> None:
        """Forget the episode; may be called twice."""
        self._state, self.agents, self._closed = None, [], True

    def _numbers(self, agent: str, action: Any) -> np.ndarray:
        """Return an action as an array of the shape of its space, or raise `InvalidAction`."""
        wanted = self._acts[agent].shape
        try:
            found = plain_array(action, MOST_NUMBERS)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidAction(f"the action of {agent!r} has no shape {wanted}: {brief(error)}") from error
        if found.shape != wanted or found.dtype.kind not in "biuf":
            what = f"shape {found.shape}, not {wanted}"
            if found.shape == wanted:
                what = f"no numbers, but {found.dtype}"
            raise InvalidAction(f"the action of {agent!r} has {what}")
        return found

    def _camera(self, agent: str) -> int:
        raise NotImplementedError

    def _action_space(self, agent: str) -> gym.Space[Any]:
        raise NotImplementedError

    def _joined(self, actions: dict[str, np.ndarray]) -> np.ndarray:
        """Return one action of the core for every camera."""
        raise NotImplementedError

    def _views(self, agents: list[str]) -> dict[str, Any]:
        assert self._state is not None
        batched = observation(self._rules, self._state)
        if isinstance(batched, dict):
            return {
                agent: {name: values[self._camera(agent)].copy() for name, values in batched.items()}
                for agent in agents
            }
        return {agent: batched[self._camera(agent)].copy() for agent in agents}

    def _facts(self, agents: list[str]) -> dict[str, dict[str, Any]]:
        assert self._state is not None
        per_camera = infos(self._rules, self._state)
        return {agent: dict(per_camera[self._camera(agent)]) for agent in agents}


class SharedCamera(_CameraEnv):
    """Two agents, one camera; see the module docstring."""

    def __init__(self, limit: int, render_mode: str | None, settings: EnvSettings) -> None:
        self._kind = settings.get("action_type", "keys")
        if self._kind not in SHARED_ACTIONS:
            raise ValueError(
                f"action_type {self._kind!r} cannot be shared; valid are {', '.join(SHARED_ACTIONS)}"
            )
        kind = "camera" if self._kind == "camera" else "multikeys"
        config = configured({**settings, "action_type": kind}, KEYWORDS)
        super().__init__("sana_wm_shared_camera_v0", list(KEYS_OF), 1, limit, render_mode, config)

    def _camera(self, agent: str) -> int:
        return 0

    def _action_space(self, agent: str) -> gym.Space[Any]:
        if self._kind == "keys":
            return gym.spaces.Discrete(1 + len(KEYS_OF[agent]))
        if self._kind == "multikeys":
            return gym.spaces.MultiBinary(len(KEYS_OF[agent]))
        return gym.spaces.Box(-1.0, 1.0, (len(COLUMNS_OF[agent]),), np.float32)

    def _joined(self, actions: dict[str, np.ndarray]) -> np.ndarray:
        if self._kind == "camera":
            twist = np.zeros((1, 6))
            for agent, action in actions.items():
                twist[0, COLUMNS_OF[agent]] = action
            return twist
        held = np.zeros((1, len(KEYS)), np.int64)
        for agent, action in actions.items():
            if not self._acts[agent].contains(action[()]):
                raise InvalidAction(
                    f"the action {shown(action.tolist())} of {agent!r} leaves {self._acts[agent]}"
                )
            for index, key in enumerate(KEYS_OF[agent]):
                down = action == index + 1 if self._kind == "keys" else action[index]
                held[0, KEYS.index(key)] = int(down)
        return held


class MultiCamera(_CameraEnv):
    """N cameras from one start; see the module docstring."""

    def __init__(self, num_cameras: int, limit: int, render_mode: str | None, settings: EnvSettings) -> None:
        agents = [f"camera_{index}" for index in range(num_cameras)]
        config = configured(settings, KEYWORDS)
        super().__init__("sana_wm_multi_camera_v0", agents, num_cameras, limit, render_mode, config)

    def _camera(self, agent: str) -> int:
        return self.possible_agents.index(agent)

    def _action_space(self, agent: str) -> gym.Space[Any]:
        return self._rules.actions.space()

    def _joined(self, actions: dict[str, np.ndarray]) -> np.ndarray:
        still = np.zeros_like(next(iter(actions.values())))  # cameras that have ended stand still
        return np.stack([actions.get(agent, still) for agent in self.possible_agents])


def _copy_of(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return an equal space with a generator of its own."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({name: _copy_of(part) for name, part in space.spaces.items()})
    assert isinstance(space, gym.spaces.Box)
    return gym.spaces.Box(space.low, space.high, space.shape, space.dtype.type)  # type: ignore[union-attr]

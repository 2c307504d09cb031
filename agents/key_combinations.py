"""A few key combinations in place of a whole action space: what a policy chooses among, and what is held.

ObjectNav needs w, a and d only. A policy with three choices explores with steps that matter; the environment
itself stays in `multikeys`. Needs the extra `rl` for `Moves`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from wm_env.agents.evaluate import Agent, RandomAgent
from wm_env.core import State
from wm_env.model.kinematics import KEYS

try:
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
except ImportError as error:
    raise ImportError(
        "wm_env.agents.key_combinations needs Stable-Baselines3: pip install 'wm-env[rl]'"
    ) from error


def held_table(moves: str) -> np.ndarray:
    """Return the held keys `(n, 8)` int8 of moves such as "w,a,d,wa", one row each; "" holds none."""
    rows = moves.split(",")
    odd = [row for row in rows if set(row) - set(KEYS) or len(set(row)) != len(row)]
    if odd or len(set(rows)) != len(rows) or len(rows) < 2:
        raise ValueError(
            f"moves={moves!r} must be two or more different key combinations of {KEYS}, as in w,a,d"
        )
    return np.array([[key in row for key in KEYS] for row in rows], np.int8)


class Moves(VecEnvWrapper):
    """An environment in `multikeys` whose action is a number of a move."""

    def __init__(self, venv: VecEnv, moves: str) -> None:
        self._held = held_table(moves)
        super().__init__(venv, action_space=gym.spaces.Discrete(len(self._held)))

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(self._held[actions])

    def step_wait(self) -> Any:
        return self.venv.step_wait()


class RandomTurns(VecEnvWrapper):
    """An environment in `multikeys` whose episodes begin with a turn away, whatever the actions say.

    Every episode turns left or right for 0 to `most` steps, drawn alike, before actions count: what was in
    the start picture, all that a learned world knows, has to be searched for. Actions that do nothing carry
    no gradient on average, so a learner may keep these steps.
    """

    def __init__(self, venv: VecEnv, most: int, seed: int) -> None:
        super().__init__(venv)
        self._most, self._random = most, np.random.default_rng(seed)
        self._left = np.zeros(venv.num_envs, np.int64)  # steps until actions count
        self._turn = np.zeros((venv.num_envs, len(KEYS)), np.int8)

    def reset(self) -> Any:
        self._draw(np.ones(self.num_envs, bool))
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        leading = self._left > 0
        self._left -= leading
        self.venv.step_async(np.where(leading[:, None], self._turn, actions))

    def step_wait(self) -> Any:
        observed, rewards, dones, infos = self.venv.step_wait()
        self._draw(dones)
        return observed, rewards, dones, infos

    def _draw(self, begun: np.ndarray) -> None:
        """Draw anew for the slots `(num_envs,)` bool that begin an episode."""
        for slot in np.flatnonzero(begun):
            self._left[slot] = self._random.integers(self._most + 1)
            side = "ad"[self._random.integers(2)]
            self._turn[slot] = [key == side for key in KEYS]


class MovingAgent:
    """An agent that chooses numbers of moves, as an agent of `multikeys`."""

    def __init__(self, chooser: Agent, moves: str) -> None:
        self.chooser, self._held = chooser, held_table(moves)

    def __call__(self, observations: Any, state: State, starts: np.ndarray) -> np.ndarray:
        return self._held[self.chooser(observations, state, starts)]


def random_mover(moves: str, seed: int) -> MovingAgent:
    """Return the agent that draws every move alike: the random baseline of policies with these moves."""
    return MovingAgent(RandomAgent(gym.spaces.Discrete(len(held_table(moves))), seed), moves)

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
    raise ImportError("wm_env.agents.moves needs Stable-Baselines3: pip install 'wm-env[rl]'") from error


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


class MovingAgent:
    """An agent that chooses numbers of moves, as an agent of `multikeys`."""

    def __init__(self, chooser: Agent, moves: str) -> None:
        self.chooser, self._held = chooser, held_table(moves)

    def __call__(self, observations: Any, state: State, starts: np.ndarray) -> np.ndarray:
        return self._held[self.chooser(observations, state, starts)]


def random_mover(moves: str, seed: int) -> MovingAgent:
    """Return the agent that draws every move alike: the random baseline of policies with these moves."""
    return MovingAgent(RandomAgent(gym.spaces.Discrete(len(held_table(moves))), seed), moves)

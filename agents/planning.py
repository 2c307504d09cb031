"""Planning without training: imagine many futures of this moment in one batch, take the best first step.

A plan is `horizon` decisions, each an action of `Discrete(9)` held for `hold` steps. Its value is the sum of
the rewards along the imagined future, up to its end.

    random shooting   draw `candidates` plans uniformly, keep the best
    CEM               draw them from p (horizon, actions), uniform at first; refit p to the `elites` best,
                      p <- (1 - smooth) count / elites + smooth / actions;  repeat `rounds` times

The world's state has constant size, so a plan costs the same at step 10 and at step 10 000, and every round
steps all futures in one world call a step. On a learned world the futures are imagined; the reward is the
task's, as in `step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from wm_env.env import SanaWMEnv


@dataclass(frozen=True, kw_only=True)
class Planner:
    """How to plan; rounds=1 is random shooting, more is CEM. noise: as in `SanaWMEnv.branch`."""

    candidates: int = 32
    horizon: int = 6
    hold: int = 3
    rounds: int = 3
    elites: int = 6
    smooth: float = 0.1
    noise: str = "shared"

    def __post_init__(self) -> None:
        for name in ("candidates", "horizon", "hold", "rounds", "elites"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.elites > self.candidates:
            raise ValueError(f"elites={self.elites} cannot exceed candidates={self.candidates}")
        if not 0 <= self.smooth <= 1:
            raise ValueError(f"smooth={self.smooth} must be in 0..1")


class Plan(NamedTuple):
    """actions: `(horizon,)` int64, one a decision. value: its imagined return. values: `(rounds,)` float64,
    the mean imagined return of each round's candidates."""

    actions: np.ndarray
    value: float
    values: np.ndarray


def plan(env: SanaWMEnv, planner: Planner, generator: np.random.Generator) -> Plan:
    """Return the best plan found from the environment's present moment, which stays as it is."""
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise ValueError(f"planning draws from Discrete actions (action_type 'keys'), not {env.action_space}")
    actions = int(env.action_space.n)
    probabilities = np.full((planner.horizon, actions), 1 / actions)
    best, best_value, values = np.zeros(planner.horizon, np.int64), -np.inf, []
    for _ in range(planner.rounds):
        drawn = _draw(probabilities, planner.candidates, generator)  # (candidates, horizon)
        returns = imagine(env, drawn, planner.hold, planner.noise)
        values.append(float(returns.mean()))
        order = np.argsort(-returns, kind="stable")
        if returns[order[0]] > best_value:
            best, best_value = drawn[order[0]], float(returns[order[0]])
        elite = drawn[order[: planner.elites]]
        counts = (elite[:, :, None] == np.arange(actions)).mean(0)  # (horizon, actions)
        probabilities = (1 - planner.smooth) * counts + planner.smooth / actions
    return Plan(best, best_value, np.array(values))


def imagine(env: SanaWMEnv, actions: np.ndarray, hold: int, noise: str = "shared") -> np.ndarray:
    """Return the rewards `(n,)` float64 summed along n futures of the present moment, until each one's end.

    actions: `(n, horizon)` int64, each held for `hold` steps.
    """
    futures = env.branch(len(actions), noise=noise)
    total, alive = np.zeros(len(actions)), np.ones(len(actions), bool)
    for decision in range(actions.shape[1]):
        for _ in range(hold):
            _, rewards, terminated, _, _ = futures.step(actions[:, decision])
            total += np.where(alive, rewards, 0.0)
            alive &= ~terminated
            if not alive.any():
                return total
    return total


def _draw(probabilities: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return `count` plans `(count, horizon)` int64, each decision drawn from its row of `probabilities`."""
    sums = probabilities.cumsum(1)
    uniform = generator.random((count, len(probabilities), 1))
    return (uniform > sums / sums[:, -1:]).sum(-1).astype(np.int64)

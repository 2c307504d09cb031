"""How well an agent does: returns, success rate and SPL over given seeds, with confidence intervals.

    success   S / n                                        Wilson score interval
    SPL       1/n sum S_i l_i / max(p_i, l_i)              bootstrap over episodes; l shortest, p walked
    return    1/n sum of undiscounted rewards              bootstrap over episodes

A seed is one scene, start and goal, the same in every world, so agents and worlds compare episode by episode.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from wm_env.core import State
from wm_env.model.kinematics import KEYS
from wm_env.model.metrics.intervals import Interval, hierarchical_bootstrap, wilson
from wm_env.model.state import select
from wm_env.recording import Policy
from wm_env.vector import SanaWMVectorEnv

FIRST_SEED = 1_000_000  # evaluation seeds start here, far from those of training


class Agent(Protocol):
    """Whoever chooses actions for a batch of slots."""

    def __call__(self, observations: Any, state: State, starts: np.ndarray) -> np.ndarray:
        """Return one action a slot; `starts` `(B,)` bool marks slots at the start of an episode.

        A learned agent looks at `observations` alone; `state` is the privilege of scripted ones.
        """
        ...


class EpisodeResult(NamedTuple):
    """One finished episode.

    distance, start_distance: to the goal at the end and at the start, metres. collisions: steps with one.
    walked: metres. rewards: one a step.
    """

    seed: int
    reward: float
    steps: int
    success: bool
    spl: float
    distance: float
    collisions: int
    start_distance: float
    walked: float
    rewards: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What `summarize` makes of episodes; every interval is 95 %."""

    episodes: int
    success: Interval
    spl: Interval
    reward: Interval
    mean_steps: float
    mean_distance: float
    collisions_per_step: float

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON-able values; intervals as {"mean", "lo", "hi"}."""
        return {
            name: dict(zip(("mean", "lo", "hi"), value, strict=True)) if isinstance(value, tuple) else value
            for name, value in {**asdict(self)}.items()
        }

    def __str__(self) -> str:
        return (
            f"success {100 * self.success.mean:.1f} % [{100 * self.success.low:.1f}, "
            f"{100 * self.success.high:.1f}], SPL {self.spl.mean:.3f}, return {self.reward.mean:.2f} "
            f"[{self.reward.low:.2f}, {self.reward.high:.2f}], {self.mean_steps:.1f} steps, "
            f"{self.episodes} episodes"
        )


def evaluate(
    agent: Agent,
    seeds: Sequence[int],
    *,
    num_envs: int = 16,
    max_episode_steps: int,
    report: Callable[[int, float, str], None] = lambda done, total, what: None,
    **settings: Any,
) -> list[EpisodeResult]:
    """Return one result per seed, in their order; `settings` are those of `SanaWMVectorEnv`.

    Slots that end take the next seed while the others go on. An agent that keeps a memory gets `starts`.
    report: called after every batch step with (steps made by all slots, expected in all, what has ended).
    """
    if not seeds:
        raise ValueError("evaluation needs at least one seed")
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps={max_episode_steps} must be at least 1, or no episode need end")
    envs = SanaWMVectorEnv(
        min(num_envs, len(seeds)),
        max_episode_steps=max_episode_steps,
        autoreset_mode=AutoresetMode.DISABLED,
        **settings,
    )
    waiting = list(range(envs.num_envs, len(seeds)))
    running = list(range(envs.num_envs))  # which seed each slot plays; -1 none
    observed, info = envs.reset(seed=[int(seeds[index]) for index in running])
    starts = np.ones(envs.num_envs, bool)
    place, far = _place(info), info["distance_to_goal"].copy()
    walked, bumps = np.zeros(envs.num_envs), np.zeros(envs.num_envs)
    rewards: list[list[float]] = [[] for _ in running]
    results: dict[int, EpisodeResult] = {}
    made, reached = 0, 0
    while len(results) < len(seeds):
        ages = [len(rewards[slot]) for slot, index in enumerate(running) if index >= 0]
        left = steps_left(reached / max(1, made), ages, len(waiting), max_episode_steps, envs.num_envs)
        report(made, made + envs.num_envs * left, f"{len(results)} of {len(seeds)} episodes")
        observed, reward, terminated, truncated, info = envs.step(agent(observed, envs.state, starts))
        for slot, earned in enumerate(reward.tolist()):
            rewards[slot].append(earned)
        walked += np.linalg.norm(np.diff(info["c2w_frames"][:, :, :3, 3], axis=1), axis=-1).sum(1)
        walked += np.linalg.norm(info["c2w_frames"][:, 0, :3, 3] - place, axis=-1)
        place = _place(info)
        bumps += info.get("collision", 0)
        ended = terminated | truncated
        starts = ended
        reached += int(terminated.sum())
        made += envs.num_envs
        if not ended.any():
            continue
        told: list[int | None] = [None] * envs.num_envs
        for slot in np.flatnonzero(ended).tolist():
            index = running[slot]
            if index >= 0:
                results[index] = EpisodeResult(
                    seed=int(seeds[index]),
                    reward=float(np.sum(rewards[slot])),
                    steps=len(rewards[slot]),
                    success=bool(info["is_success"][slot]),
                    spl=float(info["spl"][slot]),
                    distance=float(info["distance_to_goal"][slot]),
                    collisions=int(bumps[slot]),
                    start_distance=float(far[slot]),
                    walked=float(walked[slot]),
                    rewards=tuple(rewards[slot]),
                )
            running[slot] = waiting.pop(0) if waiting else -1  # a slot out of seeds idles in some scene
            told[slot] = int(seeds[max(running[slot], 0)])
            rewards[slot] = []
        walked, bumps = (np.where(ended, 0.0, total) for total in (walked, bumps))
        if len(results) < len(seeds):
            observed, info = envs.reset(seed=told, options={"reset_mask": ended})
            far = np.where(ended, info["distance_to_goal"], far)
            place = np.where(ended[:, None], _place(info), place)
    report(made, made, f"{len(seeds)} episodes")
    envs.close()
    return [results[index] for index in range(len(seeds))]


def steps_left(rate: float, ages: Sequence[int], waiting: int, limit: int, slots: int) -> float:
    """Return how many batch steps are expected until all episodes have ended.

    rate: episodes that end by themselves a step of a slot, taken as the same at any age. ages: steps made by
    the running episodes. waiting: episodes that have not begun; each takes the slot that is free first.
    limit: steps after which an episode ends at the latest.

    An episode of age a lasts (1 - (1 - rate)^(limit - a)) / rate more steps on average. The last of several
    ends later than the average one: E[max] = sum over t of 1 - prod over episodes of P(length <= t).
    """
    if waiting == 0:
        return _longest(rate, [limit - age for age in ages])
    free = sorted(_mean(rate, limit - age) for age in ages)
    free = [0.0] * (slots - len(free)) + free
    each = _mean(rate, limit)
    for _ in range(waiting):
        heapq.heapreplace(free, free[0] + each)
    return max(free) + _longest(rate, [limit] * slots) - each


def _mean(rate: float, most: int) -> float:
    return float(most) if rate <= 0 else (1 - (1 - rate) ** most) / rate


def _longest(rate: float, most: Sequence[int]) -> float:
    """Return the mean of the longest of several episodes, each at most so many steps long."""
    if not most:
        return 0.0
    steps, ends = np.arange(max(most))[:, None], np.asarray(most)
    over = np.where(steps < ends, (1 - rate) ** steps, 0.0)  # (t, episodes): P(length > t)
    return float((1 - (1 - over).prod(axis=1)).sum())


def _place(info: dict[str, Any]) -> np.ndarray:
    """Return where the cameras are, `(B, 3)` relative to their starts; zero where the info has no entry."""
    return np.asarray(info["c2w"])[:, :3, 3].copy()


def summarize(results: Sequence[EpisodeResult]) -> Score:
    """Return the score of finished episodes."""
    distances = np.array([result.distance for result in results])
    finite = distances[np.isfinite(distances)]
    return Score(
        episodes=len(results),
        success=wilson(sum(result.success for result in results), len(results)),
        spl=hierarchical_bootstrap(np.array([result.spl for result in results])),
        reward=hierarchical_bootstrap(np.array([result.reward for result in results])),
        mean_steps=float(np.mean([result.steps for result in results])),
        mean_distance=float(finite.mean()) if len(finite) else 0.0,
        collisions_per_step=sum(r.collisions for r in results) / max(1, sum(r.steps for r in results)),
    )


class RandomAgent:
    """Uniform actions of a space: the baseline everything has to beat."""

    def __init__(self, space: gym.Space[Any], seed: int) -> None:
        self._space, self._seed = space, seed
        self._batched: gym.Space[Any] | None = None

    def __call__(self, observations: Any, state: State, starts: np.ndarray) -> np.ndarray:
        if self._batched is None:
            self._batched = batch_space(self._space, len(starts))
            self._batched.seed(self._seed)
        return np.asarray(self._batched.sample())


class ScriptedAgent:
    """A scripted walker for every slot; acts in `multikeys`. make: a fresh walker of a seed."""

    def __init__(self, make: Callable[[int], Policy], seed: int) -> None:
        self._make, self._next = make, seed
        self._walkers: dict[int, Policy] = {}

    def __call__(self, observations: Any, state: State, starts: np.ndarray) -> np.ndarray:
        held = np.zeros((len(starts), len(KEYS)), np.int8)
        for slot, fresh in enumerate(starts):
            if fresh:
                self._walkers[slot] = self._make(self._next)
                self._next += 1
            keys = self._walkers[slot](select(state, [slot]))
            held[slot] = [key in keys for key in KEYS]
        return held

"""What runs in a worker process: one batched environment, and calls that arrive as values.

Nothing here knows Ray: a `Worker` is a plain object, and `RayVectorEnv` makes an actor of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from wm_env.core import check_reset_options, observation
from wm_env.distributed.identity import package_sha256
from wm_env.episodes import as_options, reset_options
from wm_env.vector import SanaWMVectorEnv
from wm_env.whole import vector_snapshot_from_bytes

Policy = Callable[[Any, np.random.Generator], np.ndarray]
"""`(observations of a worker's slots, generator) -> actions` of those slots."""


class Fragment(NamedTuple):
    """T steps of one worker's N slots, as learners take them.

    worker: its number. slots: numbers of its slots in the whole environment, `(N,)`. observations: those
    that the actions were chosen for, `(T, N, ...)` or a dict of such. actions, rewards, terminated,
    truncated: `(T, N, ...)`. bootstrap: observations after the last step, `(N, ...)`, for the value of what
    comes. infos: of every step. seconds: how long it took.
    """

    worker: int
    slots: np.ndarray
    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    bootstrap: Any
    infos: list[dict[str, Any]]
    seconds: float


class Worker:
    """One batched environment that is made, asked and restored from afar."""

    def __init__(self, number: int, slots: int) -> None:
        self.number, self.slots = number, slots
        self._envs: SanaWMVectorEnv | None = None
        self._seen: Any = None

    def make(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make the environment of these settings; return what the driver has to know of it."""
        self._envs = envs = SanaWMVectorEnv(self.slots, **settings)
        return {
            "package_sha256": package_sha256(),
            "weights_sha256": envs.world.spec.weights_sha256,
            "single_action_space": envs.single_action_space,
            "single_observation_space": envs.single_observation_space,
            "metadata": envs.metadata,
            "actions": envs.rules.actions,
            "max_episode_steps": envs.max_episode_steps,
            "frames_per_step": envs.frames_per_step,
        }

    @property
    def envs(self) -> SanaWMVectorEnv:
        """The environment; `make` comes first."""
        if self._envs is None:
            raise RuntimeError(f"worker {self.number} was asked before it was made")
        return self._envs

    def pid(self) -> int:
        """Return the process that this runs in."""
        return os.getpid()

    def check_reset(self, options: Mapping[str, Any]) -> None:
        """Raise what a reset with these options would raise before it changes anything."""
        envs = self.envs
        asked = reset_options(envs._defaults, dict(as_options(options)), envs.world.spec)
        check_reset_options(envs.rules, asked)

    def reset(self, seeds: list[int | None] | None, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Reset as the environment does; a mask that selects none of these slots resets none."""
        mask = options.get("reset_mask")
        if mask is not None and not mask.any():
            return observation(self.envs.rules, self.envs.state), {}
        self._seen, info = self.envs.reset(seed=seeds, options=dict(options))
        return self._seen, info

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Move all slots for one chunk."""
        answer = self.envs.step(actions)
        self._seen = answer[0]
        return answer

    def steps(self, actions: np.ndarray) -> None:
        """Move all slots through `(T, N, ...)` actions that were taken before, for a worker that goes on."""
        for row in actions:
            self.step(row)

    def collect(self, count: int, policy: Policy, seed: int) -> Fragment:
        """Return `count` steps of this worker under a policy; its generator is seeded anew."""
        started, rng = time.perf_counter(), np.random.default_rng(seed)
        seen = observation(self.envs.rules, self.envs.state)
        rows: list[tuple[Any, ...]] = []
        infos = []
        for _ in range(count):
            actions = np.asarray(policy(seen, rng))
            after, rewards, terminated, truncated, info = self.step(actions)
            rows.append((seen, actions, rewards, terminated, truncated))
            infos.append(info)
            seen = after
        observations, actions_, rewards_, terminated_, truncated_ = zip(*rows, strict=True)
        return Fragment(
            worker=self.number,
            slots=np.arange(self.slots) + self.number * self.slots,
            observations=_stacked(observations),
            actions=np.stack(actions_),
            rewards=np.stack(rewards_),
            terminated=np.stack(terminated_),
            truncated=np.stack(truncated_),
            bootstrap=seen,
            infos=infos,
            seconds=time.perf_counter() - started,
        )

    def snapshot(self) -> tuple[bytes, float]:
        """Return the moment of all slots as bytes, and the seconds that took."""
        started = time.perf_counter()
        data = self.envs.snapshot_all().to_bytes()
        return data, time.perf_counter() - started

    def restore(self, data: bytes) -> None:
        """Go on from such bytes."""
        self.envs.restore_all(vector_snapshot_from_bytes(data))

    def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Return what a method of the environment returns: `call`, `render`, `set_prompt`, `observe`."""
        return getattr(self.envs, name)(*arguments, **named)


def _stacked(parts: tuple[Any, ...]) -> Any:
    """Return observations of T steps with the steps first."""
    if isinstance(parts[0], Mapping):
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    return np.stack(parts)

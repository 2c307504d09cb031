"""What a task is: goal, reward and termination from poses and geometry, batch first.

A task is a set of functions over a value, its state: any tree of tensors with the batch axis first
(`wm_env.model.state`; docs/environment.md has a task of 20 lines). It looks at a `TaskContext` (poses,
intrinsics and, where there is one, the true scene) and never at the world's frames, so the same task object
gives the same rewards on a learned world and on the twin. Nothing of it is ever shown to the world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wm_env.model.contact import Surfaces
from wm_env.model.kinematics import KeyMotion

RENAMED = {"Situation": "TaskContext", "Verdict": "TaskOutcome"}  # names of 0.1


class TaskContext(NamedTuple):
    """What a task may look at; every tensor has the batch axis first.

    scene: the true scenes (a placeholder where `has_scene` `(B,)` is False). start_c2w: `(B, 4, 4)` float64,
    absolute start poses. c2w: `(B, K, 4, 4)` float64, the chunk's poses relative to the start. intrinsics:
    `(B, 4)` float64 in pixels of `frame_size` `(height, width)`. collided: `(B,)` bool. motion: the speeds of
    the world's key walker. surfaces: the depth pictures that the world knows, relative to the start; given
    to `begin` alone, where a slot has no scene and the world gives depth.
    """

    scene: Any
    has_scene: Tensor
    start_c2w: Tensor
    c2w: Tensor
    intrinsics: Tensor
    frame_size: tuple[int, int]
    collided: Tensor
    motion: KeyMotion
    surfaces: Surfaces | None = None

    def absolute(self) -> Tensor:
        """Return the chunk's poses `(B, K, 4, 4)` in the axes of the scene."""
        return self.start_c2w[:, None] @ self.c2w


class TaskOutcome(NamedTuple):
    """What a task says about one step: reward `(B,)` float64, terminated `(B,)` bool."""

    reward: Tensor
    terminated: Tensor


@runtime_checkable
class Task(Protocol):
    """A goal and its reward; see the module docstring.

    Where true frames move the camera (`SanaWMEnv.observe`), a task that has `moved(state, context) -> state`
    gives the state as it is from the new pose on: no step, no reward, no way walked. A task without it is
    stepped and its outcome dropped.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_scene(self) -> bool:
        """Whether the task cannot be played from a user's image alone."""
        ...

    def spaces(self, frame_size: tuple[int, int]) -> dict[str, gym.Space[Any]]:
        """Return what the task adds to the observation; empty keeps the observation a plain array."""
        ...

    def begin(self, context: TaskContext, seeds: Sequence[int]) -> Any:
        """Return the task state (tensors, batch first) at the start pose; goals are drawn from `seeds`."""
        ...

    def step(self, state: Any, context: TaskContext) -> tuple[Any, TaskOutcome]:
        """Return the state and the outcome after the poses of `context`."""
        ...

    def observe(self, state: Any, context: TaskContext) -> dict[str, np.ndarray]:
        """Return the values of `spaces`, batched."""
        ...

    def facts(self, state: Any) -> dict[str, Tensor]:
        """Return `(B,)` numbers for `info`: distance_to_goal (m), is_success, spl, and the task's own."""
        ...


def no_goal_facts(batch: int) -> dict[str, Tensor]:
    """Return the facts of a task without a goal."""
    return {
        "distance_to_goal": torch.full((batch,), math.inf, dtype=torch.float64),
        "is_success": torch.zeros(batch, dtype=torch.bool),
        "spl": torch.zeros(batch, dtype=torch.float64),
    }


def __getattr__(name: str) -> Any:
    if name in RENAMED:
        raise ImportError(f"{name} of wm_env.tasks is now {RENAMED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

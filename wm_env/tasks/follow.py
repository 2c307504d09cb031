"""Follow: keep to a reference path, pose by pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import rotation_angle_deg
from wm_env.model.kinematics import KEYS, start_motion, step_keys
from wm_env.model.scenes.free_space import slide
from wm_env.tasks.protocol import TaskContext, TaskOutcome

_PLANS = (("w", 0.45), ("wa", 0.15), ("wd", 0.15), ("a", 0.1), ("d", 0.1), ("", 0.05))


class FollowState(NamedTuple):
    """path: `(B, N+1, 4, 4)` float64, reference poses after each step, relative to the start. step: `(B,)`
    int64. position_error, angle_error: `(B,)` float64, sums so far in metres and degrees. left: `(B,)` metres
    to the end of the path. success: `(B,)` bool."""

    path: Tensor
    step: Tensor
    position_error: Tensor
    angle_error: Tensor
    left: Tensor
    success: Tensor


@dataclass(frozen=True, kw_only=True)
class Follow:
    """Keep to a reference path that the key walker can walk exactly.

        reward = -(position error in m + angle error / 30 deg), to the reference pose of this step

    At most 0. The path is a random walk of `steps` steps with the world's own speeds, sliding along walls
    where there is a scene; its end ends the episode. Success: mean errors over the path within 0.3 m and 20
    degrees; `spl` is 1 or 0. Observation entry `"goal"`: float32 (9,), the next reference pose seen from the
    camera: translation in m, then its forward and right axes. distance_to_goal: metres to the path's end.
    """

    steps: int = 64
    mean_position: float = 0.3
    mean_angle_deg: float = 20.0

    name = "follow"
    needs_scene = False

    def spaces(self, frame_size: tuple[int, int]) -> dict[str, gym.Space[Any]]:
        high = np.array([64.0] * 3 + [1.0] * 6, np.float32)
        return {"goal": gym.spaces.Box(-high, high, dtype=np.float32)}

    def begin(self, context: TaskContext, seeds: Sequence[int]) -> FollowState:
        path = reference_path(context, seeds, self.steps)
        zero = torch.zeros(len(seeds), dtype=torch.float64)
        return FollowState(
            path=path,
            step=torch.zeros(len(seeds), dtype=torch.int64),
            position_error=zero,
            angle_error=zero,
            left=(path[:, -1, :3, 3] - path[:, 0, :3, 3]).norm(dim=-1),
            success=torch.zeros(len(seeds), dtype=torch.bool),
        )

    def step(self, state: FollowState, context: TaskContext) -> tuple[FollowState, TaskOutcome]:
        pose = context.c2w[:, -1]
        step = state.step + 1
        wanted = self._reference(state.path, step)
        position = (pose[:, :3, 3] - wanted[:, :3, 3]).norm(dim=-1)
        angle = rotation_angle_deg(pose[:, :3, :3], wanted[:, :3, :3])
        ended = step >= self.steps
        position_sum, angle_sum = state.position_error + position, state.angle_error + angle
        good = (position_sum <= self.mean_position * step) & (angle_sum <= self.mean_angle_deg * step)
        after = FollowState(
            path=state.path,
            step=step,
            position_error=position_sum,
            angle_error=angle_sum,
            left=(state.path[:, -1, :3, 3] - pose[:, :3, 3]).norm(dim=-1),
            success=ended & good,
        )
        return after, TaskOutcome(-(position + angle / 30.0), ended)

    def moved(self, state: FollowState, context: TaskContext) -> FollowState:
        """Return the state at another pose: the path and its step stay."""
        return state._replace(left=(state.path[:, -1, :3, 3] - context.c2w[:, -1, :3, 3]).norm(dim=-1))

    def observe(self, state: FollowState, context: TaskContext) -> dict[str, np.ndarray]:
        pose = context.c2w[:, -1]
        wanted = self._reference(state.path, state.step + 1)
        turn = pose[:, :3, :3].mT @ wanted[:, :3, :3]  # (B, 3, 3)
        shift = (pose[:, :3, :3].mT @ (wanted - pose)[:, :3, 3:])[..., 0].clamp(-64, 64)
        seen = torch.cat([shift, turn[:, :, 2].clamp(-1, 1), turn[:, :, 0].clamp(-1, 1)], -1)
        return {"goal": seen.numpy().astype(np.float32)}

    def facts(self, state: FollowState) -> dict[str, Tensor]:
        return {
            "distance_to_goal": state.left,
            "is_success": state.success,
            "spl": state.success.double(),
        }

    def _reference(self, path: Tensor, step: Tensor) -> Tensor:
        return path[torch.arange(len(path)), step.clamp(max=self.steps)]


def reference_path(context: TaskContext, seeds: Sequence[int], steps: int) -> Tensor:
    """Return random walks `(B, steps + 1, 4, 4)` float64 relative to the start, the start first."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    plans = [_plan(generator, steps) for generator in generators]
    rotation, origin = context.start_c2w[:, :3, :3], context.start_c2w[:, :3, 3]

    def bend(start: Tensor, end: Tensor) -> Tensor:
        there = (rotation @ end[..., None])[..., 0] + origin
        here = (rotation @ start[..., None])[..., 0] + origin
        position, hit = slide(context.scene, here, there)
        back = (rotation.mT @ (position - origin)[..., None])[..., 0]
        return torch.where((hit & context.has_scene)[:, None], back, end)

    motion = start_motion(len(seeds))
    poses = [motion.c2w]
    for step in range(steps):
        held = torch.tensor([[key in plan[step] for key in KEYS] for plan in plans])
        path, motion = step_keys(motion, held, context.c2w.shape[1], context.motion, bend)
        poses.append(path[:, -1])
    return torch.stack(poses, 1)


def _plan(generator: np.random.Generator, steps: int) -> list[str]:
    """Return what to hold on each step: random keys for 3 to 6 steps each."""
    names, weights = zip(*_PLANS, strict=True)
    plan: list[str] = []
    while len(plan) < steps:
        plan += [str(generator.choice(names, p=weights))] * int(generator.integers(3, 7))
    return plan[:steps]

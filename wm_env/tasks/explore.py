"""Explore: see as much floor as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wm_env.model.intrinsics import fov_deg
from wm_env.model.scenes.free_space import HALF_EXTENT, visible_cells
from wm_env.tasks.protocol import TaskContext, TaskOutcome, no_goal_facts


class ExploreState(NamedTuple):
    """seen: `(B, N, N)` bool, cells; amount: `(B,)` float64, m2 seen or cells visited beyond the start."""

    seen: Tensor
    amount: Tensor


class Explore:
    """See as much floor as possible.

        with a scene      reward = newly seen floor area in m2 (cells of 0.25 m, by line of sight)
        without a scene   reward = number of newly visited 0.5 m cells, within 16 m of the start

    Range: 0 to about 60 per step; what the start view shows is not rewarded. Never terminates and never
    succeeds: `distance_to_goal` is inf. `info["explored"]` is the sum of the rewards.
    """

    name = "explore"
    needs_scene = False

    seen_cell, visited_cell = 0.25, 0.5  # metres
    cells = round(2 * HALF_EXTENT / seen_cell)  # N

    def spaces(self, frame_size: tuple[int, int]) -> dict[str, gym.Space[Any]]:
        return {}

    def begin(self, context: TaskContext, seeds: Sequence[int]) -> ExploreState:
        batch = context.c2w.shape[0]
        return ExploreState(self._view(context), torch.zeros(batch, dtype=torch.float64))

    def step(self, state: ExploreState, context: TaskContext) -> tuple[ExploreState, TaskOutcome]:
        seen = state.seen | self._view(context)
        new_cells = (seen & ~state.seen).sum((1, 2)).double()
        reward = new_cells * torch.where(context.has_scene, self.seen_cell**2, 1.0).double()
        after = ExploreState(seen, state.amount + reward)
        return after, TaskOutcome(reward, torch.zeros_like(context.has_scene))

    def moved(self, state: ExploreState, context: TaskContext) -> ExploreState:
        """Return the state at another pose: what is seen from it is not rewarded."""
        return state._replace(seen=state.seen | self._view(context))

    def observe(self, state: ExploreState, context: TaskContext) -> dict[str, np.ndarray]:
        return {}

    def facts(self, state: ExploreState) -> dict[str, Tensor]:
        batch = state.amount.shape[0]
        return no_goal_facts(batch) | {"explored": state.amount}

    def _view(self, context: TaskContext) -> Tensor:
        """Return the cells `(B, N, N)` bool that the newest pose sees; stands on, where there is no scene."""
        position = context.c2w[:, -1, (0, 2), 3]  # (B, 2), relative to the start
        index = torch.floor(position / self.visited_cell).long() + self.cells // 2
        inside = ((index >= 0) & (index < self.cells)).all(-1)
        flat = torch.where(inside, index[:, 0] * self.cells + index[:, 1], self.cells**2)
        grid = torch.zeros(len(flat), self.cells**2 + 1, dtype=torch.bool)  # the last cell is outside
        grid = grid.scatter(1, flat[:, None], True)
        visited = grid[:, :-1].unflatten(1, (self.cells, self.cells))
        if not bool(context.has_scene.any()):
            return visited
        fov, _ = fov_deg(context.intrinsics, context.frame_size[1], context.frame_size[0])
        seen = visible_cells(context.scene, context.absolute()[:, -1], fov, self.seen_cell)
        return torch.where(context.has_scene[:, None, None], seen, visited)

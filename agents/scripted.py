"""Scripted walkers: baselines for every task, and the hands of the recorder.

A policy looks at the core state of an environment (its first slot) and names the keys to hold for one step.
Where there is a true scene it is used to look ahead; this is the walker's own privilege, nothing of it
reaches a learned world. Without a scene the walkers go by chance alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wm_env.core import State
from wm_env.model.names import unknown
from wm_env.model.scenes.raycast import cast
from wm_env.recording import Policy
from wm_env.tasks.navigation import ImageNavState
from wm_env.tasks.route import CELL, CELLS, Route, straight_distance

POLICIES = ("wander", "forward", "orbit", "goal")


def make_policy(name: str, seed: int) -> Policy:
    """Return a fresh policy by name; `seed` fixes its chances."""
    if name == "wander":
        return Wander(np.random.default_rng(seed))
    if name == "forward":
        return forward
    if name == "orbit":
        return orbit
    if name == "goal":
        return go_to_goal
    raise ValueError(unknown("policy", name, POLICIES))


def forward(state: State) -> str:
    """Hold forward."""
    return "w"


def orbit(state: State) -> str:
    """Strafe right while turning left: a circle around a point ahead."""
    return "la"


def go_to_goal(state: State) -> str:
    """Walk the shortest way to the goal of a navigation task, then look where the task wants one to look.

    The expert: it reads the task's own distances. It walks towards a place half a metre further down the
    distance field, and turns on the spot where that place is more than 12 degrees to the side.
    """
    route = state.task if isinstance(state.task, Route) else state.task.route
    pose = state.start_c2w[0] @ state.c2w[0, -1]
    heading = math.atan2(pose[0, 2], pose[2, 2])
    here = pose[[0, 2], 3]
    bumped = bool(state.collided[0])
    there = _downhill(route, here, steps=2 if bumped else 5)
    arrived = float(straight_distance(route)[0]) < 0.2
    if arrived and isinstance(state.task, ImageNavState):
        view = state.task.rotation[0]
        wanted = math.atan2(view[0, 2], view[2, 2])
    else:
        wanted = math.atan2(there[0] - here[0], there[1] - here[1])
    turn = math.degrees((wanted - heading + math.pi) % (2 * math.pi) - math.pi)
    if bumped and not arrived:  # step sideways or back around the corner, as the way ahead demands
        side, ahead = math.sin(math.radians(turn)), math.cos(math.radians(turn))
        return ("w" if ahead > 0.35 else "s" if ahead < -0.35 else "") + (
            "l" if side > 0.12 else "j" if side < -0.12 else ""
        )
    if abs(turn) > 12.0:
        return "d" if turn > 0 else "a"
    return "" if arrived else "w"


def _downhill(route: Route, here: Tensor, steps: int) -> Tensor:
    """Return the place (x, z) `steps` cells down the distance field from `here`, the goal when near."""
    metres, goal = route.metres[0], route.goal[0, [0, 2]]
    if not bool(torch.isfinite(metres).any()):
        return goal
    cell = ((here - route.origin[0]) / CELL).round().long().clamp(1, CELLS - 2)
    for _ in range(steps):
        patch = metres[cell[0] - 1 : cell[0] + 2, cell[1] - 1 : cell[1] + 2]
        best = int(patch.argmin())
        step = torch.tensor([best // 3 - 1, best % 3 - 1])
        if not bool(step.any()):
            return goal
        cell = (cell + step).clamp(1, CELLS - 2)
    return route.origin[0] + cell * CELL


class Wander:
    """Walk where there is room, curve gently, turn before walls, and look around now and then.

    near, clear: metres of free way ahead below which a turn begins and above which it ends.
    """

    near, clear = 1.2, 2.2
    after_bump = 5  # steps turned after touching something
    feelers_deg = (-50.0, -25.0, 0.0, 25.0, 50.0)

    def __init__(self, generator: np.random.Generator) -> None:
        self._random = generator
        self._turn = ""  # "a" or "d" while turning away, for at least `_least` steps
        self._turned, self._least = 0, 1
        self._plan: list[str] = []

    def __call__(self, state: State) -> str:
        left, ahead, right = self._room(state)
        if self._turn and self._turned >= self._least and (ahead > self.clear or self._turned > 14):
            self._turn = ""
        bumped = bool(state.collided[0])  # low furniture stops the feet, not the feelers at eye height
        if not self._turn and (ahead < self.near or bumped):
            self._turn, self._turned, self._plan = ("a" if left > right else "d"), 0, []
            self._least = self.after_bump if bumped else 1
        if self._turn:
            self._turned += 1
            return self._turn
        if not self._plan:
            self._plan = self._next_plan(left, right)
        return self._plan.pop(0)

    def _next_plan(self, left: float, right: float) -> list[str]:
        """Return a few steps: mostly straight on, else a curve to the open side or a look around."""
        chance = self._random.random()
        length = int(self._random.integers(3, 7))
        if chance < 0.55:
            return ["w"] * length
        side = "a" if left > right else "d"
        if chance < 0.9:
            return ["w" + side] * (length - 1)
        other = "d" if side == "a" else "a"
        return [side] * 3 + [other] * 3

    def _room(self, state: State) -> tuple[float, float, float]:
        """Return the free way in metres to the left, ahead and to the right."""
        if not bool(state.has_scene[0]):
            return tuple(self._random.uniform(self.near, 4.0, 3).tolist())  # type: ignore[return-value]
        pose = (state.start_c2w[0] @ state.c2w[0, -1]).float()
        heading = torch.atan2(pose[0, 2], pose[2, 2])
        angle = heading + torch.deg2rad(torch.tensor(self.feelers_deg))
        direction = torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], -1)[None]  # (1, 5, 3)
        scene = type(state.scene)(*(part[:1] for part in state.scene))
        reach = cast(scene, pose[None, None, :3, 3].expand_as(direction), direction)[0]
        return float(reach[:2].mean()), float(reach[1:4].min()), float(reach[3:].mean())

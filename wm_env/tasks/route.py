"""Distances to a goal on foot, batch first: geodesic in a scene, straight without one.

A `Route` is a value: where the goal is, the walking distances to it over a grid, and how far the camera has
come. Distances are in the floor plane; heights do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.open_ground import BEGIN, open_ground
from wm_env.model.scenes.free_space import DistanceField, distance_field, is_free
from wm_env.model.scenes.paths import EYE_HEIGHT
from wm_env.model.state import select
from wm_env.tasks.protocol import TaskContext

CELL = 0.1  # metres
CELLS = 161  # a scene lies within +-8 m


class Route(NamedTuple):
    """The way to the goals; batch axis first.

    goal: `(B, 3)` float64, in the scene's axes. metres: `(B, CELLS, CELLS)` float32, walking distance to the
    goal from each cell, inf where there is no way or no scene. origin: `(B, 2)` float64, (x, z) of cell 0, 0.
    shortest: `(B,)` float64, distance at the start. distance: `(B,)` now. walked: `(B,)` metres so far.
    position: `(B, 3)` now. success: `(B,)` bool.
    """

    goal: Tensor
    metres: Tensor
    origin: Tensor
    shortest: Tensor
    distance: Tensor
    walked: Tensor
    position: Tensor
    success: Tensor


def begin_route(context: TaskContext, goals: Sequence[Tensor]) -> Route:
    """Return the routes from the start poses to `goals`, one `(3,)` per slot."""
    batch = len(goals)
    metres = torch.full((batch, CELLS, CELLS), math.inf)
    origin = torch.zeros(batch, 2, dtype=torch.float64)
    for slot, goal in enumerate(goals):
        if bool(context.has_scene[slot]):
            field = distance_field(select(context.scene, [slot]), goal, cell=CELL)
            rows, columns = field.metres.shape
            metres[slot, :rows, :columns] = torch.from_numpy(field.metres)
            origin[slot] = torch.tensor(field.origin)
    position = context.absolute()[:, -1, :3, 3]
    zero = torch.zeros(batch, dtype=torch.float64)
    route = Route(
        goal=torch.stack([goal.double() for goal in goals]),
        metres=metres,
        origin=origin,
        shortest=zero,
        distance=zero,
        walked=zero,
        position=position,
        success=torch.zeros(batch, dtype=torch.bool),
    )
    distance = walking_distance(route, position)
    return route._replace(shortest=distance, distance=distance)


def put_elsewhere(route: Route, context: TaskContext) -> Route:
    """Return the route from the newest pose; the way there was not walked."""
    position = context.absolute()[:, -1, :3, 3]
    return route._replace(position=position, distance=walking_distance(route, position))


def walk(route: Route, context: TaskContext) -> Route:
    """Return the route after the chunk's poses; `success` is left to the task."""
    path = context.absolute()[:, :, :3, 3]  # (B, K, 3)
    legs = torch.diff(torch.cat([route.position[:, None], path], 1), dim=1).norm(dim=-1)
    position = path[:, -1]
    return route._replace(
        walked=route.walked + legs.sum(1),
        position=position,
        distance=walking_distance(route, position),
    )


def straight_distance(route: Route) -> Tensor:
    """Return the straight distance `(B,)` to the goal in the floor plane."""
    return (route.goal - route.position)[:, [0, 2]].norm(dim=-1)


def walking_distance(route: Route, position: Tensor) -> Tensor:
    """Return the walking distance `(B,)` of `position` `(B, 3)`; straight where no way is known.

    The best of the four cells around: metres there plus the leg to its centre.
    """
    xz = position[:, [0, 2]]
    straight = (route.goal[:, [0, 2]] - xz).norm(dim=-1)
    base = torch.floor((xz - route.origin) / CELL).long()  # (B, 2)
    slots = torch.arange(len(xz))
    best = torch.full_like(straight, math.inf)
    for dx in (0, 1):
        for dz in (0, 1):
            index = base + torch.tensor([dx, dz])
            inside = ((index >= 0) & (index < CELLS)).all(-1)
            index = index.clamp(0, CELLS - 1)
            leg = (route.origin + index * CELL - xz).norm(dim=-1)
            through = route.metres[slots, index[:, 0], index[:, 1]].double() + leg
            best = torch.minimum(best, torch.where(inside, through, math.inf))
    return torch.where(torch.isfinite(best) & (straight >= CELL), best, straight)


def route_facts(route: Route) -> dict[str, Tensor]:
    """Return distance_to_goal, is_success and spl = success * shortest / max(shortest, walked)."""
    longest = torch.maximum(route.shortest, route.walked).clamp_min(1e-9)
    return {
        "distance_to_goal": route.distance,
        "is_success": route.success,
        "spl": torch.where(route.success, route.shortest / longest, 0.0),
    }


def draw_goal(
    context: TaskContext, slot: int, generator: np.random.Generator, near: float, far: float
) -> Tensor:
    """Return a goal `(3,)` float64 on foot between `near` and `far` metres from the start of `slot`.

    In a scene it is a free place that can be reached; where none is that far away, the farthest of many.
    Without one it is a place that the world's own depth shows to be free and reachable, or the farthest of
    these; where the world gives no depth, or stands before a wall, anywhere around.
    """
    start = context.absolute()[slot, -1]
    if not bool(context.has_scene[slot]):
        known = _open_places(context, slot, far)
        distance = known.norm(dim=-1)
        if len(known) and float(distance.max()) > BEGIN:
            wanted = ((distance >= near) & (distance <= far)).nonzero()[:, 0]
            chosen = wanted[int(generator.integers(len(wanted)))] if len(wanted) else distance.argmax()
            return start[:3, :3] @ known[chosen] + start[:3, 3]
        radius, angle = generator.uniform(near, far), generator.uniform(-math.pi, math.pi)
        offset = torch.tensor([radius * math.sin(angle), 0.0, radius * math.cos(angle)], dtype=torch.float64)
        return start[:3, 3] + offset
    scene = select(context.scene, [slot])
    field = distance_field(scene, start[:3, 3], cell=CELL)
    places = _reachable(field, scene, generator)  # (n, 3)
    distance = field.at(places)
    wanted = ((distance >= near) & (distance <= far)).nonzero()[:, 0]
    if len(wanted) == 0:
        return places[int(torch.where(torch.isfinite(distance), distance, -1.0).argmax())]
    return places[int(wanted[int(generator.integers(len(wanted)))])]


def _open_places(context: TaskContext, slot: int, far: float) -> Tensor:
    """Return the places `(n, 3)` relative to the newest pose that a world's own depth shows to be open."""
    if context.surfaces is None:
        return torch.zeros(0, 3, dtype=torch.float64)
    return open_ground(select(context.surfaces, [slot]), context.intrinsics[slot : slot + 1], far)


def _reachable(field: DistanceField, scene: Any, generator: np.random.Generator) -> Tensor:
    """Return 64 random free places `(n, 3)` at eye height that a way leads to."""
    cells = np.argwhere(np.isfinite(field.metres))
    chosen = cells[generator.integers(len(cells), size=64)]
    xz = np.asarray(field.origin) + chosen * field.cell
    points = torch.from_numpy(np.stack([xz[:, 0], np.full(len(xz), -EYE_HEIGHT), xz[:, 1]], -1))
    return points[is_free(scene, points[None])[0].cpu()]

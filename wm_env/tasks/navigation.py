"""Getting somewhere: to a point, to the beacon, to where a picture was taken.

All three share one reward (metres, `wm_env.tasks.route`):

    reward = -(change of distance to the goal) + 10 on success - 0.01 per step

about -0.3 to 0.3 per step before the end. Success ends the episode.
`spl` = success * shortest / max(shortest, walked).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import rotation_angle_deg
from wm_env.model.scenes.free_space import line_of_sight
from wm_env.model.scenes.layouts import HEAD_RADIUS
from wm_env.model.scenes.materials import BEACON_COLORS
from wm_env.model.scenes.raycast import cast, render
from wm_env.model.state import select
from wm_env.tasks.protocol import TaskContext, TaskOutcome
from wm_env.tasks.route import (
    Route,
    begin_route,
    draw_goal,
    put_elsewhere,
    route_facts,
    straight_distance,
    walk,
)

SUCCESS_REWARD, STEP_COST = 10.0, 0.01
FARTHEST = 64.0  # metres, bound of the range in the observation


def arrive(before: Route, after: Route, success: Tensor) -> tuple[Route, TaskOutcome]:
    """Return the route with `success` `(B,)` and the shared reward."""
    reward = before.distance - after.distance + SUCCESS_REWARD * success.double() - STEP_COST
    return after._replace(success=success), TaskOutcome(reward, success)


@dataclass(frozen=True, kw_only=True)
class PointNav:
    """Reach a point: its range and bearing are observed.

    Observation entry `"goal"`: float32 (range in m, bearing in rad; positive is to the right), straight.
    Success within `radius` metres. With a scene the goal can be reached on foot; near, far: metres from the
    start.
    """

    radius: float = 0.3
    near: float = 1.5
    far: float = 6.0

    name = "pointnav"
    needs_scene = False

    def spaces(self, frame_size: tuple[int, int]) -> dict[str, gym.Space[Any]]:
        low, high = np.array([0, -math.pi], np.float32), np.array([FARTHEST, math.pi], np.float32)
        return {"goal": gym.spaces.Box(low, high, dtype=np.float32)}

    def begin(self, context: TaskContext, seeds: Sequence[int]) -> Route:
        generators = [np.random.default_rng(seed) for seed in seeds]
        goals = [
            draw_goal(context, slot, generator, self.near, self.far)
            for slot, generator in enumerate(generators)
        ]
        return begin_route(context, goals)

    def step(self, state: Route, context: TaskContext) -> tuple[Route, TaskOutcome]:
        after = walk(state, context)
        return arrive(state, after, straight_distance(after) <= self.radius)

    def moved(self, state: Route, context: TaskContext) -> Route:
        """Return the state at another pose, the way there not walked."""
        return put_elsewhere(state, context)

    def observe(self, state: Route, context: TaskContext) -> dict[str, np.ndarray]:
        pose = context.absolute()[:, -1]  # (B, 4, 4)
        offset = state.goal - pose[:, :3, 3]
        heading = torch.atan2(pose[:, 0, 2], pose[:, 2, 2])
        bearing = torch.atan2(offset[:, 0], offset[:, 2]) - heading
        bearing = torch.atan2(bearing.sin(), bearing.cos())
        reach = offset[:, [0, 2]].norm(dim=-1).clamp(max=FARTHEST)
        bound = float(np.float32(math.pi))
        return {"goal": torch.stack([reach, bearing.clamp(-bound, bound)], -1).numpy().astype(np.float32)}

    def facts(self, state: Route) -> dict[str, Tensor]:
        return route_facts(state)


@dataclass(frozen=True, kw_only=True)
class ObjectNav:
    """Reach the coloured beacon and have it in view.

    Observation entry `"goal"`: float32 one-hot of the beacon's colour at the start. Success within `radius`
    metres with the centre of the beacon's head inside the picture and not occluded (by geometry). Needs a
    scene.
    """

    radius: float = 1.0

    name = "objectnav"
    needs_scene = True

    def spaces(self, frame_size: tuple[int, int]) -> dict[str, gym.Space[Any]]:
        return {"goal": gym.spaces.Box(0.0, 1.0, (len(BEACON_COLORS),), np.float32)}

    def begin(self, context: TaskContext, seeds: Sequence[int]) -> ObjectNavState:
        route = begin_route(context, list(context.scene.beacon.double()))
        return ObjectNavState(route, context.scene.beacon_color)

    def step(self, state: ObjectNavState, context: TaskContext) -> tuple[ObjectNavState, TaskOutcome]:
        after = walk(state.route, context)
        close = straight_distance(after) <= self.radius
        route, outcome = arrive(state.route, after, close & beacon_in_view(context))
        return state._replace(route=route), outcome

    def moved(self, state: ObjectNavState, context: TaskContext) -> ObjectNavState:
        """Return the state at another pose, the way there not walked."""
        return state._replace(route=put_elsewhere(state.route, context))

    def observe(self, state: ObjectNavState, context: TaskContext) -> dict[str, np.ndarray]:
        return {"goal": np.eye(len(BEACON_COLORS), dtype=np.float32)[state.color.numpy()]}

    def facts(self, state: ObjectNavState) -> dict[str, Tensor]:
        return route_facts(state.route)


class ObjectNavState(NamedTuple):
    """route: to the beacon. color: `(B,)` int64, index into `BEACON_COLORS`."""

    route: Route
    color: Tensor


def beacon_in_view(context: TaskContext) -> Tensor:
    """Return whether the newest picture shows the centre of the beacon's head, `(B,)` bool."""
    pose = context.absolute()[:, -1]
    centre = context.scene.beacon.double()
    eye = pose[:, :3, 3]
    local = (pose[:, :3, :3].mT @ (centre - eye)[..., None])[..., 0]  # (B, 3) in camera axes
    fx, fy, cx, cy = context.intrinsics.unbind(-1)
    depth = local[:, 2].clamp_min(1e-6)
    u, v = fx * local[:, 0] / depth + cx, fy * local[:, 1] / depth + cy
    height, width = context.frame_size
    inside = (local[:, 2] > 0) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
    return inside & line_of_sight(context.scene, eye, centre, tolerance=HEAD_RADIUS + 0.02)


@dataclass(frozen=True, kw_only=True)
class ImageNav:
    """Reach the pose from which the goal picture was taken.

    Observation entry `"goal"`: uint8 picture of the world's frame size, rendered from the true scene. Success
    within `radius` metres and `angle_deg` degrees of the pose. Needs a scene.
    """

    radius: float = 0.3
    angle_deg: float = 20.0
    near: float = 1.0
    far: float = 5.0

    name = "imagenav"
    needs_scene = True

    def spaces(self, frame_size: tuple[int, int]) -> dict[str, gym.Space[Any]]:
        return {"goal": gym.spaces.Box(0, 255, (*frame_size, 3), np.uint8)}

    def begin(self, context: TaskContext, seeds: Sequence[int]) -> ImageNavState:
        generators = [np.random.default_rng(seed) for seed in seeds]
        goals = [
            draw_goal(context, slot, generator, self.near, self.far)
            for slot, generator in enumerate(generators)
        ]
        rotation = torch.stack(
            [
                _open_view(select(context.scene, [slot]), goals[slot], generator)
                for slot, generator in enumerate(generators)
            ]
        )
        pose = torch.eye(4, dtype=torch.float64).repeat(len(goals), 1, 1)
        pose[:, :3, :3], pose[:, :3, 3] = rotation, torch.stack(goals)
        pictures, _ = render(context.scene, pose[:, None], context.intrinsics, *context.frame_size)
        return ImageNavState(begin_route(context, goals), rotation, pictures[:, 0].cpu())

    def step(self, state: ImageNavState, context: TaskContext) -> tuple[ImageNavState, TaskOutcome]:
        after = walk(state.route, context)
        angle = rotation_angle_deg(context.absolute()[:, -1, :3, :3], state.rotation)
        close = (after.goal - after.position).norm(dim=-1) <= self.radius
        route, outcome = arrive(state.route, after, close & (angle <= self.angle_deg))
        return state._replace(route=route), outcome

    def moved(self, state: ImageNavState, context: TaskContext) -> ImageNavState:
        """Return the state at another pose, the way there not walked."""
        return state._replace(route=put_elsewhere(state.route, context))

    def observe(self, state: ImageNavState, context: TaskContext) -> dict[str, np.ndarray]:
        return {"goal": state.picture.numpy().copy()}

    def facts(self, state: ImageNavState) -> dict[str, Tensor]:
        return route_facts(state.route)


class ImageNavState(NamedTuple):
    """route: to the place. rotation: `(B, 3, 3)` float64, its view. picture: uint8 `(B, h, w, 3)`."""

    route: Route
    rotation: Tensor
    picture: Tensor


def _open_view(scene: Any, place: Tensor, generator: np.random.Generator) -> Tensor:
    """Return the level rotation `(3, 3)` of the most open of eight random headings at `place` `(3,)`."""
    yaw = torch.from_numpy(generator.uniform(-math.pi, math.pi, 8))
    direction = torch.stack([yaw.sin(), torch.zeros_like(yaw), yaw.cos()], -1)[None]  # (1, 8, 3)
    reach = cast(scene, place.expand(1, 8, 3), direction)[0]
    angle = float(yaw[int(reach.argmax())])
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)

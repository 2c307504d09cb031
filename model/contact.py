"""What a camera would bump into, by the depth of what it has seen: contact without a true scene.

The pixels of depth pictures are points in space. The camera is a vertical cylinder of `radius` that reaches
`BELOW` metres down and `ABOVE` up, so that floor and ceiling are none of its business. With c(x) the distance
on the floor plan from x to the `FEW`-th nearest point of that band (single wrong pixels stop nobody), a place
is free where

    c(x) >= min(radius, c(start)) - SLACK            touching already, one may only move away

`BODY` and `FEW` were chosen on `train` scenes, docs/measure_contact.py has the scores on others.

A move is cut into short steps, and of a step that is blocked the longest part along x, y, z or two of them
that stays free is kept, as along true walls (`scenes/free_space.py`). What no picture has shown stops nobody.
Legend: `B` slots, `S` pictures, `P` points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from wm_env.model.geometry import pixel_rays

RADIUS = 0.3  # metres; keeps the near plane out of walls at any field of view up to 120 degrees
_SUBSTEP = 0.1  # longest move that is resolved at once
_PARTS = [[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]  # of a move
BELOW, ABOVE = 1.2, 0.3  # metres; eyes are 1.4 above the floor in the scenes that worlds are trained on
BODY = 0.27  # metres; learned depth is some centimetres off, and all of `RADIUS` would be stopped by air
FEW = 12  # points, of the pictures of `SIDE`
SLACK = 0.01  # metres; how much nearer a slide may come: pixels of a flat wall are not evenly far
SIDE = 32  # pixels of a side that are looked at; of larger pictures every second, third, ...
REACH = 1.5  # metres on the floor plan; points farther than this are no matter for the next step
MOST = 1024  # points that are looked at, the nearest


class Obstacles(NamedTuple):
    """Points `(B, P, 2)` float32, x and z relative to the start; which of them `(B, P)` are in the way."""

    points: Tensor
    solid: Tensor


class Surfaces(NamedTuple):
    """Depth pictures: depth float32 `(B, S, h, w)` metres along z, c2w `(B, S, 4, 4)` of their cameras
    relative to the start, valid `(B, S)` bool."""

    depth: Tensor
    c2w: Tensor
    valid: Tensor


def joined(parts: Sequence[Surfaces]) -> Surfaces:
    """Return the pictures of several as one, on the device and in the dtypes of the first."""
    same = zip(*parts, strict=True)
    return Surfaces(*(torch.cat([leaf.to(leaves[0]) for leaf in leaves], dim=1) for leaves in same))


@runtime_checkable
class RememberingWorld(Protocol):
    """A world that remembers where surfaces are; of another, the newest frame alone is known."""

    def surfaces(self, state: Any) -> Surfaces | None:
        """Return the depth pictures that a state remembers, None where it has no such memory."""
        ...


def obstacles(seen: Surfaces, camera: Tensor, intrinsics: Tensor) -> Obstacles:
    """Return what stands around a camera at `camera` `(B, 3)`, by depth pictures with intrinsics `(B, 4)`."""
    points = points_of(seen, intrinsics, SIDE)
    camera = camera.to(points)[:, None, None]
    down = points[..., 1] - camera[..., 1]  # y points down
    away = (points - camera)[..., [0, 2]].norm(dim=-1)
    solid = in_the_way(down) & (away < REACH) & seen.valid.to(points.device)[..., None]
    away = torch.where(solid, away, torch.inf).flatten(1)  # (B, S P), NaN and infinite depth drop out
    near = away.topk(min(MOST, away.shape[1]), dim=1, largest=False)
    flat = points[..., [0, 2]].flatten(1, 2).gather(1, near.indices[..., None].expand(-1, -1, 2))
    return Obstacles(flat, torch.isfinite(near.values))


def in_the_way(down: Tensor) -> Tensor:
    """Return whether things so many metres below a camera are where its body is: no floor, no ceiling."""
    return (down < BELOW) & (down > -ABOVE)


def points_of(seen: Surfaces, intrinsics: Tensor, side: int) -> Tensor:
    """Return the points `(B, S, P, 3)` of depth pictures, relative to the start.

    intrinsics: `(B, 4)` in pixels of the pictures. side: pixels of a side that are looked at.
    """
    height, width = seen.depth.shape[2:]
    every = max(1, max(height, width) // side)
    rays = pixel_rays(intrinsics.float(), height, width, 0.5)[:, None, ::every, ::every]
    points = (rays.to(seen.depth) * seen.depth[:, :, ::every, ::every, None]).flatten(2, 3)
    c2w = seen.c2w.to(points)
    return points @ c2w[..., :3, :3].mT + c2w[..., None, :3, 3]


def clearance(around: Obstacles, places: Tensor) -> Tensor:
    """Return the distance `(B, M)` on the floor plan from places `(B, M, 3)` to the `FEW`-th nearest."""
    gap = (places.to(around.points)[:, :, None, [0, 2]] - around.points[:, None]).norm(dim=-1)  # (B, M, P)
    gap = torch.where(around.solid[:, None], gap, torch.inf)
    return gap.kthvalue(min(FEW, gap.shape[2]), dim=2).values


def slide_by_depth(
    around: Obstacles, start: Tensor, end: Tensor, radius: float = BODY
) -> tuple[Tensor, Tensor]:
    """Return the position `(B, 3)` float64 reached from `start` towards `end`, and `(B,)` if blocked."""

    def free(position: Tensor, tries: Tensor) -> Tensor:
        least = clearance(around, position[:, None]).clamp_max(radius) - SLACK
        return clearance(around, tries) >= least

    return slide_where(free, start, end)


def slide_where(
    is_open: Callable[[Tensor, Tensor], Tensor], start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the position `(B, 3)` float64 reached from `start` towards `end`, and `(B,)` if it was blocked.

    Of a blocked move the longest part along x, y, z or two of them that stays free is kept, so a camera walks
    along a wall. Free is what `is_open(position (B, 3), places (B, M, 3)) -> (B, M)` says; staying always is.
    """
    position = start.double()
    move = end.to(position) - position
    longest = float(move.norm(dim=-1).max()) if move.numel() else 0.0
    if not math.isfinite(longest):
        raise ValueError("slide needs finite positions")
    steps = max(1, math.ceil(longest / _SUBSTEP - 1e-9))
    hit = torch.zeros(position.shape[0], dtype=torch.bool, device=position.device)
    parts = torch.tensor(_PARTS, dtype=torch.bool, device=position.device)
    for step in range(1, steps + 1):
        target = end.to(position) if step == steps and not bool(hit.any()) else position + move / steps
        tries = torch.where(parts, target[:, None], position[:, None])  # (B, 8, 3)
        free = is_open(position, tries).to(position.device)  # (B, 8)
        free[:, -1] = True  # staying is always possible
        length = (tries - position[:, None]).square().sum(-1)
        choice = torch.where(free, length, -1.0).argmax(1)  # the whole move is the longest
        position = tries.gather(1, choice[:, None, None].expand(-1, 1, 3))[:, 0]
        hit = hit | (position != target).any(-1)
    return position, hit

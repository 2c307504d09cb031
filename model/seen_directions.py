"""Which directions true pictures have looked along, and how far the camera has gone from them: for any world.

Directions are cut into cells of 10 degrees of yaw and pitch, in the axes of the start pose. A true picture
marks the cells that its rays fall into. Of a later view

    new_directions   share of its rays in cells that no true picture has looked along
    moved            metres to the nearest place at which one of the last `PLACES` true pictures was taken
    steps            steps since the last true picture, as log(1 + n)

It knows no depth, so what a moved camera sees around a corner counts as looked along; `moved` tells of that.
Legend: `B` slots, `D` cells of directions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.geometry import pixel_rays

YAWS, PITCHES = 36, 18
PLACES = 8
ACROSS = 16  # rays of a row and of a column that are asked


class SeenDirections(NamedTuple):
    """looked `(B, D)` bool; places `(B, PLACES, 3)` float64 metres from the start, the newest last; since
    `(B,)` int64, steps since the last true picture."""

    looked: Tensor
    places: Tensor
    since: Tensor


def nothing_seen(batch: int) -> SeenDirections:
    """Return the record before any picture."""
    return SeenDirections(
        torch.zeros(batch, YAWS * PITCHES, dtype=torch.bool),
        torch.zeros(batch, PLACES, 3, dtype=torch.float64),
        torch.zeros(batch, dtype=torch.int64),
    )


def with_true(seen: SeenDirections, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> SeenDirections:
    """Return the record with true pictures taken at `c2w` `(B, F, 4, 4)`, in order.

    intrinsics `(B, 4)` pixels, the same for all; size (height, width).
    """
    looked = seen.looked
    for frame in range(c2w.shape[1]):
        looked = looked.scatter(1, cells_of(c2w[:, frame], intrinsics, size), True)
    places = torch.cat([seen.places, c2w[:, :, :3, 3].double()], dim=1)[:, -PLACES:]
    if not bool(seen.looked.any()):  # the first pictures: no place is the origin by default
        places = torch.cat([places[:, -1:].expand(-1, PLACES, -1), c2w[:, :, :3, 3].double()], 1)[:, -PLACES:]
    return SeenDirections(looked, places, torch.zeros_like(seen.since))


def after_step(seen: SeenDirections) -> SeenDirections:
    """Return the record after a drawn step, which shows nothing true."""
    return seen._replace(since=seen.since + 1)


def direction_signals(
    seen: SeenDirections, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> dict[str, Tensor]:
    """Return new_directions, moved and steps `(B,)` float32 of views from `c2w` `(B, 4, 4)`."""
    cells = cells_of(c2w, intrinsics, size)
    away = (c2w[:, None, :3, 3].double() - seen.places).norm(dim=2).amin(1)
    return {
        "new_directions": 1 - seen.looked.gather(1, cells).float().mean(1),
        "moved": away.float(),
        "steps": torch.log1p(seen.since.float()),
    }


def cells_of(c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the cells `(B, R)` int64 of rays of a view from `c2w` `(B, 4, 4)`."""
    height, width = size
    asked = (slice(None, None, max(1, height // ACROSS)), slice(None, None, max(1, width // ACROSS)))
    rays = pixel_rays(intrinsics.double().cpu(), height, width, 0.5)[:, asked[0], asked[1]].flatten(1, 2)
    x, y, z = (rays @ c2w[:, :3, :3].double().cpu().mT).unbind(-1)  # (B, R)
    yaw = (torch.atan2(x, z) / (2 * math.pi) + 0.5) * YAWS
    pitch = (torch.atan2(y, torch.hypot(x, z)) / math.pi + 0.5) * PITCHES
    # rounded: what another batch size changes in the last digit must not choose a cell
    yaw, pitch = ((part * 1024).round() / 1024 for part in (yaw, pitch))
    row = pitch.floor().long().clamp(0, PITCHES - 1)
    return row * YAWS + yaw.floor().long() % YAWS

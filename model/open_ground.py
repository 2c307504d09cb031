"""Where a camera could walk to, by the depth of what it has seen: free places without a true scene.

Seen from above, a depth picture looks free along an azimuth up to the nearest thing between knee and head,
and where no such thing shows, up to the farthest point that does show (floor). With r(p), a(p) distance and
azimuth of a place from the picture's camera and f(a) that bound, a place is known to be free where

    some picture has r(p) <= f(a(p)) - MARGIN,  and fewer than FEW points of things are within MARGIN of p

and it can be reached where a chain of such places leads there from the camera. What no picture has shown is
not known, so it is no place to send anybody to. A thing is what a body would bump into, between `BELOW` and
`ABOVE` of the start's height. Legend: `S` pictures, `P` points, `G` cells of a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from wm_env.model import contact
from wm_env.model.contact import Surfaces, in_the_way, points_of

CELL = 0.1  # metres
MARGIN = 0.4  # metres from things; a body of 0.3 has to get there, and learned depth is some centimetres off
BEGIN = 0.5  # metres around the camera that count as free: it stands there, and no picture shows its feet
BINS = 120  # azimuths all around
SIDE = 64  # pixels of a side that are looked at
FEW = contact.FEW * (SIDE // contact.SIDE) ** 2  # points near a place that are no noise
SPECKS = 2  # the nearest things of an azimuth that count for nothing: a single wrong pixel


def open_ground(seen: Surfaces, intrinsics: Tensor, reach: float) -> Tensor:
    """Return places `(n, 3)` float64 relative to the start that a camera there can walk to, n >= 0.

    seen: the pictures of one slot. intrinsics: `(1, 4)` in pixels of the pictures. reach: metres from the
    start on the floor plan, the farthest place. The places are centres of `CELL`s, y = 0.
    """
    half = math.ceil(reach / CELL)
    axis = torch.arange(-half, half + 1, dtype=torch.float64) * CELL
    x, z = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([x, torch.zeros_like(x), z], -1)  # (G, G, 3)
    distance = places.norm(dim=-1)
    points = points_of(seen, intrinsics, SIDE)[0].double().cpu()  # (S, P, 3)
    points = points[seen.valid[0].to(points.device)]
    eyes = seen.c2w[seen.valid][:, :3, 3].double().cpu()
    body = in_the_way(points[..., 1]) & torch.isfinite(points).all(-1)
    free = torch.zeros_like(distance, dtype=torch.bool)
    for own, is_body, eye in zip(points, body, eyes, strict=True):
        free |= _free_in(own, is_body, eye, places)
    free = (free & ~_crowded(points[body], half)) | (distance <= BEGIN)
    reached = _flooded(free & (distance <= BEGIN), free)
    return places[reached & (distance <= reach)]


def _crowded(things: Tensor, half: int) -> Tensor:
    """Return the cells `(G, G)` with `FEW` or more of the points `(P, 3)` within `MARGIN` of their centre."""
    size = 2 * half + 1
    cell = (things[:, [0, 2]] / CELL).round().long() + half
    cell = cell[((cell >= 0) & (cell < size)).all(-1)]
    count = torch.bincount(cell[:, 0] * size + cell[:, 1], minlength=size * size).view(1, 1, size, size)
    wide = math.ceil(MARGIN / CELL)
    axis = torch.arange(-wide, wide + 1) * CELL
    disk = (axis[:, None].square() + axis.square() < MARGIN**2).float()
    return functional.conv2d(count.float(), disk[None, None], padding=wide)[0, 0] >= FEW


def _free_in(points: Tensor, body: Tensor, eye: Tensor, places: Tensor) -> Tensor:
    """Return which places `(G, G)` one picture `(P, 3)` from `eye` `(3,)` shows to be free."""
    offset = points - eye
    away, bins = offset[:, [0, 2]].norm(dim=-1), _azimuth(offset)
    bound = torch.full((BINS,), -math.inf, dtype=torch.float64)
    for azimuth in bins.unique().tolist():
        own = bins == azimuth
        things = away[own & body].sort().values
        shown = away[own][torch.isfinite(away[own])]
        if len(things) > SPECKS:
            bound[azimuth] = things[SPECKS]
        elif len(shown):
            bound[azimuth] = shown.max()
    to_place = places - eye
    return to_place[..., [0, 2]].norm(dim=-1) <= bound[_azimuth(to_place)] - MARGIN


def _azimuth(offset: Tensor) -> Tensor:
    """Return the bin of the azimuths of `(..., 3)`."""
    angle = torch.atan2(offset[..., 0], offset[..., 2]).nan_to_num()
    return ((angle / (2 * math.pi) + 0.5) * BINS).floor().long().clamp(0, BINS - 1)


def _flooded(begin: Tensor, free: Tensor) -> Tensor:
    """Return the `free` cells `(G, G)` bool that a chain of neighbours (four each) leads to from `begin`."""
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])[None, None]
    reached = begin
    while True:
        grown = (functional.conv2d(reached.float()[None, None], cross, padding=1)[0, 0] > 0) & free
        if torch.equal(grown, reached):
            return reached
        reached = grown

"""Seeded procedural scenes: one to three rooms joined by doorways, furniture, pillars, lamps and one beacon.

World axes: x right, y down, z forward, metres; the floor is y = 0, a ceiling y = -height. Empty space is a
union of axis-aligned cells (rooms and doorway passages) that touch exactly; everything else is solid.

Legend: `B` batch; `C` cells, `K` boxes, `Y` vertical cylinders, `S` surfaces, `P` material columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.scenes.layouts import (
    BOXES,
    CYLINDERS,
    DOORS,
    HEAD_RADIUS,
    ROOMS,
    Draft,
    place_beacon,
    place_furniture,
    place_rooms,
)
from wm_env.model.scenes.materials import BEACON_COLORS, MATERIAL, hsv, material, room_scheme
from wm_env.model.state import cat

SPLITS = ("train", "val", "heldout")
LIGHT_LEVELS = ("dim", "normal", "bright")
AIR_LEVELS = ("clear", "foggy")

CELLS = ROOMS + DOORS
BOX_SURFACE = 6 * CELLS  # cell faces come first: 6 * cell + 2 * axis + (1 on the positive side)
CYLINDER_SURFACE = BOX_SURFACE + BOXES
SPHERE_SURFACE = CYLINDER_SURFACE + CYLINDERS
SURFACES = SPHERE_SURFACE + 1
BEACON_SURFACES = (CYLINDER_SURFACE, SPHERE_SURFACE)
ABSENT = 1e3  # where primitives that a scene does not have are put
POST_RADIUS, POST_HEIGHT = 0.16, 1.0  # of the beacon
KINDS = ("floor", "ceiling", "wall", "other")


class Scene(NamedTuple):
    """Scenes of fixed shape, batch axis first; float32 unless said. Absent primitives come last.

    cell_lo, cell_hi: `(B, C, 3)` corners of the empty cells, rooms 0..2, doorways 3..4.
    passage: `(B, C)` int64, axis along which a doorway is walked through (0 or 2), -1 for rooms.
    box_lo, box_hi: `(B, K, 3)`. cylinder: `(B, Y, 5)` (x, z, radius, y top, y bottom), 0 is the beacon post.
    sphere: `(B, 4)` (x, y, z, radius), the beacon's head.
    counts: `(B, 4)` int64, number of rooms, doorways, boxes and cylinders present.
    materials: `(B, S, P)`, see `materials.COLUMNS`.
    fog_color: `(B, 3)`. light, air, beacon_color: `(B,)` int64, index into `LIGHT_LEVELS`, `AIR_LEVELS` and
    `BEACON_COLORS`.
    """

    cell_lo: Tensor
    cell_hi: Tensor
    passage: Tensor
    box_lo: Tensor
    box_hi: Tensor
    cylinder: Tensor
    sphere: Tensor
    counts: Tensor
    materials: Tensor
    fog_color: Tensor
    light: Tensor
    air: Tensor
    beacon_color: Tensor

    @property
    def beacon(self) -> Tensor:
        """`(B, 3)` float32, centre of the beacon's head."""
        return self.sphere[:, :3]


def surface_kinds(surface: Tensor) -> Tensor:
    """Return the index into `KINDS` of surfaces (int64, any shape): rooms have floor, ceiling and walls.

    The floor of a doorway is floor; what frames it, furniture, pillars and the beacon are "other".
    """
    face, cell = surface % 6, surface // 6
    kind = torch.where(face == 3, 0, torch.where(face == 2, 1, 2))  # y is down: 3 is the lower face
    solid = (surface >= BOX_SURFACE) | ((cell >= ROOMS) & (face != 3))
    return torch.where(solid, KINDS.index("other"), kind)


def scene_rng(seed: int, split: str) -> np.random.Generator:
    """Return the generator of scene `seed` of `split`; the streams of two splits never meet."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"scene seed {seed} is negative; seeds start at 0")
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(SPLITS.index(split),)))


def make_scene(seed: int, split: str) -> Scene:
    """Return scene `seed` of `split` (B=1).

    `heldout` has layouts, furniture, textures and palettes of its own; `train` and `val` only in seeds.
    """
    rng = scene_rng(seed, split)
    heldout = split == "heldout"
    draft = Draft()
    place_rooms(rng, draft, heldout)
    beacon_room = int(rng.integers(len(draft.rooms)))
    beacon_xz = place_beacon(rng, draft, beacon_room)
    schemes = [room_scheme(rng, heldout) for _ in draft.rooms]
    for room in range(len(draft.rooms)):
        for _ in range(int(rng.integers(3, 6))):
            place_furniture(rng, draft, room, schemes[room][3], heldout)
    return _to_tensors(rng, draft, schemes, beacon_room, beacon_xz)


def make_scenes(seeds: Sequence[int], split: str) -> Scene:
    """Return the scenes of `seeds` as one batch."""
    return cat([make_scene(seed, split) for seed in seeds])


def _to_tensors(
    rng: np.random.Generator,
    draft: Draft,
    schemes: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]],
    beacon_room: int,
    beacon_xz: np.ndarray,
) -> Scene:
    cells = np.full((2, CELLS, 3), ABSENT, dtype=np.float32)
    passage = np.full(CELLS, -1, dtype=np.int64)
    boxes = np.full((2, BOXES, 3), ABSENT, dtype=np.float32)
    cylinders = np.tile(np.array([ABSENT, ABSENT, 0.01, -0.01, 0.0], dtype=np.float32), (CYLINDERS, 1))
    table = np.zeros((SURFACES, len(MATERIAL)), dtype=np.float32)
    lamps = [np.array([room[:, 0].mean(), room[0, 1] + 0.1, room[:, 2].mean()]) for room in draft.rooms]

    def put(surface: int, row: np.ndarray, room: int) -> None:
        table[surface] = row
        table[surface, MATERIAL["lamp_x"] : MATERIAL["lamp_z"] + 1] = lamps[room]

    for index, (room, (walls, floor, ceiling, _)) in enumerate(zip(draft.rooms, schemes, strict=True)):
        cells[:, index] = room
        for face, row in zip((0, 1, 4, 5, 3, 2), (*walls, floor, ceiling), strict=True):
            put(6 * index + face, row, index)
    for index, (door, axis, first, _) in enumerate(draft.doors):
        cells[:, ROOMS + index] = door
        passage[ROOMS + index] = axis
        frame = hsv(schemes[first][3], 0.15, 0.9)
        for face in range(6):
            put(6 * (ROOMS + index) + face, material(rng, "plain", frame, frame, 1.0), first)
        put(6 * (ROOMS + index) + 3, schemes[first][1], first)
    for index, (box, paint, place) in enumerate(draft.boxes):
        boxes[:, index] = box
        put(BOX_SURFACE + index, paint, place)

    color = int(rng.integers(len(BEACON_COLORS)))
    glow = np.array(list(BEACON_COLORS.values())[color])
    post = (float(beacon_xz[0]), float(beacon_xz[1]), POST_RADIUS, -POST_HEIGHT, 0.0)
    head = np.array(
        [beacon_xz[0], -POST_HEIGHT - 0.8 * HEAD_RADIUS, beacon_xz[1], HEAD_RADIUS], dtype=np.float32
    )
    bright = material(rng, "plain", glow, glow, 1.0)
    bright[MATERIAL["emission"]] = 0.8
    pieces = [(post, bright, beacon_room), *draft.cylinders]
    for index, (cylinder, paint, place) in enumerate(pieces):
        cylinders[index] = cylinder
        put(CYLINDER_SURFACE + index, paint, place)
        _curve(table[CYLINDER_SURFACE + index], cylinder[0], 0.0, cylinder[1], 1 / cylinder[2], 0.0)
    put(SPHERE_SURFACE, bright, beacon_room)
    x, y, z, radius = head.tolist()
    _curve(table[SPHERE_SURFACE], x, y, z, 1 / radius, 1 / radius)

    counts = [len(draft.rooms), len(draft.doors), len(draft.boxes), len(pieces)]
    fog = hsv(rng.random(), rng.uniform(0.02, 0.12), rng.uniform(0.68, 0.8)).astype(np.float32)
    levels = [int(rng.choice(3, p=[0.25, 0.45, 0.3])), int(rng.random() < 0.25), color]
    light, air, beacon = (torch.tensor([level]) for level in levels)
    return Scene(
        cell_lo=torch.from_numpy(cells[None, 0]),
        cell_hi=torch.from_numpy(cells[None, 1]),
        passage=torch.from_numpy(passage[None]),
        box_lo=torch.from_numpy(boxes[None, 0]),
        box_hi=torch.from_numpy(boxes[None, 1]),
        cylinder=torch.from_numpy(cylinders[None]),
        sphere=torch.from_numpy(head[None]),
        counts=torch.tensor([counts]),
        materials=torch.from_numpy(table[None]),
        fog_color=torch.from_numpy(fog[None]),
        light=light,
        air=air,
        beacon_color=beacon,
    )


def _curve(row: np.ndarray, x: float, y: float, z: float, inverse_r: float, inverse_ry: float) -> None:
    """Write centre and inverse radii of a round surface; its normal is (point - centre) * inverse radii."""
    row[MATERIAL["centre_x"] : MATERIAL["inverse_rz"] + 1] = x, y, z, inverse_r, inverse_ry, inverse_r

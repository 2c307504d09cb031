"""Seeded procedural scenes: one to three rooms joined by doorways, furniture, pillars, lamps and one beacon.

World axes: x right, y down, z forward, metres; the floor is y = 0, a ceiling y = -height. Empty space is a union
of axis-aligned cells (rooms and doorway passages) that touch exactly; everything else is solid. Furniture stands
flush with a wall or at least `GAP` from everything, so free space stays connected and the beacon reachable.

Legend: `B` batch; `C` cells, `K` boxes, `Y` vertical cylinders, `S` surfaces, `P` material columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.scenes.materials import (
    BEACON_COLORS,
    MATERIAL,
    furniture_material,
    hsv,
    material,
    room_scheme,
)
from wm_env.model.state import cat

SPLITS = ("train", "val", "heldout")
LIGHT_LEVELS = ("dim", "normal", "bright")
AIR_LEVELS = ("clear", "foggy")

ROOMS, DOORS, BOXES, CYLINDERS = 3, 2, 12, 6
CELLS = ROOMS + DOORS
BOX_SURFACE = 6 * CELLS  # cell faces come first: 6 * cell + 2 * axis + (1 on the positive side)
CYLINDER_SURFACE = BOX_SURFACE + BOXES
SPHERE_SURFACE = CYLINDER_SURFACE + CYLINDERS
SURFACES = SPHERE_SURFACE + 1
BEACON_SURFACES = (CYLINDER_SURFACE, SPHERE_SURFACE)

WALL = 0.2  # thickness between rooms, the length of a doorway passage
DOOR_HEIGHT = 2.1
GAP = 0.9  # between pieces of furniture, and from a free-standing piece to a wall
ABSENT = 1e3  # where primitives that a scene does not have are put
POST_RADIUS, POST_HEIGHT, HEAD_RADIUS = 0.16, 1.0, 0.30


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


@dataclass
class _Draft:
    """A scene under construction (numpy)."""

    rooms: list[np.ndarray] = field(default_factory=list)  # each (2, 3): lo, hi
    doors: list[tuple[np.ndarray, int, int, int]] = field(default_factory=list)  # lo/hi, axis, room, room
    boxes: list[tuple[np.ndarray, np.ndarray, int]] = field(default_factory=list)  # lo/hi, material, room
    cylinders: list[tuple[tuple[float, float, float, float, float], np.ndarray, int]] = field(
        default_factory=list
    )
    footprints: list[tuple[float, float, float, float]] = field(default_factory=list)  # x0, z0, x1, z1


def scene_rng(seed: int, split: str) -> np.random.Generator:
    """Return the generator of scene `seed` of `split`; the streams of two splits never meet."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"scene seed {seed} is negative; seeds start at 0")
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(SPLITS.index(split),)))


def make_scene(seed: int, split: str) -> Scene:
    """Return scene `seed` of `split` (B=1).

    `heldout` has layouts, furniture, textures and palettes of its own; `train` and `val` share one distribution.
    """
    rng = scene_rng(seed, split)
    heldout = split == "heldout"
    draft = _Draft()
    _place_rooms(rng, draft, heldout)
    beacon_room = int(rng.integers(len(draft.rooms)))
    beacon_xz = _place_beacon(rng, draft, beacon_room)
    schemes = [room_scheme(rng, heldout) for _ in draft.rooms]
    for room in range(len(draft.rooms)):
        for _ in range(int(rng.integers(3, 6))):
            _place_furniture(rng, draft, room, schemes[room][3], heldout)
    return _to_tensors(rng, draft, schemes, beacon_room, beacon_xz)


def make_scenes(seeds: Sequence[int], split: str) -> Scene:
    """Return the scenes of `seeds` as one batch."""
    return cat([make_scene(seed, split) for seed in seeds])


def _place_rooms(rng: np.random.Generator, draft: _Draft, heldout: bool) -> None:
    """Rooms in a row (train, val) or around corners and along corridors (heldout), centred at the origin."""
    count = int(rng.choice([1, 2, 3], p=[0.2, 0.3, 0.5] if heldout else [0.3, 0.4, 0.3]))
    axis = int(rng.choice([0, 2]))
    for index in range(count):
        longest = 7.0 if count == 1 else (6.2 if count == 2 else 4.9)
        size = rng.uniform(4.0, longest, 2)
        if heldout and index == count - 1:  # a corridor or a long hall: a proportion never trained on
            size = np.array([rng.uniform(2.6, 3.2), rng.uniform(6.0, 7.0 if count < 3 else 6.4)])
            size = size[::-1] if (axis == 0) == (index > 0) else size
        height = rng.uniform(2.5, 3.3)
        if index == 0:
            lo = np.zeros(2)
        else:
            if heldout and index == 2:
                axis = 2 - axis  # turn the corner
            lo = _beside(rng, draft, axis, size, corner=heldout and index == 2)
        box = np.array([[lo[0], -height, lo[1]], [lo[0] + size[0], 0.0, lo[1] + size[1]]])
        draft.rooms.append(box)
        if index > 0:
            _open_door(rng, draft, axis, index - 1, index)
    corners = np.stack(draft.rooms)
    shift = 0.5 * (corners[:, 0].min(0) + corners[:, 1].max(0)) * [1.0, 0.0, 1.0]
    draft.rooms = [room - shift for room in draft.rooms]
    draft.doors = [(door - shift, axis, a, b) for door, axis, a, b in draft.doors]


def _beside(rng: np.random.Generator, draft: _Draft, axis: int, size: np.ndarray, corner: bool) -> np.ndarray:
    """Return the low corner (x, z) of a room of `size` on the positive side of the last room along `axis`."""
    last = draft.rooms[-1]
    across = 2 - axis
    width = size[across // 2]
    lowest, highest = last[0, across] + 1.8 - width, last[1, across] - 1.8
    if corner:  # stay clear of the room before the last
        lowest = last[0, across]
    place = (
        rng.uniform(lowest, max(lowest, highest))
        if corner
        else 0.5 * (lowest + highest) + 0.6 * rng.uniform(-0.5, 0.5) * (highest - lowest)
    )
    lo = np.zeros(2)
    lo[axis // 2], lo[across // 2] = last[1, axis] + WALL, place
    return lo


def _open_door(rng: np.random.Generator, draft: _Draft, axis: int, first: int, second: int) -> None:
    """Join two neighbouring rooms by a doorway somewhere along the wall they share."""
    across = 2 - axis
    a, b = draft.rooms[first], draft.rooms[second]
    low, high = max(a[0, across], b[0, across]) + 0.15, min(a[1, across], b[1, across]) - 0.15
    width = min(rng.uniform(1.05, 1.4), high - low)
    start = rng.uniform(low, high - width)
    door = np.zeros((2, 3))
    door[:, axis] = a[1, axis], b[0, axis]
    door[:, across] = start, start + width
    door[:, 1] = -DOOR_HEIGHT, 0.0
    draft.doors.append((door, axis, first, second))


def _place_beacon(rng: np.random.Generator, draft: _Draft, room: int) -> np.ndarray:
    """Return the beacon's (x, z), clear of walls and doors; its footprint keeps furniture away."""
    lo, hi = draft.rooms[room][0, [0, 2]], draft.rooms[room][1, [0, 2]]
    margin = np.minimum(1.1, 0.4 * (hi - lo))
    best, best_clear = 0.5 * (lo + hi), -1.0
    for _ in range(12):
        place = rng.uniform(lo + margin, hi - margin)
        clear = min(
            (float(np.abs(place - door.mean(0)[[0, 2]]).max()) for door, *_ in draft.doors), default=9.0
        )
        if clear > 1.5:
            best = place
            break
        if clear > best_clear:
            best, best_clear = place, clear
    draft.footprints.append((*(best - HEAD_RADIUS), *(best + HEAD_RADIUS)))
    return best


def _fits(draft: _Draft, footprint: tuple[float, float, float, float], room: int) -> bool:
    """Return whether a piece leaves `GAP` to all others, and the way through every door of the room clear."""
    x0, z0, x1, z1 = footprint
    for a0, b0, a1, b1 in draft.footprints:
        if x0 < a1 + GAP and x1 > a0 - GAP and z0 < b1 + GAP and z1 > b0 - GAP:
            return False
    for door, axis, first, second in draft.doors:
        if room in (first, second):
            reach = np.array([1.0, 0.0, 1.0]) * np.where(np.arange(3) == axis, 1.3, 0.35)
            lo, hi = door[0] - reach, door[1] + reach
            if x0 < hi[0] and x1 > lo[0] and z0 < hi[2] and z1 > lo[2]:
                return False
    return True


def _place_furniture(rng: np.random.Generator, draft: _Draft, room: int, hue: float, heldout: bool) -> None:
    """Try to add one piece of furniture to the room; a piece that finds no place is left out."""
    lo, hi = draft.rooms[room]
    height = -lo[1]
    kinds = (
        ("table", "stack", "ledge", "barrel") if heldout else ("cabinet", "block", "column", "pillar", "drum")
    )
    kind = str(rng.choice(kinds))
    at_wall = kind in ("cabinet", "ledge") or (kind == "stack" and rng.random() < 0.5)
    round_piece = kind in ("pillar", "drum", "barrel")
    for _ in range(20):
        if round_piece:
            size = np.full(2, 2 * rng.uniform(0.18, 0.32) if kind == "pillar" else 2 * rng.uniform(0.3, 0.45))
        elif kind == "column":
            size = rng.uniform(0.4, 0.7, 2)
        elif kind == "table":
            size = rng.uniform(0.8, 1.3, 2)
        else:
            size = rng.uniform(0.6, 1.2, 2)
        floor_lo, floor_hi = lo[[0, 2]], hi[[0, 2]]
        if at_wall:
            side = int(rng.integers(4))
            axis = side // 2
            size[axis] = rng.uniform(0.4, 0.6)
            size[1 - axis] = rng.uniform(0.8, 1.8)
            corner = np.zeros(2)
            corner[axis] = floor_lo[axis] if side % 2 == 0 else floor_hi[axis] - size[axis]
            room_left = floor_hi[1 - axis] - floor_lo[1 - axis] - size[1 - axis] - 2 * GAP
            if room_left <= 0:
                continue
            corner[1 - axis] = floor_lo[1 - axis] + GAP + rng.uniform(0, room_left)
        else:
            spare = floor_hi - floor_lo - size - 2 * GAP
            if (spare <= 0).any():
                continue
            corner = floor_lo + GAP + rng.uniform(0, 1, 2) * spare
        footprint = (corner[0], corner[1], corner[0] + size[0], corner[1] + size[1])
        if not _fits(draft, footprint, room):
            continue
        boxes, cylinders = _pieces(rng, kind, footprint, height)
        if len(draft.boxes) + len(boxes) > BOXES or len(draft.cylinders) + len(cylinders) > CYLINDERS - 1:
            return
        draft.footprints.append(footprint)
        row = furniture_material(rng, hue, heldout)
        draft.boxes += [(box, row, room) for box in boxes]
        draft.cylinders += [(cylinder, row, room) for cylinder in cylinders]
        return


def _pieces(
    rng: np.random.Generator, kind: str, footprint: tuple[float, float, float, float], height: float
) -> tuple[list[np.ndarray], list[tuple[float, float, float, float, float]]]:
    """Return the boxes and cylinders that make up a piece of furniture standing on `footprint`."""
    x0, z0, x1, z1 = footprint
    cx, cz, radius = 0.5 * (x0 + x1), 0.5 * (z0 + z1), 0.5 * (x1 - x0)

    def box(bottom: float, top: float, shrink: float = 0.0) -> np.ndarray:
        return np.array([[x0 + shrink, -top, z0 + shrink], [x1 - shrink, -bottom, z1 - shrink]])

    match kind:
        case "pillar":
            return [], [(cx, cz, radius, -height, 0.0)]
        case "drum":
            return [], [(cx, cz, radius, -rng.uniform(0.4, 0.9), 0.0)]
        case "barrel":
            return [], [(cx, cz, radius, -rng.uniform(1.1, 1.8), 0.0)]
        case "column":
            return [box(0.0, height)], []
        case "cabinet":
            return [box(0.0, rng.uniform(0.7, 2.0))], []
        case "block":
            return [box(0.0, rng.uniform(0.4, 1.2))], []
        case "table":
            top = rng.uniform(0.65, 0.9)
            return [box(top - 0.12, top)], [(cx, cz, 0.12, -top + 0.1, 0.0)]
        case "stack":
            low = rng.uniform(0.4, 0.8)
            return [box(0.0, low), box(low, low + rng.uniform(0.3, 0.8), 0.15 * min(x1 - x0, z1 - z0))], []
        case _:  # ledge
            bottom = rng.uniform(0.5, 1.5)
            return [box(bottom, bottom + rng.uniform(0.25, 0.5))], []


def _to_tensors(
    rng: np.random.Generator,
    draft: _Draft,
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

    for index, (room, (walls, floor, ceiling, hue)) in enumerate(zip(draft.rooms, schemes, strict=True)):
        cells[:, index] = room
        for face, row in zip((0, 1, 4, 5, 3, 2), (*walls, floor, ceiling), strict=True):
            put(6 * index + face, row, index)
        del hue
    for index, (door, axis, first, _) in enumerate(draft.doors):
        cells[:, ROOMS + index] = door
        passage[ROOMS + index] = axis
        frame = hsv(schemes[first][3], 0.15, 0.9)
        for face in range(6):
            put(6 * (ROOMS + index) + face, material(rng, "plain", frame, frame, 1.0), first)
        put(6 * (ROOMS + index) + 3, schemes[first][1], first)
    for index, (box, row, room) in enumerate(draft.boxes):
        boxes[:, index] = box
        put(BOX_SURFACE + index, row, room)

    color = int(rng.integers(len(BEACON_COLORS)))
    glow = np.array(list(BEACON_COLORS.values())[color])
    post = (float(beacon_xz[0]), float(beacon_xz[1]), POST_RADIUS, -POST_HEIGHT, 0.0)
    head = np.array(
        [beacon_xz[0], -POST_HEIGHT - 0.8 * HEAD_RADIUS, beacon_xz[1], HEAD_RADIUS], dtype=np.float32
    )
    bright = material(rng, "plain", glow, glow, 1.0)
    bright[MATERIAL["emission"]] = 0.8
    pieces = [(post, bright, beacon_room), *draft.cylinders]
    for index, (cylinder, row, room) in enumerate(pieces):
        cylinders[index] = cylinder
        put(CYLINDER_SURFACE + index, row, room)
        _curve(table[CYLINDER_SURFACE + index], cylinder[0], 0.0, cylinder[1], 1 / cylinder[2], 0.0)
    put(SPHERE_SURFACE, bright, beacon_room)
    _curve(table[SPHERE_SURFACE], *head[:3].tolist(), 1 / HEAD_RADIUS, 1 / HEAD_RADIUS)

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
    """Write the centre and inverse radii of a round surface; its normal is (point - centre) * inverse radii."""
    row[MATERIAL["centre_x"] : MATERIAL["inverse_rz"] + 1] = x, y, z, inverse_r, inverse_ry, inverse_r

"""Floor plans: where rooms, doorways, furniture and the beacon of a scene stand (numpy, under construction).

World axes: x right, y down, z forward, metres; the floor is y = 0. Furniture stands flush with a wall or at
least `GAP` from everything, and clear of doorways, so free space stays connected and the beacon reachable.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wm_env.model.scenes.materials import furniture_material

ROOMS, DOORS, BOXES, CYLINDERS = 3, 2, 12, 6  # most a scene can have
WALL = 0.2  # thickness between rooms, the length of a doorway passage
DOOR_HEIGHT = 2.1
GAP = 0.9  # between pieces of furniture, and from a free-standing piece to a wall
HEAD_RADIUS = 0.30  # of the beacon


@dataclass
class Draft:
    """A scene under construction. Boxes and rooms are `(2, 3)` arrays of their low and high corners.

    doors: (box, axis of the passage, room, room). boxes, cylinders: (shape, material row, room), cylinders as
    (x, z, radius, y top, y bottom). footprints: (x0, z0, x1, z1) of everything that stands on the floor.
    """

    rooms: list[np.ndarray] = field(default_factory=list)  # each (2, 3): lo, hi
    doors: list[tuple[np.ndarray, int, int, int]] = field(default_factory=list)  # lo/hi, axis, room, room
    boxes: list[tuple[np.ndarray, np.ndarray, int]] = field(default_factory=list)  # lo/hi, material, room
    cylinders: list[tuple[tuple[float, float, float, float, float], np.ndarray, int]] = field(
        default_factory=list
    )
    footprints: list[tuple[float, float, float, float]] = field(default_factory=list)  # x0, z0, x1, z1


def place_rooms(rng: np.random.Generator, draft: Draft, heldout: bool) -> None:
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


def _beside(rng: np.random.Generator, draft: Draft, axis: int, size: np.ndarray, corner: bool) -> np.ndarray:
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


def _open_door(rng: np.random.Generator, draft: Draft, axis: int, first: int, second: int) -> None:
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


def place_beacon(rng: np.random.Generator, draft: Draft, room: int) -> np.ndarray:
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


def _fits(draft: Draft, footprint: tuple[float, float, float, float], room: int) -> bool:
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


def place_furniture(rng: np.random.Generator, draft: Draft, room: int, hue: float, heldout: bool) -> None:
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

"""Films in which something impossible happens, and the same films without it: violations of expectation.

A camera turns once around (the context), then walks a few chunks. From a frame drawn at random within a chunk
on, the scene or the film is another:

    vanish, appear    a piece of furniture is gone; was not there before
    teleport          it stands 0.7 to 1.6 m aside, in view before and after
    recolour          it has another colour (what the world is told stays)
    wall_opens        a doorway into a niche opens in a wall of the room
    sink              the piece sinks into the floor, 12 cm a frame
    lying_camera      the poses turn one way and the pictures the other
    cut               the pictures go on a quarter turn to the side

Until then control and event are equal in every byte, and only then. The thing is in view at the frame, at
least `LEAST` of its pixels and at most half. Everything follows from the scene's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.walks import walk
from wm_env.model.geometry import assemble, invert_rigid
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.captions import caption
from wm_env.model.scenes.layouts import DOOR_HEIGHT, DOORS, ROOMS
from wm_env.model.scenes.materials import MATERIAL
from wm_env.model.scenes.paths import start_fov_deg, start_pose
from wm_env.model.scenes.raycast import render, surfaces
from wm_env.model.scenes.worlds import ABSENT, BOX_SURFACE, Scene, make_scene
from wm_env.model.world import WorldSpec

OBJECTS = ("vanish", "appear", "teleport", "recolour")
EVENTS = (*OBJECTS, "wall_opens", "sink", "lying_camera", "cut")
FIRST_FIVE = EVENTS[:5]
CHUNKS = 5  # after the turn
LEAST, MOST = 0.05, 0.5  # share of a frame that the thing fills
TRIES = 400  # scene seeds that are looked at for an event
SINKS = 0.12  # metres a frame
MOVES = ("a", "d", "", "w")


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One event. seed: of the scene. frame: number of the first frame that is another, from the walk's start
    (frame 0); chunk: the chunk it is in, from 0. c2w `(1 + K n, 4, 4)` float64 as the world is told them,
    relative to the start. control, event: frames uint8 `(1 + K n, h, w, 3)`."""

    name: str
    seed: int
    frame: int
    chunk: int
    c2w: Tensor
    control: Tensor
    event: Tensor
    scene: Scene
    start_c2w: Tensor
    intrinsics: tuple[float, float, float, float]
    prompt: str


def violations(spec: WorldSpec, name: str, count: int, split: str, seed: int = 0) -> list[Violation]:
    """Return `count` violations of one kind, of the first scene seeds from `seed` on that have one."""
    if name not in EVENTS:
        raise ValueError(f"unknown event {name!r}; known are {', '.join(EVENTS)}")
    found: list[Violation] = []
    for one in range(seed, seed + TRIES):
        made = violation(spec, name, one, split)
        if made is not None:
            found.append(made)
        if len(found) == count:
            break
    return found


def violation(spec: WorldSpec, name: str, seed: int, split: str) -> Violation | None:
    """Return the event of a scene seed, or None where the walk shows nothing that it could happen to."""
    rng = np.random.default_rng((seed, EVENTS.index(name)))
    scene = make_scene(seed, split)
    start = start_pose(scene, seed)
    K = spec.frames_per_step
    keys = [str(rng.choice(MOVES)) for _ in range(CHUNKS)]
    path = walk(spec, scene, start[None], [keys])[0]  # (1 + K n, 4, 4)
    chunk = int(rng.integers(1, CHUNKS - 1))
    frame = 1 + K * chunk + int(rng.integers(K))
    camera = torch.tensor(
        [intrinsics_from_fov(start_fov_deg(seed), spec.frame_size[1], spec.frame_size[0])],
        dtype=torch.float64,
    )

    def seen(of: Scene, poses: Tensor) -> Tensor:
        return render(of, poses[None], camera, *spec.frame_size)[0][0]

    def share(of: Scene, box: int, poses: Tensor) -> float:
        """Return the least share of frames that a box fills."""
        shown = surfaces(of, poses[None], camera, *spec.frame_size)[0]
        return float((shown == BOX_SURFACE + box).double().mean((1, 2)).min())

    before, after = scene, scene
    newest = path[[frame, K * (chunk + 1)]]
    if name in (*OBJECTS, "sink"):
        sizes = [share(scene, box, newest) for box in range(int(scene.counts[0, 2]))]
        fits = [box for box, size in enumerate(sizes) if LEAST <= size <= MOST]
        if not fits:
            return None
        box = int(rng.choice(fits))
        changed = _changed(name, scene, box, rng, lambda of: share(of, box, newest) >= LEAST)
        if changed is None:
            return None
        before, after = changed
    elif name == "wall_opens":
        opened = _opened(scene, path[frame], rng)
        if opened is None:
            return None
        after = opened
    control = seen(before, path)
    if name == "sink":
        parts = [control[:frame]]
        for later in range(frame, len(path)):
            depth = SINKS * (later - frame + 1)
            parts.append(seen(_moved(scene, box, torch.tensor([0.0, depth, 0.0])), path[[later]]))
        event = torch.cat(parts)
    elif name == "lying_camera":
        event = torch.cat([control[:frame], seen(scene, _other_way(path, frame, spec))])
    elif name == "cut":
        event = torch.cat([control[:frame], seen(scene, path[frame:] @ _turned(np.pi / 2))])
    else:
        event = torch.cat([control[:frame], seen(after, path[frame:])])
    other = (event[frame:].int() - control[frame:].int()).abs().amax(-1) > 8
    if float(other[: K * (chunk + 1) - frame + 1][-1].double().mean()) < LEAST / 2:
        return None  # nothing is to be seen of it
    fx, fy, cx, cy = camera[0].tolist()
    return Violation(
        name=name,
        seed=seed,
        frame=frame,
        chunk=chunk,
        c2w=invert_rigid(start.double())[None] @ path,
        control=control,
        event=event,
        scene=before,
        start_c2w=start.double(),
        intrinsics=(fx, fy, cx, cy),
        prompt=caption(scene)[0],
    )


def _changed(
    name: str, scene: Scene, box: int, rng: np.random.Generator, in_view: Callable[[Scene], bool]
) -> tuple[Scene, Scene] | None:
    """Return the scene before and after what happens to a box, None where it cannot."""
    without = _moved(scene, box, torch.full((3,), ABSENT))
    if name == "vanish":
        return scene, without
    if name == "appear":
        return without, scene
    if name == "sink":
        return scene, scene
    if name == "recolour":
        table = scene.materials.clone()
        row = table[0, BOX_SURFACE + box]
        columns = [MATERIAL[name] for name in ("c0_r", "c0_g", "c0_b", "c1_r", "c1_g", "c1_b")]
        colours = row[columns].view(2, 3)
        row[columns] = (1 - colours.roll(int(rng.integers(1, 3)), dims=1)).clamp(0.05, 0.95).flatten()
        return scene, scene._replace(materials=table)
    for _ in range(12):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.6)
        shift = torch.tensor([reach * np.cos(angle), 0.0, reach * np.sin(angle)])
        moved = _moved(scene, box, shift)
        lo, hi = moved.box_lo[0, box, [0, 2]], moved.box_hi[0, box, [0, 2]]
        rooms = int(scene.counts[0, 0])
        inside = (scene.cell_lo[0, :rooms, [0, 2]] <= lo) & (hi <= scene.cell_hi[0, :rooms, [0, 2]])
        if bool(inside.all(1).any()) and in_view(moved):
            return scene, moved
    return None


def _moved(scene: Scene, box: int, shift: Tensor) -> Scene:
    lo, hi = scene.box_lo.clone(), scene.box_hi.clone()
    lo[0, box] += shift.to(lo)
    hi[0, box] += shift.to(hi)
    return scene._replace(box_lo=lo, box_hi=hi)


def _opened(scene: Scene, c2w: Tensor, rng: np.random.Generator) -> Scene | None:
    """Return the scene with a niche behind the wall that a camera `(4, 4)` looks at, None where none fits."""
    rooms, doors = (int(count) for count in scene.counts[0, :2])
    if doors == DOORS:
        return None
    eye, ahead = c2w[:3, 3], c2w[:3, 2]
    room = next(
        (
            index
            for index in range(rooms)
            if bool(((scene.cell_lo[0, index] <= eye) & (eye <= scene.cell_hi[0, index])).all())
        ),
        None,
    )
    if room is None:
        return None
    lo, hi = scene.cell_lo[0, room].double(), scene.cell_hi[0, room].double()
    reach = torch.where(ahead > 0, (hi - eye) / ahead, (lo - eye) / ahead)  # to each pair of walls
    reach[1] = torch.inf
    axis = int(reach.argmin())
    across = 2 - axis
    at = float((eye + reach[axis] * ahead)[across])
    half = float(rng.uniform(0.55, 0.75))
    if not lo[across] + half + 0.1 < at < hi[across] - half - 0.1:
        return None
    wall = float((hi if ahead[axis] > 0 else lo)[axis])
    deep = wall + (1.2 if ahead[axis] > 0 else -1.2)
    low, high = torch.zeros(3), torch.zeros(3)
    low[axis], high[axis] = min(wall, deep), max(wall, deep)
    low[across], high[across], low[1] = at - half, at + half, -DOOR_HEIGHT
    for other in [*range(rooms), *range(ROOMS, ROOMS + doors)]:
        a, b = scene.cell_lo[0, other], scene.cell_hi[0, other]
        if other != room and bool(((a < high + 0.1) & (low - 0.1 < b)).all()):
            return None  # another room is behind that wall
    cell = ROOMS + doors
    cell_lo, cell_hi, table = scene.cell_lo.clone(), scene.cell_hi.clone(), scene.materials.clone()
    cell_lo[0, cell], cell_hi[0, cell] = low, high
    table[0, 6 * cell : 6 * cell + 6] = table[0, 6 * room : 6 * room + 6]
    passage, counts = scene.passage.clone(), scene.counts.clone()
    passage[0, cell] = axis
    counts[0, 1] += 1
    return scene._replace(cell_lo=cell_lo, cell_hi=cell_hi, materials=table, passage=passage, counts=counts)


def _turned(angle: float) -> Tensor:
    """Return the pose `(4, 4)` of a camera turned to the right by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    rotation = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    return assemble(rotation, torch.zeros(3, dtype=torch.float64))


def _other_way(path: Tensor, frame: int, spec: WorldSpec) -> Tensor:
    """Return the true poses from `frame` on of a camera that turns left at full speed, whatever is told."""
    step = np.radians(spec.max_rotation_deg)
    count = len(path) - frame
    turns = [_turned(-2 * step * (index + 1)) for index in range(count)]
    return path[frame:] @ torch.stack(turns)

"""Start poses and camera paths: the motions agents make, kept inside free space.

A clip is driven either by held keys (with the released inertia) or by body twists; commands change only at
chunk boundaries, every `CHUNK` pixel frames. Poses are absolute camera-to-world, float64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import assemble
from wm_env.model.kinematics import KEYS, KeyMotion, start_motion, step_keys, step_twists
from wm_env.model.scenes.free_space import RADIUS, is_free, slide
from wm_env.model.scenes.raycast import cast
from wm_env.model.scenes.worlds import Scene
from wm_env.model.state import put, select

CHUNK = 4  # pixel frames per chunk of the tiny world
EYE_HEIGHT = 1.4
FOV_RANGE = (60.0, 110.0)
MOTION = KeyMotion(translation_speed=0.0625, rotation_speed_deg=3.6)
TRAJECTORIES = (
    *("forward", "out_and_back", "loop", "spin360", "look_away", "random_walk", "idle"),
    *("figure8", "whip_pan"),
)
_LOOK_AWAY = re.compile(r"look_away_(\d+)")
FULL_TURN = 25  # chunks of turning at full speed
_START_STREAM, _FOV_STREAM, _WALK_STREAM = 101, 102, 103


def start_fov_deg(seed: int) -> float:
    """Return the horizontal field of view of start `seed`, uniform in 60-110 degrees."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_FOV_STREAM,)))
    return float(rng.uniform(*FOV_RANGE))


def start_pose(scene: Scene, seed: int) -> Tensor:
    """Return a level start pose `(4, 4)` float64 at eye height: free around it and looking into the open.

    Of many free places and headings in the first scene of the batch, one with a wide view is taken.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_START_STREAM,)))
    one = select(scene, [0])
    rooms = int(one.counts[0, 0])
    lo, hi = one.cell_lo[0, :rooms].cpu().double().numpy(), one.cell_hi[0, :rooms].cpu().double().numpy()
    points = np.zeros((0, 3))
    while len(points) < 8:
        room = rng.integers(rooms, size=48)
        tries = rng.uniform(lo[room], hi[room])
        tries[:, 1] = -EYE_HEIGHT
        free = is_free(one, torch.from_numpy(tries)[None], RADIUS + 0.15)[0].cpu().numpy()
        points = np.concatenate([points, tries[free]])
    yaw = rng.uniform(-math.pi, math.pi, len(points))
    fan = yaw[:, None] + np.radians(np.linspace(-40, 40, 9))  # (n, 9)
    direction = torch.from_numpy(np.stack([np.sin(fan), np.zeros_like(fan), np.cos(fan)], -1))
    origin = torch.from_numpy(points)[:, None].expand_as(direction)
    reach = cast(one, origin.reshape(1, -1, 3), direction.reshape(1, -1, 3))[0].reshape(-1, 9).cpu().numpy()
    view = np.minimum(reach, 6.0).mean(1) - 3.0 * (reach.min(1) < 0.9) - 3.0 * (reach[:, 4] < 2.0)
    best = np.argsort(-view)[: max(1, len(view) // 3)]
    chosen = int(rng.choice(best))
    return _level_pose(torch.from_numpy(points[chosen]), float(yaw[chosen]))


def _level_pose(position: Tensor, yaw: float) -> Tensor:
    c, s = math.cos(yaw), math.sin(yaw)
    rotation = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    return assemble(rotation, position.double())


def check_trajectory(name: str) -> None:
    """Raise `ValueError` where `name` is no trajectory."""
    if name not in TRAJECTORIES and _LOOK_AWAY.fullmatch(name) is None:
        raise ValueError(
            f"unknown trajectory {name!r}; expected one of {', '.join(TRAJECTORIES)}, or look_away_N to look "
            "away for N chunks"
        )


def trajectory(name: str, chunks: int, seed: int = 0) -> list[str]:
    """Return the keys held on each of `chunks` chunks ("" = none) of a named trajectory.

    "look_away_8" turns away, waits 8 chunks, turns back and stays; "look_away" waits as long as it can.
    """
    check_trajectory(name)
    half = chunks // 2
    dwell = _LOOK_AWAY.fullmatch(name)
    if dwell is not None:
        look = ["d"] * 8 + [""] * int(dwell[1]) + ["a"] * 8
        return (look + [""] * chunks)[:chunks]
    match name:
        case "forward":
            return ["w"] * chunks
        case "out_and_back":
            return (["w"] * half + ["s"] * (chunks - half)) if chunks > 1 else ["w"]
        case "loop":
            return ["wd"] * chunks
        case "spin360":
            return ["d"] * chunks
        case "look_away":  # turn away for up to 8 chunks, wait, and turn back
            turn = min(8, max(1, chunks // 3))
            wait = max(0, chunks - 2 * turn)
            return (["d"] * turn + [""] * wait + ["a"] * turn)[:chunks]
        case "random_walk":
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_WALK_STREAM,)))
            keys: list[str] = []
            while len(keys) < chunks:
                keys += [str(rng.choice(["w", "wa", "wd", "a", "d", "j", "l", "s", "i", "k"]))] * int(
                    rng.integers(1, 5)
                )
            return keys[:chunks]
        case "idle":
            return [""] * chunks
        case "figure8":  # a circle to the right, a circle to the left, over and over
            return [("wd", "wa")[chunk // FULL_TURN % 2] for chunk in range(chunks)]
        case "whip_pan":  # fast looks to both sides, then a few steps on
            swing = ["d"] * 4 + ["a"] * 8 + ["d"] * 4 + ["w"] * 2
            return [swing[chunk % len(swing)] for chunk in range(chunks)]
    raise AssertionError(f"trajectory {name!r} is in the list but not made")


def held_keys(keys: str) -> Tensor:
    """Return `(8,)` bool, the held keys of a string such as "wd"."""
    return torch.tensor([key in keys for key in KEYS])


def resolver(scene: Scene, radius: float = RADIUS) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the collision hook of `kinematics` that slides along the geometry of `scene`."""
    return lambda start, end: slide(scene, start, end, radius)[0].to(end.device)


def walk_keys(
    scene: Scene, start: Tensor, keys: list[str], motion: KeyMotion = MOTION, chunk_frames: int = CHUNK
) -> Tensor:
    """Return the poses `(B, 1 + chunk_frames * len(keys), 4, 4)` of one key list walked in all scenes.

    start: `(B, 4, 4)` absolute poses. keys: held keys per chunk, as `trajectory` returns them.
    """
    state = start_motion(start.shape[0])._replace(c2w=start.double())
    poses = [start.double()[:, None]]
    for chunk in keys:
        path, state = step_keys(
            state, held_keys(chunk).expand(start.shape[0], 8), chunk_frames, motion, resolver(scene)
        )
        poses.append(path)
    return torch.cat(poses, dim=1)


def training_paths(
    scene: Scene, generator: torch.Generator, frames: int, start: Tensor | None = None
) -> Tensor:
    """Return collision-free absolute poses `(B, frames, 4, 4)` float64, the start pose first.

    Per clip one style: held keys of a walker who turns when blocked (most), uniformly random keys, random
    body twists, or a named trajectory. `start` `(B, 4, 4)` replaces the drawn start poses. Only the generator
    and the scenes decide.
    """
    batch = scene.light.shape[0]
    seeds = torch.randint(0, 2**31 - 1, (batch,), generator=generator).tolist()
    if start is None:
        start = torch.stack([start_pose(select(scene, [slot]), seed) for slot, seed in enumerate(seeds)])
    rngs = [np.random.default_rng(seed) for seed in seeds]
    walkers = [_walker(rng) for rng in rngs]
    on_twists = [slot for slot, walker in enumerate(walkers) if isinstance(walker, _Twister)]
    on_keys = [slot for slot in range(batch) if slot not in on_twists]
    chunks = math.ceil((frames - 1) / CHUNK)
    out = start.double()[:, None].repeat(1, 1 + chunks * CHUNK, 1, 1)
    for slots in (on_keys, on_twists):
        if not slots:
            continue
        part = select(scene, slots)
        hook = resolver(part)
        state = start_motion(len(slots))._replace(c2w=start.double()[slots])
        poses = [state.c2w[:, None]]
        blocked = [False] * len(slots)
        for _ in range(chunks):
            commands = [
                walkers[slot].next(rngs[slot], state.c2w[row], blocked[row]) for row, slot in enumerate(slots)
            ]
            command = torch.stack(commands)
            if slots is on_keys:
                path, after = step_keys(state, command, CHUNK, MOTION, hook)
                wanted = after.velocity[:, :2].norm(dim=-1) * CHUNK
            else:
                path, after = step_twists(state, command[:, None].expand(-1, CHUNK, -1), hook)
                wanted = command[:, :3].norm(dim=-1) * CHUNK
            moved = (after.c2w[:, :3, 3] - state.c2w[:, :3, 3]).norm(dim=-1)
            blocked = (moved < 0.6 * wanted).tolist()
            state = after
            poses.append(path)
        out = put(out, slots, torch.cat(poses, dim=1))
    return out[:, :frames]


class _Walker:
    """Holds a drawn key combination for one to four chunks; turns or backs off when blocked."""

    CHOICES = ("w", "wa", "wd", "a", "d", "s", "j", "l", "i", "k", "", "wj", "wl", "sa", "wi", "wk")
    WEIGHTS = np.array([28, 9, 9, 11, 11, 4, 4, 4, 3, 3, 4, 2, 2, 2, 2, 2]) / 100

    def __init__(self, uniform: bool) -> None:
        self.uniform, self.keys, self.left, self.lean = uniform, "", 0, 0

    def next(self, rng: np.random.Generator, c2w: Tensor, blocked: bool) -> Tensor:
        if self.uniform:  # an untrained agent: one of nine keys on every chunk
            return held_keys(str(rng.choice(["", *KEYS])))
        if blocked and rng.random() < 0.85:
            self.keys, self.left = (
                str(rng.choice(["a", "d", "s", "sa", "sd"], p=[0.37, 0.37, 0.1, 0.08, 0.08])),
                3,
            )
        if self.left == 0:
            self.keys, self.left = str(rng.choice(self.CHOICES, p=self.WEIGHTS)), int(rng.integers(1, 5))
            up = -float(c2w[1, 2])  # sine of the pitch
            if abs(up) > 0.3 and rng.random() < 0.7:  # look back to the horizon
                self.keys, self.left = ("k" if up > 0 else "i") + ("w" if rng.random() < 0.5 else ""), 2
        self.left -= 1
        return held_keys(self.keys)


class _Follower:
    """Plays a named trajectory, over and over; once blocked for long, walks on as a walker."""

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.chunk, self.patience, self.walker = keys, 0, 4, _Walker(uniform=False)

    def next(self, rng: np.random.Generator, c2w: Tensor, blocked: bool) -> Tensor:
        self.chunk += 1
        self.patience -= blocked
        if self.patience < 0:
            return self.walker.next(rng, c2w, blocked)
        return held_keys(self.keys[(self.chunk - 1) % len(self.keys)])


class _Twister:
    """Holds a random body twist for one to four chunks; levels out when tilted, turns when blocked."""

    def __init__(self) -> None:
        self.twist, self.left = np.zeros(6), 0

    def next(self, rng: np.random.Generator, c2w: Tensor, blocked: bool) -> Tensor:
        if self.left == 0 or (blocked and rng.random() < 0.8):
            scale = np.array([0.5, 0.35, 1.0, 0.35, 0.7, 0.3]) * rng.uniform(0.2, 1.0, 6)
            kept = rng.random(6) < [0.25, 0.2, 0.7, 0.25, 0.6, 0.2]
            self.twist = np.where(kept, scale * rng.choice([-1.0, 1.0], 6), 0.0)
            if blocked:
                self.twist[4], self.twist[2] = rng.choice([-0.8, 0.8]), 0.0
            elif rng.random() < 0.75:
                self.twist[2] = abs(self.twist[2])
            self.left = int(rng.integers(1, 5))
            up, tilt, low = -float(c2w[1, 2]), float(c2w[1, 0]), float(c2w[1, 3]) + EYE_HEIGHT
            if abs(up) > 0.35:
                self.twist[3] = -math.copysign(0.5, up)
            if abs(tilt) > 0.25:
                self.twist[5] = -math.copysign(0.4, tilt)
            if abs(low) > 0.5:
                self.twist[1] = -math.copysign(0.3, low)
        self.left -= 1
        limit = np.array([MOTION.translation_speed] * 3 + [math.radians(MOTION.rotation_speed_deg)] * 3)
        return torch.from_numpy(self.twist * limit)


def _walker(rng: np.random.Generator) -> _Walker | _Follower | _Twister:
    style = rng.random()
    if style < 0.45:
        return _Walker(uniform=False)
    if style < 0.57:
        return _Walker(uniform=True)
    if style < 0.82:
        return _Twister()
    length = int(rng.integers(6, 33))
    name = str(rng.choice(["forward", "out_and_back", "loop", "spin360", "look_away", "idle"]))
    keys = trajectory(name, length if name != "idle" else 8)
    if rng.random() < 0.5:  # mirrored
        keys = [chunk.translate(str.maketrans("adjl", "dalj")) for chunk in keys]
    return _Follower(keys)

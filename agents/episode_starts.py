"""Which episodes of ObjectNav are played: any, those with the beacon near, those that begin with it in view.

    steps = |bearing| / (degrees a step) + max(0, walking distance - radius) / (metres a step)

    any       every start
    near      one or two rooms, at most NEAR_STEPS steps to the beacon
    in-view   near, and the beacon is in the start picture: a learned world, which is told nothing but that
              picture, can only then know where the beacon is

The rule looks at the true scene, as a task does; nothing of it reaches a world or a policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice

from gymnasium.utils import seeding

from wm_env.agents.evaluate import FIRST_SEED
from wm_env.episodes import draw_seeds
from wm_env.model.names import unknown
from wm_env.model.scenes.free_space import distance_field, line_of_sight
from wm_env.model.scenes.layouts import HEAD_RADIUS
from wm_env.model.scenes.paths import start_fov_deg, start_pose
from wm_env.model.scenes.worlds import make_scene
from wm_env.tasks.navigation import ObjectNav
from wm_env.twin import TWIN_SPEC

STARTS = ("any", "near", "in-view")
NEAR_STEPS, NEAR_ROOMS = 30, 2
_STEP_METRES = TWIN_SPEC.max_translation * TWIN_SPEC.frames_per_step
_STEP_DEGREES = TWIN_SPEC.max_rotation_deg * TWIN_SPEC.frames_per_step


def check_starts(starts: str, task: str) -> None:
    """Raise `ValueError` where `starts` is no rule, or a rule about beacons for a task without one."""
    if starts not in STARTS:
        raise ValueError(unknown("starts", starts, STARTS))
    if starts != "any" and task != "objectnav":
        raise ValueError(f"starts={starts!r} is about the beacon of objectnav; task {task!r} takes 'any'")


def fits(scene_seed: int, split: str, starts: str) -> bool:
    """Return whether the start of a scene seed is one of `starts`."""
    if starts == "any":
        return True
    scene = make_scene(scene_seed, split)
    if int(scene.counts[0, 0]) > NEAR_ROOMS:
        return False
    pose, beacon = start_pose(scene, scene_seed), scene.sphere[0, :3].double()  # (4, 4), (3,)
    ahead = pose[:3, :3].T @ (beacon - pose[:3, 3])  # (3,) in camera axes
    bearing = abs(math.degrees(math.atan2(float(ahead[0]), float(ahead[2]))))
    seen = bool(line_of_sight(scene, pose[:3, 3], beacon, tolerance=HEAD_RADIUS + 0.02)[0])
    in_view = seen and bearing < start_fov_deg(scene_seed) / 2
    if starts == "in-view" and not in_view:
        return False
    metres = float(distance_field(scene, beacon).at(pose[None, :3, 3])[0])
    steps = bearing / _STEP_DEGREES + max(0.0, metres - ObjectNav().radius) / _STEP_METRES
    return steps <= NEAR_STEPS


def training_scenes(starts: str, number: int, split: str) -> tuple[int, ...] | None:
    """Return the first `number` scene seeds of `split` that fit; None (draw freely) for any."""
    if starts == "any":
        return None
    return tuple(islice((seed for seed in count() if fits(seed, split, starts)), number))


def evaluation_seeds(starts: str, number: int, split: str) -> list[int]:
    """Return the first `number` episode seeds from `FIRST_SEED` on whose scene fits, the same everywhere."""
    return list(islice(_fitting(starts, split), number))


def _fitting(starts: str, split: str) -> Iterator[int]:
    for seed in count(FIRST_SEED):
        generator, _ = seeding.np_random(seed)
        if fits(draw_seeds(generator)[0], split, starts):
            yield seed

"""What a drift benchmark walks: groups of walks, and every row of rollouts along them.

Rows beside the world: the first frame repeated, the autoencoder alone, the twin rendered again, the world
shown the poses of an unrelated walk, the world with a part removed, the world fed with the true history, and
the floor of the latter: the last true frame of the chunk before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.bench.walks import (
    Rolled,
    Tick,
    Walks,
    codec_only,
    copy_last,
    repeat_first,
    roll_out,
    starts,
    teacher_forced,
    ticking,
    walk,
    walks,
)
from wm_env.contexts import SCENE_CONTEXTS
from wm_env.images import StartImage
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.paths import TRAJECTORIES, check_trajectory, trajectory
from wm_env.model.world import Start, World
from wm_env.twin import twin_like

ESTIMATE = 6  # env steps that a pose estimate takes as long as, on a CPU
UNRELATED = 1_000_003  # seed offset of the walk that shuffled actions come from
REPEAT, CODEC, TWIN, SHUFFLED, FORCED, COPY = (
    *("repeat first frame", "codec alone", "twin", "shuffled actions"),
    *("teacher forced", "copy last true frame"),
)


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """What is walked.

    scenes, seed: scene seeds SEED .. SEED + scenes - 1 of `split`. seeds: noise seeds of every scene. steps:
    env steps. batch: scenes of a group. pose_every: frames between two pose estimates, 0 for none. spread:
    every scene walks one of the trajectories, in turn, instead of all of them. context: what the worlds are
    shown before, "none", "turn" or "walk".
    """

    trajectories: tuple[str, ...] = TRAJECTORIES
    split: str = "val"
    scenes: int = 32
    seeds: int = 1
    seed: int = 0
    steps: int = 64
    batch: int = 8
    pose_every: int = 8
    spread: bool = False
    context: str = "none"

    def __post_init__(self) -> None:
        if not self.trajectories:
            raise ValueError(f"no trajectory is given; known are {', '.join(TRAJECTORIES)}")
        for name in self.trajectories:
            check_trajectory(name)
        for name in ("scenes", "seeds", "steps", "batch"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.spread and self.scenes < len(self.trajectories):
            raise ValueError(
                f"{self.scenes} scenes cannot be spread over {len(self.trajectories)} trajectories"
            )
        if self.context not in ("none", *SCENE_CONTEXTS):
            raise ValueError(f"context={self.context!r} must be none, {' or '.join(SCENE_CONTEXTS)}")
        if self.pose_every < 0 or self.seed < 0:
            raise ValueError(f"pose_every={self.pose_every} and seed={self.seed} must not be negative")


class Group(NamedTuple):
    """Walks that are rolled together.

    scenes: their seeds. told: what a world is told, by noise seed. c2w: commanded poses relative to the start
    `(B, 1 + F, 4, 4)`. unrelated: those of another walk. truth: None for a user's image.
    """

    scenes: list[int]
    told: Callable[[World, int], list[Start]]
    c2w: Tensor
    unrelated: Tensor
    truth: Walks | None


def rows_per_scene(worlds: Mapping[str, World], settings: DriftSettings, scenes: bool) -> int:
    """Return how many rows `rollouts` makes for one trajectory and scene."""
    first, world = next(iter(worlds.items()))
    noisy = len(worlds) + int(not world.spec.sees_scene)
    once = 2 + int(first != TWIN) + 2 * int(isinstance(world, LearnedWorld)) if scenes else 0
    return settings.seeds * noisy + once


def scene_group(world: World, settings: DriftSettings, name: str, scenes: list[int]) -> Group:
    truth = walks(
        world.spec,
        split=settings.split,
        seeds=scenes,
        keys=[trajectory(name, settings.steps, seed) for seed in scenes],
    )

    def told(asked: World, noise: int) -> list[Start]:
        begun = starts(asked, truth, settings.context)
        return [replace(start, noise_seed=start.noise_seed + UNRELATED * noise) for start in begun]

    return Group(scenes, told, truth.c2w, _unrelated(world, settings, scenes), truth)


def image_group(world: World, settings: DriftSettings, name: str, image: StartImage, prompt: str) -> Group:
    keys = [trajectory(name, settings.steps, settings.seed)]
    c2w = walk(world.spec, None, torch.eye(4, dtype=torch.float64)[None], keys)

    def told(asked: World, noise: int) -> list[Start]:
        return [
            Start(
                image=image.pixels,
                intrinsics=image.intrinsics,
                prompt=prompt,
                noise_seed=settings.seed + UNRELATED * noise,
            )
        ]

    return Group([settings.seed], told, c2w, _unrelated(world, settings, [settings.seed]), None)


def _unrelated(world: World, settings: DriftSettings, scenes: list[int]) -> Tensor:
    """Return poses `(B, 1 + F, 4, 4)` of random walks that have nothing to do with the scenes."""
    keys = [trajectory("random_walk", settings.steps, seed + UNRELATED) for seed in scenes]
    return walk(world.spec, None, torch.eye(4, dtype=torch.float64).repeat(len(scenes), 1, 1), keys)


def steps_per_scene(
    worlds: Mapping[str, World], settings: DriftSettings, scenes: bool, compared: int = 1
) -> int:
    """Return the work of one trajectory and scene in env steps, pose estimates weighed.

    compared: how many worlds' poses are estimated.
    """
    first, world = next(iter(worlds.items()))
    noisy = len(worlds) + int(not world.spec.sees_scene)
    once = int(first != TWIN) + int(isinstance(world, LearnedWorld)) if scenes else 0
    work = settings.steps * (settings.seeds * noisy + once)
    if scenes and settings.pose_every:
        estimates = settings.steps * world.spec.frames_per_step // settings.pose_every
        work += settings.seeds * compared * estimates * ESTIMATE
    return work


def rollouts(
    worlds: Mapping[str, World], group: Group, noise: int, tick: Tick
) -> Iterator[tuple[str, Rolled]]:
    """Yield (row name, what was made); rows without noise only for the first seed. tick: counts env steps."""
    first, world = next(iter(worlds.items()))
    watch = ticking(tick, len(group.scenes))
    for row, asked in worlds.items():
        yield row, roll_out(asked, group.told(asked, noise), group.c2w, watch)
    if not world.spec.sees_scene:
        yield SHUFFLED, roll_out(world, group.told(world, noise), group.unrelated, watch)
    if group.truth is None or noise:
        return
    yield REPEAT, Rolled(repeat_first(group.truth), None)
    yield COPY, Rolled(copy_last(group.truth, world.spec.frames_per_step), None)
    if first != TWIN:
        twin = twin_like(world.spec)
        yield TWIN, roll_out(twin, starts(twin, group.truth), group.c2w, watch)
    if isinstance(world, LearnedWorld):
        yield CODEC, Rolled(codec_only(world, group.truth), None)
        yield FORCED, Rolled(teacher_forced(world, group.told(world, noise), group.truth, watch), None)

"""Films that are shown up to a moment, and what a world makes of the part that is held out.

Of scenes the film is two full turns on the spot: the first is shown, or its last chunks alone, and the world
has to draw the second, in which every view comes back, up to the last before the start picture. Of clips of
one's own the last chunks are held out, and the ones right before them are shown. Poses are the film's;
nothing is acted. Legend: `B` films, `F` pixel frames held out, `K` frames a chunk, `n` chunks shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.seen import seen_from
from wm_env.bench.walks import Tick, contexts, roll, steps_around, ticking, walks
from wm_env.contexts import STEPS, clip_context, turn
from wm_env.model.geometry import relative_to_first
from wm_env.model.world import Context, PosedFrames, Start, World


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """What is shown and held out.

    shown: chunks of the film that are committed before the held-out part, 0 for one picture. split, scenes,
    seed: scene seeds SEED .. SEED + scenes - 1. clips: names of clips, instead of scenes. held_out: chunks at
    the end of a clip that are predicted. batch: films a world call.
    """

    shown: tuple[int, ...] = (0, 1, 4, 16, 25)
    split: str = "val"
    scenes: int = 32
    seed: int = 0
    clips: tuple[str, ...] = ()
    held_out: int = 8
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("scenes", "held_out", "batch"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if not self.shown or min(self.shown) < 0 or sorted(set(self.shown)) != list(self.shown):
            raise ValueError(f"shown={self.shown} must be different numbers of chunks from 0 on, rising")
        if not self.clips and max(self.shown) > STEPS:
            raise ValueError(f"shown={self.shown}: the turn that scenes are shown has {STEPS} chunks")


class Films(NamedTuple):
    """Films cut in two.

    before: the shown frames of each, `1 + K n` for the largest n, poses relative to the start. frames uint8
    `(B, 1 + F, h, w, 3)`, c2w `(B, 1 + F, 4, 4)` float64 relative to it: the start, and what is held out.
    intrinsics: `(fx, fy, cx, cy)` of each. prompts, noise_seeds: one each. seen: chunks shown to which pixels
    they have shown of the last frame of every held-out chunk, `(B, F/K, h, w)` bool; None where nobody knows.
    """

    before: list[PosedFrames]
    frames: Tensor
    c2w: Tensor
    intrinsics: list[tuple[float, float, float, float]]
    prompts: list[str]
    noise_seeds: list[int]
    seen: Callable[[int], Tensor] | None


def films_of_scenes(world: World, settings: ContextSettings) -> Films:
    """Return a turn to see and a turn to draw in every scene."""
    spec = world.spec
    seeds = range(settings.seed, settings.seed + settings.scenes)
    keys = [["d"] * (steps_around(spec) - 1)] * len(seeds)
    truth = walks(spec, split=settings.split, seeds=seeds, keys=keys)
    ends = torch.arange(spec.frames_per_step, truth.frames.shape[1], spec.frames_per_step)

    def seen(shown: int) -> Tensor:
        poses = turn(spec.frames_per_step)[-1 - shown * spec.frames_per_step :: spec.frames_per_step]
        return seen_from(truth, poses.expand(len(seeds), -1, -1, -1), ends)

    told = [context for context in contexts(spec, truth, "turn") if context is not None]
    cameras = [(fx, fy, cx, cy) for fx, fy, cx, cy in truth.intrinsics.tolist()]
    return Films(
        before=[context.load() for context in told],
        frames=truth.frames,
        c2w=truth.c2w,
        intrinsics=cameras,
        prompts=list(truth.prompts),
        noise_seeds=list(truth.noise_seeds),
        seen=seen,
    )


def films_of_clips(world: World, paths: Sequence[Path], settings: ContextSettings) -> Films:
    """Return clips, their last `held_out` chunks held out.

    Raises `ValueError` naming the clip that is too short.
    """
    step = world.spec.frames_per_step
    need = 1 + step * (max(settings.shown) + settings.held_out)
    before, frames, c2w, cameras, prompts = [], [], [], [], []
    for path in paths:
        clip = clip_context(path, world.spec)
        if clip.context.length < need:
            raise ValueError(
                f"{path} has {clip.context.length} frames at the world's rate; {max(settings.shown)} chunks "
                f"shown and {settings.held_out} held out are {need}: show fewer, or film longer"
            )
        seen = clip.context.load()
        start = len(seen.frames) - 1 - step * settings.held_out
        poses = relative_to_first(torch.from_numpy(seen.c2w[start:])[None].double())[0]
        back = np.linalg.inv(seen.c2w[start])
        earlier = back @ seen.c2w[start - step * max(settings.shown) : start + 1]
        earlier[-1] = np.eye(4)
        before.append(PosedFrames(seen.frames[start - step * max(settings.shown) : start + 1], earlier))
        frames.append(torch.from_numpy(seen.frames[start:].copy()))
        c2w.append(poses)
        cameras.append(clip.intrinsics)
        prompts.append(clip.caption or "")
    return Films(
        before=before,
        frames=torch.stack(frames),
        c2w=torch.stack(c2w),
        intrinsics=cameras,
        prompts=prompts,
        noise_seeds=[settings.seed + index for index in range(len(frames))],
        seen=None,
    )


def starts(films: Films, slots: range, shown: int, step: int) -> list[Start]:
    """Return what a world is told of films `slots` with `shown` chunks of `step` frames before the start."""
    told = []
    for slot in slots:
        before, context = films.before[slot], None
        if shown:
            seen = PosedFrames(*(part[-1 - step * shown :] for part in before))
            context = Context(length=1 + step * shown, load=lambda seen=seen: seen)  # type: ignore[misc]
        told.append(
            Start(
                image=before.frames[-1],
                intrinsics=films.intrinsics[slot],
                prompt=films.prompts[slot],
                noise_seed=films.noise_seeds[slot],
                context=context,
            )
        )
    return told


def drawn(world: World, films: Films, shown: int, batch: int, tick: Tick) -> Tensor:
    """Return what a world makes of the held-out part after `shown` chunks, shaped like `films.frames`."""
    total, parts = len(films.prompts), []
    for begin in range(0, total, batch):
        slots = range(begin, min(begin + batch, total))
        told = starts(films, slots, shown, world.spec.frames_per_step)
        parts.append(roll(world, told, films.c2w[slots.start : slots.stop], ticking(tick, len(slots))))
    return torch.cat(parts)

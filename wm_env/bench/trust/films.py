"""The surprise of violations and of their controls (`wm_env.bench.trust.violations`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.trust.settings import TrustSettings
from wm_env.bench.trust.violations import Violation, violations
from wm_env.contexts import turn
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.raycast import render
from wm_env.model.surprise_null import SurpriseNull
from wm_env.model.world import Context, PosedFrames, Start
from wm_env.surprises import check_levels, watch_on

LOOKED_AT = 2  # chunks from the event's on: one that begins late in a chunk is whole in the next


def surprise_of_pairs(
    world: LearnedWorld, null: SurpriseNull, event: str, settings: TrustSettings
) -> dict[str, Any]:
    """Return the surprise of controls and events by film, of the event's chunk or the next, the larger.

    Both are watched from the same state, after a full turn.
    """
    check_levels(null, world)
    asked = settings.samples
    found = violations(world.spec, event, settings.events, settings.splits[-1], asked.seed)
    told: dict[str, list[Any]] = {"control": [], "event": [], "seeds": [one.seed for one in found]}
    for begin in range(0, len(found), asked.batch):
        part = found[begin : begin + asked.batch]
        _, state = world.begin([start_of(world, one) for one in part])
        c2w = torch.stack([one.c2w for one in part])
        for name in ("control", "event"):
            films: Tensor = torch.stack([one.control if name == "control" else one.event for one in part])
            seen, _ = watch_on(world, state, films, c2w)
            surprise = null.surprise(seen)  # (B, n)
            told[name] += [
                float(np.max(row[one.chunk : one.chunk + LOOKED_AT]))
                for row, one in zip(surprise, part, strict=True)
            ]
    return told


def start_of(world: LearnedWorld, one: Violation) -> Start:
    """Return the start of a violation's films: a full turn in the scene as it is before the event."""
    poses = turn(world.spec.frames_per_step)
    camera = torch.tensor([one.intrinsics], dtype=torch.float64)
    frames, _ = render(one.scene, (one.start_c2w @ poses)[None], camera, *world.spec.frame_size)
    pictures = frames[0].numpy()
    pictures[-1] = one.control[0].numpy()
    seen = PosedFrames(pictures, poses.numpy())
    return Start(
        image=pictures[-1],
        intrinsics=one.intrinsics,
        prompt=one.prompt,
        noise_seed=one.seed,
        context=Context(length=len(pictures), load=lambda: seen),
    )

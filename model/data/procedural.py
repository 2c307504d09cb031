"""Clips rendered from procedural scenes: rooms, camera paths like those of an agent, captions with events.

Clip i of a split is a pure function of (split, i): its scene, path, field of view and event all come from
that seed. So shards can be rendered in any order, by several processes, and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.clip import write_shard
from wm_env.model.geometry import relative_to_first
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.captions import EVENTS, caption, with_prompt
from wm_env.model.scenes.paths import start_fov_deg, training_paths
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene, make_scene


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What is rendered: `frames` = 4k + 1 per clip; an event happens in `event_fraction` of the clips."""

    split: str = "train"
    clips: int = 3000
    frames: int = 69
    size: int = 64
    clips_per_shard: int = 50
    event_fraction: float = 0.25
    first_seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 9 or (self.frames - 1) % 4:  # an event needs a chunk before it and one after
            raise ValueError(f"frames={self.frames} does not fit the VAE: need 4k+1, at least 9")
        if self.clips < 1 or self.clips_per_shard < 1 or self.size % 16:
            raise ValueError(f"clips and clips_per_shard must be positive, size a multiple of 16: {self}")


def draw_event(scene: Scene, generator: torch.Generator) -> tuple[str, Scene]:
    """Return a prompt that changes the scene, and the changed scene.

    Half of the prompts name the event ("fog comes"), half are the full caption of what is there after it.
    """
    before = caption(scene)[0]
    for choice in torch.randperm(len(EVENTS), generator=generator).tolist():
        changed = with_prompt(scene, [EVENTS[choice]])
        after = caption(changed)[0]
        if after != before:
            named = float(torch.rand((), generator=generator)) < 0.5
            return (EVENTS[choice] if named else after), changed
    raise AssertionError("some event changes every scene")


class ClipPlan(NamedTuple):
    """Everything about one clip but its pixels.

    parts: the scene, and after an event the changed one; part i is seen from frame starts[i] up to
    starts[i + 1]. captions: one text per part. c2w: `(1, F, 4, 4)` float64, absolute. intrinsics: `(1, 4)`
    float32 in pixels.
    """

    parts: tuple[Scene, ...]
    starts: tuple[int, ...]
    captions: tuple[str, ...]
    c2w: Tensor
    intrinsics: Tensor


def plan_clip(seed: int, config: RenderConfig) -> ClipPlan:
    """Return scene, path, field of view and event of a clip.

    An event (light, fog or beacon colour changes) begins with the first frame of a random chunk.
    """
    generator = torch.Generator().manual_seed(seed * 2 + 1)
    scene = make_scene(seed, config.split)
    c2w = training_paths(scene, generator, config.frames)  # (1, F, 4, 4)
    focal = intrinsics_from_fov(start_fov_deg(seed), config.size, config.size)
    intrinsics = torch.tensor([focal], dtype=torch.float32)
    if float(torch.rand((), generator=generator)) < config.event_fraction:
        chunks = (config.frames - 1) // 4
        chunk = int(torch.randint(1, chunks, (), generator=generator))  # chunk t is frames 4t-3 .. 4t
        prompt, changed = draw_event(scene, generator)
        starts = (0, 4 * chunk - 3, config.frames)
        return ClipPlan((scene, changed), starts, (caption(scene)[0], prompt), c2w, intrinsics)
    return ClipPlan((scene,), (0, config.frames), (caption(scene)[0],), c2w, intrinsics)


def render_frames(plan: ClipPlan, frames: Sequence[int], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rgb uint8 `(n, H, W, 3)`, depth `(n, H, W)` float16 and part `(n,)` int64 of some frames."""
    wanted = torch.tensor(frames)
    part = torch.bucketize(wanted, torch.tensor(plan.starts[1:]), right=True)
    rgb = torch.empty(len(frames), size, size, 3, dtype=torch.uint8)
    depth = torch.empty(len(frames), size, size, dtype=torch.float16)
    for which, scene in enumerate(plan.parts):
        rows = (part == which).nonzero()[:, 0]
        if len(rows):
            colours, z = render(scene, plan.c2w[:, wanted[rows]], plan.intrinsics, size, size)
            rgb[rows], depth[rows] = colours[0], z[0].clamp(max=1000.0).half()
    return rgb, depth, part


def render_clip(seed: int, config: RenderConfig) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of one clip (no leading axis) and its captions, one, or two with an event."""
    plan = plan_clip(seed, config)
    rgb, depth, part = render_frames(plan, range(config.frames), config.size)
    arrays = {
        "rgb": rgb.numpy(),
        "depth": depth.numpy(),
        "c2w": relative_to_first(plan.c2w)[0].float().numpy(),
        "intrinsics": plan.intrinsics[0].numpy(),
        "caption": part.to(torch.int16).numpy(),
    }
    return arrays, list(plan.captions)


def render_shards(
    folder: Path,
    config: RenderConfig,
    report: Callable[[int, int], None] | None = None,
    *,
    rank: int = 0,
    of: int = 1,
) -> None:
    """Render the clips of `config` into `folder`, skipping shards that are already there.

    report: called with (clips done, clips in all). rank, of: render shards `rank`, `rank + of`, ... only, as
    one of several workers.
    """
    if not 0 <= rank < of:
        raise ValueError(f"rank={rank} must be in 0 .. {of - 1}")
    shards = -(-config.clips // config.clips_per_shard)
    for number in range(rank, shards, of):
        target = folder / f"shard-{number:05d}"
        if target.exists():
            continue
        begin = number * config.clips_per_shard
        end = min(config.clips, begin + config.clips_per_shard)
        table: list[str] = []
        rows: list[dict[str, np.ndarray]] = []
        for seed in range(config.first_seed + begin, config.first_seed + end):
            arrays, captions = render_clip(seed, config)
            arrays["caption"] = arrays["caption"] + np.int16(len(table))
            table += captions
            rows.append(arrays)
            if report is not None and seed + 1 < config.first_seed + end:
                report(seed + 1 - config.first_seed, config.clips)
        write_shard(target, {name: np.stack([row[name] for row in rows]) for name in rows[0]}, table)
        if report is not None:
            report(end, config.clips)

"""Clips rendered from procedural scenes: rooms, camera paths like those of an agent, captions with events.

Clip i of a split is a pure function of (split, i): its scene, path, field of view and event all come from
that seed. So shards can be rendered in any order, by several processes, and resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wm_env.model.data.clip import write_shard
from wm_env.model.geometry import intrinsics_from_fov, relative_to_first
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
        if self.frames < 5 or (self.frames - 1) % 4:
            raise ValueError(f"frames={self.frames} does not fit the VAE: need 4k+1, at least 5")
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


def render_clip(seed: int, config: RenderConfig) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of one clip (no leading axis) and its captions, one, or two with an event.

    An event (light, fog or beacon colour changes) begins with the first frame of a random chunk.
    """
    generator = torch.Generator().manual_seed(seed * 2 + 1)
    scene = make_scene(seed, config.split)
    c2w = training_paths(scene, generator, config.frames)  # (1, F, 4, 4)
    focal = intrinsics_from_fov(start_fov_deg(seed), config.size, config.size)
    intrinsics = torch.tensor([focal], dtype=torch.float32)
    captions, parts, starts = caption(scene), [scene], [0, config.frames]
    if float(torch.rand((), generator=generator)) < config.event_fraction:
        chunks = (config.frames - 1) // 4
        chunk = int(torch.randint(1, chunks, (), generator=generator))  # chunk t is frames 4t-3 .. 4t
        prompt, changed = draw_event(scene, generator)
        captions, parts, starts = [captions[0], prompt], [scene, changed], [0, 4 * chunk - 3, config.frames]
    rgb, depth, ids = [], [], []
    for which, (part, begin, end) in enumerate(zip(parts, starts[:-1], starts[1:], strict=True)):
        colours, z = render(part, c2w[:, begin:end], intrinsics, config.size, config.size)
        rgb.append(colours[0])
        depth.append(z[0])
        ids.append(torch.full((end - begin,), which, dtype=torch.int16))
    arrays = {
        "rgb": torch.cat(rgb).numpy(),
        "depth": torch.cat(depth).clamp(max=1000.0).half().numpy(),
        "c2w": relative_to_first(c2w)[0].float().numpy(),
        "intrinsics": intrinsics[0].numpy(),
        "caption": torch.cat(ids).numpy(),
    }
    return arrays, captions


def render_shards(
    folder: Path, config: RenderConfig, report: Callable[[int, int], None] | None = None
) -> None:
    """Render the clips of `config` into `folder`, skipping shards that are already there."""
    shards = -(-config.clips // config.clips_per_shard)
    for number in range(shards):
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
        write_shard(target, {name: np.stack([row[name] for row in rows]) for name in rows[0]}, table)
        if report is not None:
            report(number + 1, shards)

"""Clips rendered when they are read: interfaces of `ClipShards` and `LatentShards` without a byte on disk.

Clip i is a function of (split, i), as in `procedural.py`, and which clips a step reads is drawn from the
training's own generator. So a run on rendered clips resumes exactly from the generator's state, and any
number of rendering processes gives the same batches. A folder that holds `rendered.json` (a `RenderConfig`)
stands for such a set; `open_clips` and `open_latents` open either kind.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.clip import Clip, ClipShards
from wm_env.model.data.latents import LatentClip, LatentShards
from wm_env.model.data.procedural import ClipPlan, RenderConfig, plan_clip, render_frames
from wm_env.model.geometry import relative_to_first
from wm_env.model.pixels import to_pixels
from wm_env.model.storage.atomic import write_atomic
from wm_env.model.vae.tiny import GROUP, TinyVAE
from wm_env.model.workers import Workers

RECIPE = "rendered.json"
_SAMPLE = 16  # clips whose latents channel statistics are taken from

Pick = Sequence[int] | slice


class _Job(NamedTuple):
    clip: int
    frames: tuple[int, ...]
    config: RenderConfig


class RenderedClips:
    """The clips of a `RenderConfig` as one indexed set; frames are rendered when they are read, no others.

    workers: processes that render the clips of a batch side by side; 0 renders in this one.
    """

    def __init__(self, config: RenderConfig, workers: int = 0) -> None:
        if workers < 0:
            raise ValueError(f"workers={workers} must not be negative")
        self.config = config
        self._numbers: dict[str, int] = {}  # of the captions met so far
        self._pool = Workers(workers) if workers else None

    def close(self) -> None:
        """End the processes that render."""
        if self._pool is not None:
            self._pool.close()

    def __len__(self) -> int:
        return self.config.clips

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.config.frames

    @functools.cached_property
    def captions(self) -> list[str]:
        """Table that `Clip.caption` indexes: all captions without repeats; costs the path of every clip."""
        for index in range(len(self)):
            self._caption_numbers(index)
        return list(self._numbers)

    def poses(self, index: int) -> Tensor:
        """Return the poses `(F, 4, 4)` of clip `index`, relative to its frame 0."""
        return relative_to_first(self._plan(index).c2w)[0].float()

    def read(self, index: int, frames: Pick = slice(None)) -> Clip:
        """Return clip `index`, all frames or the given ones. The poses stay relative to frame 0."""
        return self._clip(index, frames, *_render(self._job(index, frames)))

    def read_many(self, indices: Sequence[int], frames: Sequence[Pick]) -> Clip:
        """Return a batch: clip `indices[i]` at `frames[i]`, all of the same length."""
        jobs = [self._job(i, f) for i, f in zip(indices, frames, strict=True)]
        drawn: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
        drawn = map(_render, jobs) if self._pool is None else self._pool.map(_render, jobs)
        clips = [self._clip(job.clip, job.frames, *arrays) for job, arrays in zip(jobs, drawn, strict=True)]
        return Clip(*(torch.stack(parts) for parts in zip(*clips, strict=True)))

    def _plan(self, index: int) -> ClipPlan:
        return _plan(self.config.first_seed + index, self.config)

    def _job(self, index: int, frames: Pick) -> _Job:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        pick = range(self.frames)[frames] if isinstance(frames, slice) else frames
        return _Job(index, tuple(pick), self.config)

    def _clip(self, index: int, frames: Pick, rgb: np.ndarray, depth: np.ndarray, part: np.ndarray) -> Clip:
        plan = self._plan(index)
        own = torch.tensor(self._caption_numbers(index))
        pick = frames if isinstance(frames, slice) else list(frames)
        return Clip(
            torch.from_numpy(rgb),
            torch.from_numpy(depth).float(),
            self.poses(index)[pick],
            plan.intrinsics[0],
            own[torch.from_numpy(part)],
        )

    def _caption_numbers(self, index: int) -> list[int]:
        return [self._numbers.setdefault(text, len(self._numbers)) for text in self._plan(index).captions]


Clips = ClipShards | RenderedClips


class RenderedLatents:
    """Rendered clips and their latents, encoded when they are read; see `LatentShards`."""

    def __init__(self, clips: RenderedClips, vae: TinyVAE) -> None:
        self.clips, self.vae = clips, vae

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def captions(self) -> list[str]:
        """Table that `clip.caption` indexes."""
        return self.clips.captions

    @property
    def groups(self) -> int:
        """Latent frames of a clip."""
        return (self.clips.frames - 1) // GROUP + 1

    @functools.cached_property
    def z(self) -> np.ndarray:
        """Latents `(n, T, C, h, w)` float16 of the first clips (at most 16), for statistics of channels."""
        count = min(_SAMPLE, len(self))
        return self.read(range(count), [0] * count, self.groups).z.half().numpy()

    @torch.no_grad()
    def read(self, indices: Sequence[int], first: Sequence[int], groups: int) -> LatentClip:
        """Return `groups` latents of clips `indices` from latent frame `first[i]` on, and their frames."""
        device = self.vae.latent_mean.device
        seen = self.clips.read_many(indices, [_group_frames(a, groups) for a in first])
        pixels = (
            to_pixels(seen.rgb, seen.depth).unflatten(1, (groups, GROUP)).to(device)
        )  # (B, T, 4, 4, H, W)
        z = self.vae.encode_groups(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        clip = Clip(
            *(x if x is seen.intrinsics else x[:, GROUP - 1 :] for x in seen)
        )  # frames 4a .. 4(a+T-1)
        start, depth0, _ = self.vae.encode_image(clip.rgb[:, 0].to(device), clip.intrinsics.to(device))
        return LatentClip(clip, z.float().cpu(), start.float().cpu(), depth0.float().cpu())


def write_recipe(folder: Path, config: RenderConfig) -> None:
    """Make `folder` stand for the clips of `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("shard-*")):
        raise FileExistsError(f"{folder} holds rendered shards; choose another folder")
    write_atomic(folder / RECIPE, (json.dumps(dataclasses.asdict(config), indent=2) + "\n").encode())


def open_clips(folder: Path, workers: int = 0) -> Clips:
    """Return the clips of a folder: its shards, or, where it holds `rendered.json`, those it stands for."""
    if (folder / RECIPE).is_file():
        if any(folder.glob("shard-*")):
            raise ValueError(f"{folder} holds both shards and {RECIPE}; remove one of them")
        return RenderedClips(
            RenderConfig(**json.loads((folder / RECIPE).read_text(encoding="utf-8"))), workers
        )
    return ClipShards(folder)


def open_latents(clips: Path, latents: Path, vae: TinyVAE, *accepted: str) -> LatentShards | RenderedLatents:
    """Return clips with latents: cached ones (by weights of an `accepted` SHA-256), or made when read."""
    opened = open_clips(clips)
    if isinstance(opened, RenderedClips):
        return RenderedLatents(opened, vae)
    return LatentShards(clips, latents, *accepted)


@functools.lru_cache(maxsize=4096)  # about 16 kB a clip; a path takes as long as 20 frames
def _plan(seed: int, config: RenderConfig) -> ClipPlan:
    return plan_clip(seed, config)


def _render(job: _Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    plan = _plan(job.config.first_seed + job.clip, job.config)
    rgb, depth, part = render_frames(plan, job.frames, job.config.size)
    return rgb.numpy(), depth.numpy(), part.numpy()


def _group_frames(first: int, groups: int) -> list[int]:
    """Return the pixel frames of `groups` latent frames from `first` on; latent 0 is frame 0 four times."""
    return [max(0, GROUP * (first + g) - 3 + k) for g in range(groups) for k in range(GROUP)]

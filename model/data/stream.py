"""An endless stream of clips in rooms never rendered before, planned in groups, drawn on any device.

Group n holds `group` clips and is a pure function of (seed, n): their scenes, walks, cameras and events.
Plans are made on the CPU, by worker processes where there are any; the frames that a training step asks for
are ray-cast on the device that trains, as groups of four pixel frames (one latent frame each):

    plan_group(n)  ->  Plan              scenes, poses, captions: no pixels, a few kilobytes a clip
    draw(plan, ...) ->  rgb, depth       of the asked latent frames alone

`procedural.py` plans single clips, each from a seed of its own; here the walks of a group are made together,
which costs a tenth (5 instead of 30 ms a clip of 69 frames on one core).

Legend: `G` clips of a group, `T` latent frames of a clip, `F` = 4T - 3 its pixel frames.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.data.procedural import draw_event
from wm_env.model.geometry import relative_to_first
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.captions import EVENTS, caption, every_caption
from wm_env.model.scenes.paths import start_fov_deg, training_paths
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene, make_scenes
from wm_env.model.state import cat, select, tree_map
from wm_env.model.vae.tiny import GROUP
from wm_env.model.workers import Workers

FIRST_SCENE = 10_000_000  # scenes below this number belong to sets of fixed size (`procedural.py`)
SPAN = 1 << 32  # scene numbers of one seed


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What is streamed: clips of `latents` latent frames, `group` of them planned together.

    split: of the scenes. seed: of the whole stream; two seeds share no scene. size: pixels of a side.
    event_fraction: share of the clips in which light, fog or beacon change.
    """

    split: str = "train"
    seed: int = 0
    latents: int = 18
    group: int = 16
    size: int = 64
    event_fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.latents < 3 or self.group < 1 or self.size % 16 or not 0 <= self.event_fraction <= 1:
            raise ValueError(
                f"latents >= 3, group >= 1, size in steps of 16, event_fraction in [0, 1]: {self}"
            )


class Plan(NamedTuple):
    """Everything about `G` clips but their pixels.

    scenes: the parts of all clips, one each, two with an event. part `(G, T)` int64: which of them a latent
    frame shows. words `(G, T)` int64: its caption, index into `captions()`. c2w `(G, F, 4, 4)` float32
    relative to frame 0; absolute `(G, F, 4, 4)` float64. intrinsics `(G, 4)` float32 in pixels.
    """

    scenes: Scene
    part: Tensor
    words: Tensor
    c2w: Tensor
    absolute: Tensor
    intrinsics: Tensor


@functools.cache
def captions() -> tuple[str, ...]:
    """Return every text that a stream can tell: all full captions, then all events."""
    return (*every_caption(), *EVENTS)


@functools.cache
def _number(text: str) -> int:
    return captions().index(text)


def plan_group(number: int, config: StreamConfig) -> Plan:
    """Return the plan of group `number` >= 0."""
    first = FIRST_SCENE + config.seed * SPAN + number * config.group
    seeds = range(first, first + config.group)
    generator = torch.Generator().manual_seed(2 * first + 1)
    scenes = make_scenes(seeds, config.split)
    absolute = training_paths(scenes, generator, GROUP * (config.latents - 1) + 1)  # (G, F, 4, 4)
    focal = [intrinsics_from_fov(start_fov_deg(seed), config.size, config.size) for seed in seeds]
    part = torch.arange(config.group)[:, None].repeat(1, config.latents)
    told = torch.tensor([_number(text) for text in caption(scenes)])
    words = told[:, None].repeat(1, config.latents)
    extra: list[Scene] = []
    for clip in range(config.group):
        if float(torch.rand((), generator=generator)) < config.event_fraction:
            at = int(torch.randint(1, config.latents, (), generator=generator))
            prompt, changed = draw_event(select(scenes, [clip]), generator)
            part[clip, at:] = config.group + len(extra)
            words[clip, at:] = _number(prompt)
            extra.append(changed)
    every = cat([scenes, *extra]) if extra else scenes
    return Plan(every, part, words, relative_to_first(absolute).float(), absolute, torch.tensor(focal))


def standing(plan: Plan, which: Tensor, first: Tensor) -> Plan:
    """Return the plan with the cameras of some clips standing where latent frame `first` `(G,)` has them.

    which `(G,)` bool: those clips. What is told and what changes stays.
    """
    every = torch.arange(len(first))
    at = GROUP * first  # the pixel frame that a start shows
    stand = which[:, None, None, None]
    return plan._replace(
        c2w=torch.where(stand, plan.c2w[every, at][:, None], plan.c2w),
        absolute=torch.where(stand, plan.absolute[every, at][:, None], plan.absolute),
    )


def frames_of(latent: Tensor) -> Tensor:
    """Return the pixel frames `(..., 4)` int64 of latent frames; latent 0 is frame 0 four times."""
    return (GROUP * latent[..., None] - GROUP + 1 + torch.arange(GROUP, device=latent.device)).clamp_min(0)


def draw(
    plan: Plan, clip: Tensor, latent: Tensor, size: int, device: torch.device, last: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the four pixel frames of latent frames, or (`last`) the last of them alone.

    clip, latent `(n,)` int64: which latent frames of which clips. Returns rgb uint8 `(n, 4|1, H, W, 3)` and
    depth float32 `(n, 4|1, H, W)` in metres, on `device`.
    """
    scenes = tree_map(lambda x: x.to(device), select(plan.scenes, plan.part[clip, latent]))
    frames = frames_of(latent)[:, -1:] if last else frames_of(latent)  # (n, f)
    poses = plan.absolute[clip[:, None], frames]  # (n, f, 4, 4)
    rgb, depth = render(scenes, poses, plan.intrinsics[clip], size, size)
    return rgb, depth.clamp(max=1000.0)


class Stream:
    """The plans of a stream in order, from group `first` on; `workers` processes plan ahead of the reader.

    With 0 workers plans are made when they are asked for. The plans do not depend on the number of workers.
    """

    def __init__(self, config: StreamConfig, first: int = 0, workers: int = 0) -> None:
        if workers < 0 or first < 0:
            raise ValueError(f"workers={workers} and first={first} must not be negative")
        self.config, self.next, self.workers = config, first, workers
        self._pool = Workers(workers) if workers else None
        self._ahead: deque[Future[Plan]] = deque()

    def __iter__(self) -> Iterator[Plan]:
        return self

    def __next__(self) -> Plan:
        number, self.next = self.next, self.next + 1
        if self._pool is None:
            return plan_group(number, self.config)
        submitted = number + len(self._ahead)
        for later in itertools.islice(itertools.count(submitted), 3 * self.workers - len(self._ahead)):
            self._ahead.append(self._pool.submit(plan_group, later, self.config))
        return self._ahead.popleft().result()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()

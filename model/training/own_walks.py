"""Walks of the world that is being trained, as training clips: its own past, the true future.

A rollout hands its mistakes from chunk to chunk: of the latents, of the frames that the point memory keeps
and of their depth. Training on true clips never shows them. Here the world walks along true poses, through
the very `rollout.py`; from the last `frames` chunks of that walk its latents, memory views, cameras and
states are taken as they were, and the loss asks every chunk for the truth (`world_loss(history=, before=)`):

    shown n chunks  ->  drawn m chunks  ->  frames chunks: own history, true targets

n is the length of a context, of a part of the walks; m is drawn, so that histories of every age occur. No
gradient passes through what was drawn; within the last chunks it passes through the states, as ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.camera import CameraInput
from wm_env.model.data.clip import Clip
from wm_env.model.data.latents import LatentClip
from wm_env.model.data.stream import Plan, Stream, StreamConfig, captions, plan_group
from wm_env.model.geometry import invert_rigid
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import ChunkInput, RolloutState
from wm_env.model.state import DiTState, tree_map
from wm_env.model.text import TextTokens
from wm_env.model.training.batches import WorldBatch
from wm_env.model.training.clip_rollouts import chunks_along
from wm_env.model.training.clip_stream import clips_of_plan
from wm_env.model.training.losses.flow_matching import WorldLossConfig
from wm_env.model.vae.tiny import GROUP
from wm_env.model.world import Context, PosedFrames, Start


@dataclass(frozen=True, kw_only=True)
class OwnWalkConfig(WorldLossConfig):
    """Walks of the world itself: `frames` chunks with a loss, after at most `drawn` chunks that are drawn
    without one, and, of a share `contexts` of the steps, after a context of at most `shown` true chunks."""

    drawn: int = 20
    shown: int = 8
    contexts: float = 0.4
    history_noise: float = 0.0


class OwnWalk(NamedTuple):
    """What `world_loss` is given: the batch with true latents, the own ones `(B, C, T, h, w)` as history, and
    the transformer's state before them."""

    batch: WorldBatch
    history: Tensor
    before: DiTState


def starts_after(
    clip: Clip, shown: int, captions: Sequence[str], seeds: Sequence[int], temperature: float = 1.0
) -> list[Start]:
    """Return the starts of clips after their first `shown` chunks, poses relative to the last of those."""
    begin = GROUP * shown
    c2w = clip.c2w.double().cpu()
    relative = invert_rigid(c2w[:, begin])[:, None] @ c2w[:, : begin + 1]
    relative[:, -1] = torch.eye(4, dtype=torch.float64)
    told = []
    for slot, (rgb, camera, words) in enumerate(
        zip(clip.rgb.cpu().numpy(), clip.intrinsics.tolist(), clip.caption.tolist(), strict=True)
    ):
        context = None
        if shown:
            seen = PosedFrames(np.ascontiguousarray(rgb[: begin + 1]), relative[slot].numpy())
            context = Context(length=begin + 1, load=lambda seen=seen: seen)  # type: ignore[misc]
        told.append(
            Start(
                image=rgb[begin],
                intrinsics=(camera[0], camera[1], camera[2], camera[3]),
                prompt=captions[words[begin]],
                noise_seed=seeds[slot],
                temperature=temperature,
                context=context,
            )
        )
    return told


def own_walk(
    world: LearnedWorld,
    true: LatentClip,
    shown: int,
    frames: int,
    captions: Sequence[str],
    seeds: Sequence[int],
    temperature: float = 1.0,
) -> OwnWalk:
    """Return the last `frames` chunks of a walk along clips, begun after their first `shown` chunks.

    true: clips of `1 + n` latents, n >= shown + frames - 1. seeds, temperature: of the noise of each.
    """
    clip = true.clip
    rest = clip._replace(
        rgb=clip.rgb[:, GROUP * shown :],
        depth=clip.depth[:, GROUP * shown :],
        c2w=clip.c2w[:, GROUP * shown :],
        caption=clip.caption[:, GROUP * shown :],
    )
    states: list[RolloutState] = [world.begin(starts_after(clip, shown, captions, seeds, temperature))[1]]
    states += [walked.state for walked in chunks_along(world, states[0], rest, captions)]
    last = states[-frames:]
    pending = [tree_map(torch.clone, state.pending) for state in last]  # clones: out of inference mode
    return OwnWalk(
        batch=_joined(pending, true.z[:, -frames:].transpose(1, 2)),
        history=torch.cat([chunk.latent for chunk in pending], dim=2),
        before=tree_map(torch.clone, last[0].dit),
    )


def _joined(chunks: Sequence[ChunkInput], z: Tensor) -> WorldBatch:
    """Return chunks as a batch with latents z `(B, C, T, h, w)`."""
    memory = None
    if chunks[0].memory is not None:
        memory = torch.cat([chunk.memory for chunk in chunks if chunk.memory is not None], dim=1)
    return WorldBatch(
        z=z,
        camera=CameraInput(
            torch.cat([chunk.camera.conditions for chunk in chunks], dim=1),
            torch.cat([chunk.camera.plucker for chunk in chunks], dim=2),
        ),
        text=TextTokens(
            *(torch.stack(parts, dim=1) for parts in zip(*(chunk.text for chunk in chunks), strict=True))
        ),
        memory=memory,
    )


class WalkSource:
    """Draws walks through ever new rooms; `workers` processes plan ahead. temperature: of their noise."""

    def __init__(self, config: OwnWalkConfig, workers: int = 0, temperature: float = 1.0) -> None:
        self.config, self.workers, self.temperature = config, workers, temperature
        self.stream = StreamConfig(
            seed=3, group=config.batch, latents=1 + config.shown + config.drawn + config.frames
        )
        self._plans = Stream(self.stream, workers=workers)
        self._val = plan_group(0, dataclasses.replace(self.stream, split="val"))

    def draw(self, world: LearnedWorld, number: int, generator: torch.Generator) -> OwnWalk:
        """Return walk `number` of a world; how far it went, its context and noise are the generator's."""
        config = self.config
        if self._plans.next != number:
            self.close()
            self._plans = Stream(self.stream, number, self.workers)
        draws = torch.rand(3, generator=generator)
        drawn = int(draws[0] * (config.drawn + 1))
        shown = int(1 + draws[1] * config.shown) if draws[2] < config.contexts and config.shown else 0
        seeds = torch.randint(2**31, (config.batch,), generator=generator).tolist()
        return self._walk(world, next(self._plans), drawn, shown, seeds)

    def held(self, world: LearnedWorld, drawn: int) -> OwnWalk:
        """Return the walks of the held-out rooms, whose last frames come after `drawn` chunks."""
        return self._walk(world, self._val, drawn, 0, list(range(self.config.batch)))

    def held_latents(self, world: LearnedWorld) -> Tensor:
        """Return the first true latents `(B, C, h, w)` of the held-out rooms."""
        return self._true(world, self._val, 2).z[:, 1]

    def close(self) -> None:
        """End the processes that plan ahead."""
        self._plans.close()

    def _true(self, world: LearnedWorld, plan: Plan, latents: int) -> LatentClip:
        first = torch.zeros(self.config.batch, dtype=torch.int64)
        return clips_of_plan(plan, first, latents, world.vae, self.stream.size)

    def _walk(self, world: LearnedWorld, plan: Plan, drawn: int, shown: int, seeds: Sequence[int]) -> OwnWalk:
        frames = self.config.frames
        true = self._true(world, plan, shown + drawn + frames)
        return own_walk(world, true, shown, frames, captions(), seeds, self.temperature)

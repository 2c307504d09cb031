"""Training clips of a stream of rooms: every step has walks that no step before it had.

The interfaces of `BatchSource` without a folder: batch number n is the plan of group n of a `Stream`, a
window of `frames` latents of each of its walks rendered and encoded on the device that trains.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wm_env.model.data.clip import Clip
from wm_env.model.data.latents import LatentClip
from wm_env.model.data.stream import Plan, Stream, StreamConfig, captions, draw
from wm_env.model.pixels import to_pixels
from wm_env.model.text import HashTextEncoder, TextTokens
from wm_env.model.training.batches import WorldBatch, world_batch
from wm_env.model.training.losses.flow_matching import WorldLossConfig
from wm_env.model.vae.tiny import GROUP, TinyVAE


@torch.no_grad()
def clips_of_plan(plan: Plan, first: Tensor, frames: int, vae: TinyVAE, size: int) -> LatentClip:
    """Return `frames` latents of every walk from latent frame `first` `(G,)` on, and their pixel frames.

    On the device of the autoencoder. The first frame counts as a start image, as in `LatentShards.read`.
    """
    device = vae.latent_mean.device
    clip = torch.arange(len(first)).repeat_interleave(frames)
    latent = (first[:, None] + torch.arange(frames)).flatten()
    rgb, depth = draw(plan, clip, latent, size, device)
    z = vae.encode_groups(to_pixels(rgb, depth)).unflatten(0, (len(first), frames))
    rgb = rgb.unflatten(0, z.shape[:2]).flatten(1, 2)[:, GROUP - 1 :]  # (G, 4T - 3, H, W, 3)
    depth = depth.unflatten(0, z.shape[:2]).flatten(1, 2)[:, GROUP - 1 :]
    intrinsics = plan.intrinsics.to(device)
    pixels = GROUP * first[:, None] + torch.arange(GROUP * (frames - 1) + 1)  # (G, 4T - 3)
    rows = torch.arange(len(first))[:, None]
    words = plan.words[rows, -(-pixels // GROUP)].to(device)  # frame f belongs to latent ceil(f / 4)
    start, depth0, _ = vae.encode_image(rgb[:, 0], intrinsics)
    return LatentClip(
        Clip(rgb, depth, plan.c2w[rows, pixels].to(device), intrinsics, words), z.float(), start, depth0
    )


class StreamSource:
    """Draws the batch of every step from a stream; `workers` processes plan ahead."""

    def __init__(
        self, stream: StreamConfig, config: WorldLossConfig, vae: TinyVAE, width: int, memory: bool,
        workers: int = 0,
    ) -> None:  # fmt: skip
        if config.frames > stream.latents:
            raise ValueError(
                f"frames={config.frames} exceed the {stream.latents} latents of the stream's walks"
            )
        self.stream = dataclasses.replace(stream, group=config.batch)
        self.config, self.vae, self.memory, self.workers = config, vae, memory, workers
        text = HashTextEncoder(width=width).encode(captions())
        self.device = vae.latent_mean.device
        self.captions = TextTokens(*(x.to(self.device) for x in text))
        self._plans: Stream | None = None

    def draw(self, step: int, generator: torch.Generator, corrupt: bool = True) -> WorldBatch:
        """Return the batch of `step`."""
        cfg = self.config
        if self._plans is None or self._plans.next != step:
            self.close()
            self._plans = Stream(self.stream, step, self.workers)
        plan = next(self._plans)
        last = self.stream.latents - cfg.frames
        at_start = torch.rand(cfg.batch, generator=generator) < 0.3
        first = torch.where(at_start, 0, torch.randint(0, last + 1, (cfg.batch,), generator=generator))
        sample = clips_of_plan(plan, first, cfg.frames, self.vae, self.stream.size)
        return world_batch(sample, self.captions, cfg, self.memory, generator, corrupt)

    def close(self) -> None:
        """End the processes that plan ahead."""
        if self._plans is not None:
            self._plans.close()
            self._plans = None

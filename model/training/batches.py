"""Clips as the transformer sees them: latents, cameras, prompts and what the point memory would show.

Chunk t of a clip is its latent frame t. Every random choice comes from the caller's generator.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wm_env.model.camera import CameraInput, camera_input, start_windows
from wm_env.model.data.clip import Clip
from wm_env.model.data.latents import LatentClip, LatentShards
from wm_env.model.data.rendered import RenderedLatents
from wm_env.model.geometry import relative_to_first
from wm_env.model.pixels import to_pixels
from wm_env.model.point_memory import memory_tokens
from wm_env.model.text import TextTokens
from wm_env.model.training.keyframes import corrupt_keyframes, true_keyframes, views_of_chunk
from wm_env.model.vae.tiny import GROUP, STRIDE


class Draw(Protocol):
    """What decides the clips of a batch; every loss of the transformer says it in its config.

    batch, frames: clips, and latent frames of each. text_dropout: share of clips without a prompt.
    start_true: share of clips whose frame 0 keeps its true depth.
    """

    @property
    def batch(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def text_dropout(self) -> float: ...
    @property
    def start_true(self) -> float: ...


class WorldBatch(NamedTuple):
    """A batch as the transformer sees it, chunk t = latent frame t.

    z: `(B, C, T, h, w)` latents, frame 0 as given to a world. camera: conditions and Plücker maps of all T.
    text: `(B, T, L, E)`. memory: `(B, T, N, M)` or None.
    """

    z: Tensor
    camera: CameraInput
    text: TextTokens
    memory: Tensor | None


def camera_of_clip(c2w: Tensor, intrinsics: Tensor, size: int) -> CameraInput:
    """Return the conditioning of all latent frames of pixel poses `(B, 4T-3, 4, 4)` relative to frame 0."""
    grid = (size // STRIDE, size // STRIDE)
    return camera_input(c2w, intrinsics, (size, size), grid, start_windows(c2w.shape[1], GROUP))


def memory_of_clip(batch: LatentClip, c2w: Tensor, generator: torch.Generator, corrupt: bool) -> Tensor:
    """Return what the point memory would show at the last pixel frame of every latent, `(B, T, 5, H, W)`.

    `corrupt` damages the keyframes like generated ones; frame 0 keeps its colours and its predicted depth.
    """
    clip = batch.clip
    keys = true_keyframes(to_pixels(clip.rgb, clip.depth), batch.depth0)  # (B, T, 4, H, W)
    if corrupt:
        keys = torch.cat([keys[:, :1], corrupt_keyframes(keys[:, 1:], generator)], dim=1)
    views = [
        views_of_chunk(keys, t, c2w, clip.intrinsics, last_only=True)[:, 0] for t in range(1, keys.shape[1])
    ]
    return torch.stack([torch.zeros_like(views[0]), *views], dim=1)


class BatchSource:
    """Draws training batches from latent shards; every random choice comes from the caller's generator."""

    def __init__(
        self,
        shards: LatentShards | RenderedLatents,
        captions: TextTokens,
        draw: Draw,
        memory: bool,
    ) -> None:
        self.shards, self.captions, self.settings, self.memory = shards, captions, draw, memory

    def draw(self, generator: torch.Generator, corrupt: bool = True) -> WorldBatch:
        cfg = self.settings

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        def integer(high: int) -> Tensor:
            return torch.randint(0, high, (cfg.batch,), generator=generator)

        indices = integer(len(self.shards)).tolist()
        last = self.shards.groups - cfg.frames
        first = torch.where(uniform(cfg.batch) < 0.3, 0, integer(last + 1)).tolist()
        sample = self.shards.read(indices, first, cfg.frames)
        return world_batch(sample, self.captions, cfg, self.memory, generator, corrupt)


def world_batch(
    sample: LatentClip,
    captions: TextTokens,
    draw: Draw,
    memory: bool,
    generator: torch.Generator,
    corrupt: bool,
) -> WorldBatch:
    """Return clips as the transformer sees them, on the device of their latents.

    captions: the table that `clip.caption` indexes. memory: with the point memory's views. corrupt: whose
    keyframes are damaged like generated ones.
    """
    clip: Clip = sample.clip
    device, count = sample.z.device, len(sample.z)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    c2w = relative_to_first(clip.c2w)
    true_start = uniform(count) < draw.start_true
    start = torch.where(true_start[:, None, None, None], sample.z[:, 0], sample.start)
    z = torch.cat([start[:, None], sample.z[:, 1:]], dim=1).transpose(1, 2)  # (B, C, T, h, w)
    ids = clip.caption[:, ::GROUP]  # (B, T)
    kept = (uniform(count) >= draw.text_dropout).float()[:, None, None]
    text = TextTokens(captions.tokens[ids], captions.mask[ids] * kept)
    views = memory_tokens(memory_of_clip(sample, c2w, generator, corrupt)) if memory else None
    return WorldBatch(z, camera_of_clip(c2w, clip.intrinsics, clip.rgb.shape[-2]), text, views)

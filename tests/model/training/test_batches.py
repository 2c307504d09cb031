"""A batch of the transformer: prompts and true starts are left out by share, the memory is damaged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.data.clip import Clip
from wm_env.model.data.latents import LatentClip
from wm_env.model.text import TextTokens
from wm_env.model.training.batches import WorldBatch, world_batch

CLIPS, LATENTS, SIZE = 60, 3, 16
CAPTIONS = TextTokens(torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(5)), torch.ones(4, 2))


class Shares(NamedTuple):
    """A `Draw`."""

    batch: int = CLIPS
    frames: int = LATENTS
    text_dropout: float = 0.0
    start_true: float = 0.0


def sample() -> LatentClip:
    """Return clips of a camera that stands still before a coloured wall."""
    generator = torch.Generator().manual_seed(0)
    frames = 4 * LATENTS - 3

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    clip = Clip(
        rgb=torch.randint(0, 256, (CLIPS, frames, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8),
        depth=torch.full((CLIPS, frames, SIZE, SIZE), 3.0),
        c2w=torch.eye(4).repeat(CLIPS, frames, 1, 1),
        intrinsics=torch.full((CLIPS, 4), SIZE / 2),
        caption=torch.arange(CLIPS)[:, None].remainder(4).expand(CLIPS, frames),
    )
    z = normal(CLIPS, LATENTS, 32, SIZE // 8, SIZE // 8)
    return LatentClip(clip, z, normal(CLIPS, 32, SIZE // 8, SIZE // 8), torch.full((CLIPS, SIZE, SIZE), 3.0))


def batch(shares: Shares, memory: bool = False, corrupt: bool = True) -> WorldBatch:
    return world_batch(sample(), CAPTIONS, shares, memory, torch.Generator().manual_seed(1), corrupt)


def test_the_share_of_clips_without_a_prompt_is_the_one_asked_for() -> None:
    assert bool(batch(Shares()).text.mask.all())
    told = batch(Shares(text_dropout=0.4)).text.mask.flatten(1)  # (B, T L)
    whole, none = told.all(1), ~told.bool().any(1)
    assert bool((whole | none).all())  # a clip is told all along or never
    assert abs(float(none.float().mean()) - 0.4) < 0.2
    assert not batch(Shares(text_dropout=1.0)).text.mask.any()


def test_the_share_of_clips_that_start_with_their_true_depth_is_the_one_asked_for() -> None:
    clips = sample()
    assert torch.equal(batch(Shares()).z[:, :, 0], clips.start)
    assert torch.equal(batch(Shares(start_true=1.0)).z[:, :, 0], clips.z[:, 0])
    first = batch(Shares(start_true=0.4)).z[:, :, 0]
    true = torch.tensor([torch.equal(a, b) for a, b in zip(first, clips.z[:, 0], strict=True)])
    given = torch.tensor([torch.equal(a, b) for a, b in zip(first, clips.start, strict=True)])
    assert bool((true ^ given).all()) and abs(float(true.float().mean()) - 0.4) < 0.2
    assert torch.equal(batch(Shares(start_true=0.4)).z[:, :, 1:], clips.z[:, 1:].transpose(1, 2))


def test_keyframes_are_damaged_but_for_the_start() -> None:
    clean, damaged = (batch(Shares(), memory=True, corrupt=corrupt).memory for corrupt in (False, True))
    assert clean is not None and damaged is not None
    assert torch.equal(clean[:, 1], damaged[:, 1])  # chunk 1 sees frame 0 alone, which was given
    assert not torch.equal(clean[:, 2], damaged[:, 2])

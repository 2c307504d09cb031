"""Truncated-sigma refinement (docs/reference/pipeline.md#refiner)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wm_env.model.refiner.truncated import (
    REFINER_SIGMAS,
    Span,
    begin_blocks,
    commit_block,
    pack,
    refine_block,
    refine_blocks,
    refine_clip,
    unpack,
)


def latents(frames: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, frames, 4, 6, generator=torch.Generator().manual_seed(seed))


def noise_of(block: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(100 + block))


@pytest.mark.parametrize("patch", [1, 2])
def test_tokens_unpack_to_the_latents_they_were_packed_from(patch: int) -> None:
    z = latents()
    tokens = pack(z, patch)
    assert tokens.shape == (2, 8 * (4 // patch) * (6 // patch), 3 * patch * patch)
    assert torch.equal(unpack(tokens, Span(0, 8, 4 // patch, 6 // patch), patch), z)
    # token (t, y, x), feature (c, dy, dx)
    t, y, x, c, dy, dx = 3, 1, 2, 2, patch - 1, 0
    token = (t * (4 // patch) + y) * (6 // patch) + x
    assert tokens[1, token, (c * patch + dy) * patch + dx] == z[1, c, t, y * patch + dy, x * patch + dx]


def test_a_grid_that_does_not_divide_into_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="4x6 does not divide into patches of 4"):
        pack(latents(), 4)


def exact(clean: Tensor, calls: list[Any]):
    """The network that knows the clean clip: v = (x - x0) / s, and remembers which frames it saw clean."""

    def network(tokens: Tensor, timestep: Tensor, span: Span, memory: Any) -> tuple[Tensor, Any]:
        calls.append((span, memory, float(timestep.max())))
        target = pack(clean[:, :, span.start : span.start + span.frames])
        sigma = (timestep / 1000)[..., None].clamp_min(1e-6)
        seen = (*(memory or ()), *range(span.start, span.start + span.frames))
        return (tokens - target) / sigma, seen

    return network


def test_both_modes_reach_the_clean_clip_and_leave_the_sink_alone() -> None:
    start, clean = latents(), latents(seed=1)
    whole = refine_clip(exact(clean, []), start, noise_of(0, start[:, :, 1:]))
    blocks = refine_blocks(
        exact(clean, []), start, lambda i: noise_of(i, start[:, :, 1:].split(3, dim=2)[i]), block=3
    )
    for out in (whole, blocks):
        assert torch.equal(out[:, :, :1], start[:, :, :1])
        torch.testing.assert_close(out[:, :, 1:], clean[:, :, 1:], atol=1e-5, rtol=1e-5)


def test_denoising_calls_read_the_memory_and_only_the_clean_pass_extends_it() -> None:
    start, calls = latents(8), []
    network = exact(start, calls)
    state = begin_blocks(network, start[:, :, :1])
    assert (state.frame, state.memory) == (1, (0,))
    block = start[:, :, 1:4]
    _, after = refine_block(network, block, state, noise_of(0, block))
    assert (after.frame, after.memory) == (4, (0, 1, 2, 3))
    assert [memory for _, memory, _ in calls[1:]] == [(0,)] * 4
    levels = [time for _, _, time in calls]
    assert levels == pytest.approx([0.0, *(1000 * sigma for sigma in REFINER_SIGMAS)])
    assert state.memory == (0,)  # the old state is still valid
    assert commit_block(network, block, state) == after  # a true block is remembered like a refined one


def test_a_short_last_block_is_refined_too() -> None:
    start, calls = latents(6), []
    refine_blocks(
        exact(start, calls), start, lambda i: torch.zeros_like(start[:, :, 1:].split(3, 2)[i]), block=3
    )
    assert [span.frames for span, _, time in calls if time == 0.0] == [1, 3, 2]

"""Window attention and the temporal convolutions equal their sums written out, gradients included."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from wm_env.kernels.inputs import worst_error
from wm_env.kernels.proofs.proof import BOUNDS, REASONS, Check, Proof, label_of
from wm_env.kernels.temporal_conv import (
    frame_mix_conv,
    frame_mix_conv_naive,
    short_conv,
    short_conv_naive,
)
from wm_env.kernels.window_attention import window_attention, window_attention_naive

ATTENTION_SHAPES = ((1, (0,), 7, 5), (3, (0,), 4, 3), (4, (0, 1, 2, 3), 2, 3), (7, (0, 4), 3, 6))
CONVOLUTION_SHAPES = ((1, (0,)), (3, (0, 1, 2)), (5, (0,)), (9, (0, 4, 7)))


def attention(
    shape: tuple[int, tuple[int, ...], int, int],
    dtype: torch.dtype,
    *,
    device: str,
    dim: int = 16,
    padded: bool = False,
    function: Callable[..., Tensor] = window_attention,
) -> list[Proof]:
    """Return the proof that window attention and its gradients equal the masked softmax.

    shape: frames, chunk starts, tokens per frame, past tokens (0 for none). padded: some of the past is
    padding.
    """
    frames, starts, tokens, past = shape
    random = torch.Generator().manual_seed(frames * 100 + tokens * 10 + past)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, dtype=torch.float64).to(device, dtype)

    x = {name: normal(2, 3, frames, tokens, dim) for name in "qkv"}
    if past:
        x |= {name: normal(2, 3, past, dim) for name in ("past_k", "past_v")}
    valid = None
    if padded and past:
        valid = torch.ones(2, past, dtype=torch.bool)
        valid[0, : past // 2 + 1] = False
    weights = normal(2, 3, frames, tokens, dim)
    results = []
    kernels: list[tuple[Callable[..., Tensor], torch.dtype]] = [
        (function, dtype),
        (window_attention_naive, torch.float64),
    ]
    for tried, wide in kernels:
        leaves = {name: t.to(wide).requires_grad_() for name, t in x.items()}
        out = tried(**leaves, past_valid=valid, chunk_starts=starts)
        grads = torch.autograd.grad(out, list(leaves.values()), weights.to(wide))
        results.append({"out": out} | {f"d_{n}": grad for n, grad in zip(leaves, grads, strict=True)})
    name, error = worst_error(*results)
    label = label_of(dtype)
    where = f"{frames} frames in {len(starts)} chunks of {tokens} tokens after {past}" + ", padded" * padded
    return [
        Proof(f"window attention, {label}: {where}: worst is {name}", error, BOUNDS[dtype], REASONS[label])
    ]


def convolution(
    kind: str,
    shape: tuple[int, tuple[int, ...]],
    dtype: torch.dtype,
    *,
    device: str,
    tokens: int = 6,
    channels: int = 16,
    function: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> list[Proof]:
    """Return the proof that a temporal convolution, its tail and its gradients equal their sums written out.

    kind: "short" or "frame mix". shape: frames, chunk starts. function: in place of the kernel.
    """
    fast, naive = {
        "short": (short_conv, short_conv_naive),
        "frame mix": (frame_mix_conv, frame_mix_conv_naive),
    }[kind]
    fast = fast if function is None else function
    frames, starts = shape
    random = torch.Generator().manual_seed(frames)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, dtype=torch.float64).to(device, dtype)

    wide = channels + 1 if kind == "frame mix" else channels
    weight = normal(wide, channels, 3) / channels**0.5 if kind == "frame mix" else normal(channels, 4)
    x = normal(2, frames, tokens, channels)
    tail = normal(2, 1 if kind == "frame mix" else 3, tokens, channels)
    shares = [normal(2, frames, tokens, wide), torch.ones_like(tail)]
    results = []
    for tried, precision in ((fast, dtype), (naive, torch.float64)):
        leaves = [t.to(precision).requires_grad_() for t in (x, weight, tail)]
        y, after = tried(leaves[0], leaves[1], tail=leaves[2], chunk_starts=starts)
        grads = torch.autograd.grad((y, after), leaves, [s.to(precision) for s in shares])
        names = ("out", "tail", "d_x", "d_weight", "d_tail")
        results.append(dict(zip(names, (y, after, *grads), strict=True)))
    name, error = worst_error(*results)
    label = label_of(dtype)
    where = f"{frames} frames in {len(starts)} chunks"
    return [
        Proof(f"{kind} convolution, {label}: {where}: worst is {name}", error, BOUNDS[dtype], REASONS[label])
    ]


def other_checks(*, device: str, low: torch.dtype) -> dict[str, Check]:
    """Return the checks of window attention and the temporal convolutions by name."""
    found: dict[str, Check] = {}
    for dtype in (low, torch.float32):
        label = label_of(dtype)
        for a in ATTENTION_SHAPES:
            for padded in (False, True):
                found[f"attention {label} {a} padded={padded}"] = functools.partial(
                    attention, a, dtype, device=device, padded=padded
                )
        for kind in ("short", "frame mix"):
            for c in CONVOLUTION_SHAPES:
                check = functools.partial(convolution, kind, c, dtype, device=device)
                found[f"{kind} {label} {c}"] = check
    return found

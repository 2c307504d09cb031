"""Norms, modulation, rotary embedding, feed-forward: the parts of a block that carry no long memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.kernels.temporal_conv import frame_mix_conv
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig


class RMSNorm(nn.Module):
    """`w * x / sqrt(mean(x^2) + eps)` over the last axis, in float32 whatever the input, then cast back."""

    def __init__(self, width: int, eps: float, init: float = 1.0) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Return `LN(x) * (1 + scale) + shift`; x `(B, T, N, C)`, shift and scale `(B, T|1, 1, C)`."""
    return torch.addcmul(shift, F.layer_norm(x, (x.shape[-1],), eps=eps).to(x.dtype), 1 + scale)


def each_clip(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `call(x)` `(B, ...)` of `x` `(B, ...)`, on a CPU clip by clip, so that B decides no last digit.

    For small tensors it would: a product of few rows takes another kernel than one of more, a convolution
    too, and what remains after the last whole vector is computed by scalar code. Larger products and
    all else in these models add in one order whatever B is (tests/contract/test_slots_are_episodes.py). With
    gradients, in training, it is one call: nobody compares slots there.
    """
    if x.device.type != "cpu" or len(x) == 1 or torch.is_grad_enabled():
        return call(x)
    return torch.cat([call(one) for one in x.split(1)])


def timestep_features(timestep: Tensor, width: int = 256) -> Tensor:
    """Return `[cos(tau f) | sin(tau f)]` `(..., width)` float32 of timesteps in [0, 1000].

    The timestep is truncated to an integer first, as the released model does. See
    docs/reference/transformer.md#embeddings.
    """
    half = width // 2
    frequency = torch.exp(
        torch.arange(half, dtype=torch.float32, device=timestep.device) * (-math.log(10_000) / half)
    )
    angle = timestep.long().float()[..., None] * frequency
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


def rotary_widths(pairs: int) -> tuple[int, int, int]:
    """Return how many of `pairs` complex pairs rotate with time, row and column.

    h = w = D // 6 and t the rest, with D = 2 * pairs the real width. See
    docs/reference/transformer.md#rotary-embedding.
    """
    spatial = 2 * pairs // 6
    return pairs - 2 * spatial, spatial, spatial


def rotary(positions: Tensor, height: int, width: int, cfg: DiTConfig) -> Tensor:
    """Return `(B, T, N, D/2)` complex64 rotations of tokens at latent frames `positions` `(B, T)` int64.

    Angle `[t w^t | y w^h | x w^w]` with `w_j = theta^(-2j/d)` per axis of real width d, computed in float64.
    """
    time_pairs, row_pairs, column_pairs = rotary_widths(cfg.head_dim // 2)
    device = positions.device

    def frequencies(pairs: int) -> Tensor:
        return cfg.rope_theta ** (-torch.arange(pairs, dtype=torch.float64, device=device) / pairs)

    t = positions.double()[..., None] * cfg.rope_time_scale * frequencies(time_pairs)  # (B, T, pt)
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None] * frequencies(row_pairs)  # (h, ph)
    x = torch.arange(width, dtype=torch.float64, device=device)[:, None] * frequencies(
        column_pairs
    )  # (w, pw)
    shape = (*positions.shape, height, width)
    angle = torch.cat(
        [
            t[:, :, None, None, :].expand(*shape, -1),
            y[:, None, :].expand(*shape, -1),
            x[None, :, :].expand(*shape, -1),
        ],
        dim=-1,
    ).flatten(2, 3)  # (B, T, N, D/2)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def camera_rotary(cis: Tensor) -> Tensor:
    """Return the `(B, T, N, D/4)` slice of the main table that the camera branch uses.

    See docs/reference/transformer.md#camera-branch.
    """
    main_t, main_h, _ = rotary_widths(cis.shape[-1])
    t, h, w = rotary_widths(cis.shape[-1] // 2)
    return torch.cat(
        [cis[..., :t], cis[..., main_t : main_t + h], cis[..., main_t + main_h : main_t + main_h + w]], dim=-1
    )


def rotate(x: Tensor, cis: Tensor) -> Tensor:
    """Return `x` `(B, T, N, H, E)` with interleaved pairs turned by `cis` `(B, T, N, E/2)`, in float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (B, T, N, H, E/2)
    return torch.view_as_real(pairs * cis[:, :, :, None]).flatten(-2).to(x.dtype)


class FeedForward(nn.Module):
    """Gated convolutional feed-forward with a temporal convolution.

    See docs/reference/transformer.md#feed-forward:

    u = depthwise3x3(silu(expand(x))),  (p, q) = split(u),  r = contract(p * silu(q)),  out = r + tconv(r)
    """

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        hidden = cfg.ffn_hidden
        self.expand = nn.Linear(cfg.hidden, 2 * hidden)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.contract = nn.Linear(hidden, cfg.hidden, bias=False)
        self.temporal = nn.Parameter(torch.zeros(cfg.hidden, cfg.hidden, 3))

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int],
        tail: Tensor | None,
        chunks: Chunks,
    ) -> tuple[Tensor, Tensor]:
        """Return the output `(B, T, N, C)` and the new tail `(B, 1, N, C)` (last `r`)."""
        batch, frames, tokens, _ = x.shape
        u = F.silu(self.expand(x)).flatten(0, 1)  # (B*T, N, 2F)
        u = u.unflatten(1, grid).permute(0, 3, 1, 2)  # (B*T, 2F, h, w), channels last in memory
        u = self.depthwise(u).permute(0, 2, 3, 1).reshape(batch, frames, tokens, -1)
        value, gate = u.chunk(2, dim=-1)
        r = self.contract(value * F.silu(gate))  # (B, T, N, C)
        mixed, new_tail = frame_mix_conv(
            r, self.temporal, tail=tail, chunk_starts=chunks.starts, every_chunk=chunks.keep_every
        )
        return r + mixed, new_tail

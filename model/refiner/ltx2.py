"""LTX-2's video path as a refiner: self-attention, text cross-attention, feed-forward; nothing of the audio.

    x -> latent_in -> [ block ] * layers -> head -> velocity
    x += g1 * SelfAttn(RMS(x) (1 + k1) + s1);   x += CrossAttn(RMS(x), text)
    x += g2 * FF(RMS(x) (1 + k2) + s2),         (s1, k1, g1, s2, k2, g2) = table + m(timestep)

Two ways to call it (docs/reference/pipeline.md#refiner), both `RefinerNetwork`s of
`wm_env.model.refiner.truncated`: `clip_network`, the whole clip, whose first frame (the sink) attends to
itself alone; `block_network`, block after block, which attends to [sink | history | block] and returns a
`RefinerMemory`. History keys are stored rotated; the sink's are not, because it slides along and always sits
directly before the history.

Legend: `B` batch, `T` latent frames of a call, `N` tokens per frame, `M` = T * N, `H` heads, `D` head dim,
`C` = H * D, `P` frames of history, `L` text tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.placement import placed
from wm_env.model.refiner.truncated import RefinerNetwork, Span
from wm_env.model.text import TextTokens


@dataclass(frozen=True, kw_only=True)
class LTX2Config:
    """Sizes of the refiner.

    max_positions: seconds, pixel rows and pixel columns that the rotary embedding calls 1. strides: pixel
    frames, rows and columns of a latent. history_frames: latent frames of memory besides the sink.
    """

    latent_channels: int = 128
    heads: int = 32
    head_dim: int = 128
    layers: int = 48
    caption_channels: int = 3840
    rope_theta: float = 10_000.0
    max_positions: tuple[float, float, float] = (20.0, 2048.0, 2048.0)
    strides: tuple[int, int, int] = (8, 32, 32)
    fps: float = 16.0
    history_frames: int = 10
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % 6 > self.width // 2 or self.head_dim % 2:
            raise ValueError(f"heads={self.heads} of {self.head_dim} leave no room for three rotary axes")
        if self.history_frames < 1:
            raise ValueError(f"history_frames={self.history_frames} must be at least 1")

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


class Rotation(NamedTuple):
    """cos and sin of every token, `(B, H, M, D/2)` float32."""

    cos: Tensor
    sin: Tensor


class LayerMemory(NamedTuple):
    """Keys and values of one layer: the sink `(B, H, N, D)`, its keys not rotated, and the history
    `(B, H, P*N, D)`, its keys rotated, newest frame last."""

    sink_k: Tensor
    sink_v: Tensor
    k: Tensor
    v: Tensor


class RefinerMemory(NamedTuple):
    """What block mode carries. filled: `(B,)` int64, history frames in use (the last ones of P). frame:
    `(B,)` int64, latent frame of the next block. Both on the CPU."""

    layers: tuple[LayerMemory, ...]
    filled: Tensor
    frame: Tensor


def rotations(frames: Tensor, rows: int, columns: int, cfg: LTX2Config) -> Rotation:
    """Return the rotations of whole latent frames at `frames` `(B, T)` int64.

    A token sits at the midpoint of the pixels it covers; in time [8f-7, 8f+1) clipped at 0, over fps. With
    p in [-1, 1] after division by max_positions, angle = p theta^(j/(n-1)) pi/2, j = 0..n-1 per axis, the
    three axes interleaved; leading pairs are left unrotated where the width is no multiple of 6. In float32
    as in the original, whose highest frequencies feel it.
    """
    batch, device = frames.shape[0], frames.device
    starts = [
        frames.float(),
        torch.arange(rows, dtype=torch.float32, device=device),
        torch.arange(columns, dtype=torch.float32, device=device),
    ]
    edges = [torch.stack([x, x + 1]) * stride for x, stride in zip(starts, cfg.strides, strict=True)]
    edges[0] = (edges[0] + 1 - cfg.strides[0]).clamp_min(0) / cfg.fps
    middles = [edge.mean(0) / high for edge, high in zip(edges, cfg.max_positions, strict=True)]
    shape = (batch, frames.shape[1], rows, columns)
    position = torch.stack(
        [
            middles[0][:, :, None, None].expand(shape),
            middles[1][:, None].expand(shape),
            middles[2].expand(shape),
        ],
        dim=-1,
    ).flatten(1, 3)  # (B, M, 3)
    count = cfg.width // 6
    powers = torch.linspace(0.0, 1.0, count, dtype=torch.float64, device=device)
    frequency = (cfg.rope_theta**powers * math.pi / 2).float()
    angle = ((position[..., None] * 2 - 1) * frequency).transpose(-1, -2).flatten(2)  # (B, M, 3 * count)
    angle = F.pad(angle, (cfg.width // 2 - angle.shape[-1], 0))  # (B, M, C/2)
    angle = angle.unflatten(-1, (cfg.heads, -1)).transpose(1, 2)  # (B, H, M, D/2)
    return Rotation(angle.cos(), angle.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Return `x` `(B, H, M, D)` with (first half, second half) of every head rotated as pairs, in float32."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Softmax attention with RMS-normalised queries and keys (over all heads together)."""

    def __init__(self, cfg: LTX2Config) -> None:
        super().__init__()
        self.heads = cfg.heads
        self.q, self.k, self.v, self.out = (nn.Linear(cfg.width, cfg.width) for _ in range(4))
        self.q_norm = nn.RMSNorm(cfg.width, eps=cfg.eps)
        self.k_norm = nn.RMSNorm(cfg.width, eps=cfg.eps)

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q of `x`, k and v of `context`, `(B, H, M, D)` each, not rotated."""
        parts = self.q_norm(self.q(x)), self.k_norm(self.k(context)), self.v(context)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(2))


class LayerCall(NamedTuple):
    """What all layers of one call share.

    modulation `(B, T, 6, C)`. caption `(B, L, C)` and text_bias `(B, 1, 1, L)`. here, at_sink: rotations of
    the call's tokens and of the sink. valid: mask of the keys, None where all count. tokens: N.
    """

    modulation: Tensor
    caption: Tensor
    text_bias: Tensor
    here: Rotation
    at_sink: Rotation | None
    valid: Tensor | None
    tokens: int


class Layer(nn.Module):
    """One block of the module docstring."""

    def __init__(self, cfg: LTX2Config) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.modulation = nn.Parameter(torch.randn(6, cfg.width) / cfg.width**0.5)
        self.attn, self.cross = Attention(cfg), Attention(cfg)
        self.expand, self.contract = nn.Linear(cfg.width, 4 * cfg.width), nn.Linear(4 * cfg.width, cfg.width)

    def norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype)

    def forward(
        self, x: Tensor, call: LayerCall, past: LayerMemory | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return the new `x` `(B, M, C)`, and its keys not rotated, keys rotated and values."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            m.repeat_interleave(call.tokens, dim=1)
            for m in (self.modulation + call.modulation).to(x.dtype).unbind(2)
        )  # (B, M, C)
        a = self.norm(x) * (1 + scale1) + shift1
        q, k, v = self.attn.project(a, a)
        q, turned = rotate(q, call.here), rotate(k, call.here)
        x = x + gate1 * self._self_attention(q, turned, v, past, call)
        q, text_k, text_v = self.cross.project(self.norm(x), call.caption)
        x = x + self.cross.attend(q, text_k, text_v, call.text_bias)
        b = self.norm(x) * (1 + scale2) + shift2
        x = x + gate2 * self.contract(F.gelu(self.expand(b), approximate="tanh"))
        return x, (k, turned, v)

    def _self_attention(
        self, q: Tensor, k: Tensor, v: Tensor, past: LayerMemory | None, call: LayerCall
    ) -> Tensor:
        if past is None:  # the sink sees itself, the rest sees everything
            n = call.tokens
            sink = F.scaled_dot_product_attention(q[:, :, :n], k[:, :, :n], v[:, :, :n])
            rest = F.scaled_dot_product_attention(q[:, :, n:], k, v) if q.shape[2] > n else None
            out = sink if rest is None else torch.cat([sink, rest], dim=2)
            return self.attn.out(out.transpose(1, 2).flatten(2))
        assert call.at_sink is not None
        all_k = torch.cat([rotate(past.sink_k, call.at_sink), past.k, k], dim=2)
        all_v = torch.cat([past.sink_v, past.v, v], dim=2)
        return self.attn.attend(q, all_k, all_v, call.valid)


class LTX2Refiner(nn.Module):
    """The video path; `forward` is one call over [memory | tokens], the networks below say which."""

    def __init__(self, cfg: LTX2Config) -> None:
        super().__init__()
        self.cfg = cfg
        width = cfg.width
        self.latent_in = nn.Linear(cfg.latent_channels, width)
        self.caption_in, self.caption_out = nn.Linear(cfg.caption_channels, width), nn.Linear(width, width)
        self.time_in, self.time_out = nn.Linear(256, width), nn.Linear(width, width)
        self.time_modulation = nn.Linear(width, 6 * width)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.layers))
        self.head_modulation = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.head = nn.Linear(width, cfg.latent_channels)

    def forward(
        self,
        tokens: Tensor,
        timestep: Tensor,
        text: TextTokens,
        frames: Tensor,
        span: Span,
        memory: RefinerMemory | None,
        keep: bool = False,
    ) -> tuple[Tensor, tuple[LayerMemory, ...]]:
        """Return the velocity `(B, M, Cl)`, and with `keep` every layer's memory after these tokens.

        tokens `(B, M, Cl)`; timestep `(B, T)` in [0, 1000], not truncated; frames `(B, T)` int64 positions.
        memory None: frame 0 of the call is a sink that attends to itself, the others attend to all.
        """
        rows, columns = span.rows, span.columns
        here = rotations(frames, rows, columns, self.cfg)
        at_sink, valid = None, None
        if memory is not None:
            place = placed(memory.frame - memory.filled - 1, tokens.device)[:, None]  # (B, 1)
            at_sink = rotations(place, rows, columns, self.cfg)
            valid = _valid_keys(memory.filled, self.cfg.history_frames, rows * columns, tokens)
        x = self.latent_in(tokens)
        time = self.time_out(F.silu(self.time_in(_timestep_features(timestep).to(x.dtype))))  # (B, T, C)
        modulation = self.time_modulation(F.silu(time)).unflatten(-1, (6, -1))  # (B, T, 6, C)
        caption = self.caption_out(
            F.gelu(self.caption_in(text.tokens.to(x.dtype)), approximate="tanh")
        )  # (B, L, C)
        text_bias = ((1 - text.mask.to(x.dtype)) * -10_000.0)[:, None, None]  # (B, 1, 1, L)
        call = LayerCall(modulation, caption, text_bias, here, at_sink, valid, rows * columns)

        after = []
        for i, layer in enumerate(self.layers):
            past = None if memory is None else memory.layers[i]
            x, (k, turned, v) = layer(x, call, past)
            if keep:  # at once: the keys of all layers together are larger than a layer's memory
                after.append(_remembered(past, k, turned, v, self.cfg.history_frames, rows * columns))

        shift, scale = (
            m.repeat_interleave(rows * columns, dim=1).to(x.dtype)
            for m in (self.head_modulation + time[:, :, None]).unbind(2)
        )
        x = F.layer_norm(x, (x.shape[-1],), eps=self.cfg.eps) * (1 + scale) + shift
        return self.head(x), tuple(after)


def clip_network(model: LTX2Refiner, text: TextTokens) -> RefinerNetwork:
    """Return the one-shot network of `refine_clip`: no memory in or out, positions from the span."""

    def network(tokens: Tensor, timestep: Tensor, span: Span, memory: Any) -> tuple[Tensor, Any]:
        frames = torch.arange(span.start, span.start + span.frames, device=tokens.device)
        velocity, _ = model(
            tokens, _per_frame(timestep, span), text, frames.expand(tokens.shape[0], -1), span, None
        )
        return velocity, None

    return network


def block_network(model: LTX2Refiner, text: TextTokens, *, keep: bool = True) -> RefinerNetwork:
    """Return the network of `begin_blocks` and `refine_block`; positions come from its memory, not the span,
    so that slots of one batch may be at different frames.

    keep: return the memory with the call's frames; without, the one that was given, for denoising calls,
    whose memory nobody keeps and which is as large as the one before.
    """

    def network(tokens: Tensor, timestep: Tensor, span: Span, memory: Any) -> tuple[Tensor, RefinerMemory]:
        batch = tokens.shape[0]
        start = torch.zeros(batch, dtype=torch.int64) if memory is None else memory.frame
        if memory is None and span.frames != 1:
            raise ValueError(f"block mode begins with one sink frame, not {span.frames}")
        frames = placed(start[:, None] + torch.arange(span.frames), tokens.device)
        velocity, layers = model(tokens, _per_frame(timestep, span), text, frames, span, memory, keep)
        if not keep:
            return velocity, memory
        if memory is None:
            none, one = torch.zeros(batch, dtype=torch.int64), torch.ones(batch, dtype=torch.int64)
            return velocity, RefinerMemory(layers, none, one)
        filled = (memory.filled + span.frames).clamp_max(model.cfg.history_frames)
        return velocity, RefinerMemory(layers, filled, memory.frame + span.frames)

    return network


def _remembered(
    past: LayerMemory | None, k: Tensor, turned: Tensor, v: Tensor, history: int, tokens: int
) -> LayerMemory:
    """Return a layer's memory after a call; past None: the call was the sink."""
    if past is None:
        empty = k.new_zeros(*k.shape[:2], history * k.shape[2], k.shape[3])
        return LayerMemory(k, v, empty, empty)
    kept = history * tokens
    return past._replace(k=_append(past.k, turned, kept), v=_append(past.v, v, kept))


def _append(old: Tensor, new: Tensor, kept: int) -> Tensor:
    joined = torch.cat([old, new], dim=2)
    return joined[:, :, joined.shape[2] - kept :].clone()  # a slice would keep the longer storage alive


def _valid_keys(filled: Tensor, history: int, tokens: int, x: Tensor) -> Tensor | None:
    """Return the mask `(B, 1, 1, keys)` over [sink | history | call], None where the history is full."""
    if bool((filled == history).all()):
        return None
    used = torch.arange(history) >= history - filled[:, None]  # (B, P)
    used = F.pad(used.repeat_interleave(tokens, dim=1), (tokens, x.shape[1]), value=True)
    return placed(used[:, None, None], x.device)


def _per_frame(timestep: Tensor, span: Span) -> Tensor:
    """Return `(B, T)` of per-token timesteps `(B, M)`, which are equal within a frame."""
    return timestep.unflatten(1, (span.frames, -1))[:, :, 0]


def _timestep_features(timestep: Tensor) -> Tensor:
    """Return `[cos(tau f) | sin(tau f)]` `(B, T, 256)` float32, f = 10000^(-i/128)."""
    steps = torch.arange(128, dtype=torch.float32, device=timestep.device)
    angle = timestep.float()[..., None] * torch.exp(steps * (-math.log(10_000) / 128))
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)

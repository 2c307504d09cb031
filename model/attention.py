"""Self-attention with its camera branch, and text cross-attention: projections around the kernels.

Both kinds of self-attention share projections, camera branch, output gate and interface:

    out = W_o ((main + W_cam camera + b_cam) * silu(W_g a + b_g)) + b_o

as in docs/reference/transformer.md#output-gate. GDN blocks carry a constant-size memory
(docs/reference/transformer.md#recurrence), softmax blocks the keys and values of a window of committed chunks
(docs/reference/transformer.md#streaming-state).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.temporal_conv import short_conv
from wm_env.kernels.window_attention import window_attention
from wm_env.model.camera import Rays, apply_per_token
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig
from wm_env.model.layers import RMSNorm, camera_rotary, rotate
from wm_env.model.state import GDNState, KVChunk, WindowState, tree_map

INFLATION_FLOOR = 1e-12  # smallest squared key norm, before and after the ray transform


class Geometry(NamedTuple):
    """Where the tokens of a call are: `cis` `(B, T, N, D/2)` complex64, rays or None without a camera."""

    cis: Tensor
    rays: Rays | None


def heads_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2, 4)  # (B, T, N, H, D) -> (B, H, T, N, D)


def tokens_first(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1, 4).flatten(-2)  # (B, H, T, N, D) -> (B, T, N, C)


def to_ray_frame(q: Tensor, k: Tensor, v: Tensor, rays: Rays, cis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return camera-branch q, k, v `(B, T, N, H, D)` mapped into ray space.

    First half of a head: q by P^T, k and v by P^-1, in 4-vectors. Second half: rotary. See
    docs/reference/transformer.md#camera-branch.
    """
    half = q.shape[-1] // 2
    cis = camera_rotary(cis)
    kv = torch.cat([k, v], dim=3)  # one pass for both: (B, T, N, 2H, D)
    q_ray = apply_per_token(rays.to_ray.transpose(-1, -2), q[..., :half].float())
    kv_ray = apply_per_token(rays.to_world, kv[..., :half].float())
    q = torch.cat([q_ray, rotate(q[..., half:].float(), cis)], dim=-1).to(q.dtype)
    kv = torch.cat([kv_ray, rotate(kv[..., half:].float(), cis)], dim=-1).to(k.dtype)
    return q, *kv.chunk(2, dim=3)  # type: ignore[return-value]


def from_ray_frame(out: Tensor, rays: Rays, cis: Tensor) -> Tensor:
    """Return the camera-branch output `(B, T, N, H, D)` mapped back: P on 4-vectors, inverse rotary."""
    half = out.shape[-1] // 2
    front = apply_per_token(rays.to_ray, out[..., :half].float())
    back = rotate(out[..., half:].float(), camera_rotary(cis).conj())
    return torch.cat([front, back], dim=-1).to(out.dtype)


class CameraProjections(nn.Module):
    """The camera branch's own q, k, v, norms and (zero-initialised) output projection."""

    def __init__(self, cfg: DiTConfig, short_convolution: bool) -> None:
        super().__init__()
        width = cfg.hidden
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.q_norm, self.k_norm = RMSNorm(width, cfg.qk_norm_eps), RMSNorm(width, cfg.qk_norm_eps)
        self.conv_k = nn.Parameter(identity_taps(width, cfg.short_conv_kernel)) if short_convolution else None


def identity_taps(width: int, kernel: int) -> Tensor:
    taps = torch.zeros(width, kernel)
    taps[:, -1] = 1.0
    return taps


class SelfAttention(nn.Module):
    """Projections common to GDN and softmax blocks."""

    def __init__(self, cfg: DiTConfig, short_convolution: bool) -> None:
        super().__init__()
        width = cfg.hidden
        self.cfg = cfg
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(width, cfg.qk_norm_eps), RMSNorm(width, cfg.qk_norm_eps)
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.camera = CameraProjections(cfg, short_convolution)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.cfg.heads, -1))  # (B, T, N, C) -> (B, T, N, H, D)

    def merge(self, x: Tensor, main: Tensor, camera: Tensor | None) -> Tensor:
        """Return the gated, projected sum of the two branches; all `(B, T, N, C)`."""
        if camera is not None:
            main = main + self.camera.out(camera)
        gated = main.float() * F.silu(self.gate(x).float())
        return self.out(gated.to(x.dtype))


class Operands(NamedTuple):
    """What the frame-GDN recurrence of a block is given; see `wm_env.kernels.frame_gdn.frame_gdn`.

    q, k, v: `(B, H, T, N, D)`, q and k rotated, and not rotated as q_norm, k_norm. beta `(B, H, T, N)`, g
    `(B, H, T)`. tail: what the next call's short convolution of the keys needs.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    g: Tensor
    q_norm: Tensor
    k_norm: Tensor
    tail: Tensor


class GDNAttention(SelfAttention):
    """Frame-wise gated delta rule attention with the numerator-only camera branch.

    See docs/reference/transformer.md#gated-delta-rule and docs/reference/transformer.md#camera-branch.
    """

    def __init__(self, cfg: DiTConfig, impl: str = "chunk") -> None:
        super().__init__(cfg, short_convolution=True)
        self.impl = impl
        self.conv_k = nn.Parameter(identity_taps(cfg.hidden, cfg.short_conv_kernel))
        self.beta = nn.Linear(cfg.hidden, cfg.heads)
        self.decay = nn.Linear(cfg.hidden, cfg.heads)
        self.A_log = nn.Parameter(torch.zeros(cfg.heads))
        self.dt_bias = nn.Parameter(torch.full((cfg.heads,), -5.0))

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return beta `(B, H, T, N)` in (0, 1) and the log decay `(B, H, T)` < 0, both float32.

        beta = sigmoid(W_b a + b_b) per token
        log decay = -exp(A_log) softplus(W_g mean_s(a) + b_g + dt_bias) per frame
        """
        beta = torch.sigmoid(self.beta(x).float()).permute(0, 3, 1, 2)
        raw = self.decay(x.mean(dim=2)).float() + self.dt_bias.float()  # (B, T, H)
        log_decay = -torch.exp(self.A_log.float()) * F.softplus(raw)
        return beta, log_decay.transpose(1, 2)

    def operands(self, x: Tensor, geometry: Geometry, state: GDNState | None, chunks: Chunks) -> Operands:
        """Return what the recurrence of the main branch is given for `x` `(B, T, N, C)`."""
        beta, log_decay = self.gates(x)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        k, tail = self._short_conv(k, self.conv_k, None if state is None else state.conv_k, chunks)
        q = self.split_heads(F.relu(self.q_norm(q)))
        k = self.split_heads(F.relu(self.k_norm(k)) * self._key_scale(x))
        turned = rotate(torch.cat([q, k], dim=3), geometry.cis)  # (B, T, N, 2H, D)
        q_turned, k_turned = turned.chunk(2, dim=3)
        return Operands(
            q=heads_first(q_turned),
            k=heads_first(k_turned),
            v=heads_first(self.split_heads(v)),
            beta=beta,
            g=log_decay,
            q_norm=heads_first(q),
            k_norm=heads_first(k),
            tail=tail,
        )

    def forward(
        self, x: Tensor, geometry: Geometry, state: GDNState | None, chunks: Chunks
    ) -> tuple[Tensor, GDNState]:
        """Return the output `(B, T, N, C)` and the state after the last (or every) chunk."""
        given = self.operands(x, geometry, state, chunks)
        main, memory = frame_gdn(
            q=given.q,
            k=given.k,
            v=given.v,
            beta=given.beta,
            g=given.g,
            state=None if state is None else GDNMemory(state.S, state.z),
            q_norm=given.q_norm,
            k_norm=given.k_norm,
            chunk_starts=chunks.starts,
            eps=self.cfg.gdn_eps,
            every_chunk=chunks.keep_every,
            impl=self.impl,
        )
        assert memory.z is not None
        camera = None
        if geometry.rays is not None:
            camera, camera_memory, camera_tail = self._camera_branch(
                x, geometry, geometry.rays, given, state, chunks
            )
        else:  # no camera in this call: its memory stays what it was (zeros at the start)
            camera_memory = torch.zeros_like(memory.S) if state is None else _like(state.S_cam, memory.S)
            camera_tail = (
                torch.zeros_like(given.tail) if state is None else _like(state.conv_k_cam, given.tail)
            )
        out = self.merge(x, tokens_first(main), camera)
        return out, GDNState(memory.S, memory.z, camera_memory, given.tail, camera_tail)

    def _camera_branch(
        self,
        x: Tensor,
        geometry: Geometry,
        rays: Rays,
        main: Operands,
        state: GDNState | None,
        chunks: Chunks,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the branch output `(B, T, N, C)`, its memory and its convolution tail.

        The ray transform can lengthen keys; beta is divided by their mean squared inflation of the frame,
        never multiplied: beta_cam = beta / max(1, mean_s |k_after|^2 / |k_before|^2).
        """
        cam = self.camera
        assert cam.conv_k is not None
        k, tail = self._short_conv(cam.k(x), cam.conv_k, None if state is None else state.conv_k_cam, chunks)
        q = self.split_heads(F.relu(cam.q_norm(cam.q(x))))
        k = self.split_heads(F.relu(cam.k_norm(k)) * self._key_scale(x))
        v = self.split_heads(cam.v(x))
        before = k.float().square().sum(-1)  # (B, T, N, H)
        q, k, v = to_ray_frame(q, k, v, rays, geometry.cis)
        after = k.float().square().sum(-1)
        inflation = (after.clamp_min(INFLATION_FLOOR) / before.clamp_min(INFLATION_FLOOR)).mean(
            2
        )  # (B, T, H)
        out, memory = frame_gdn(
            q=heads_first(q),
            k=heads_first(k),
            v=heads_first(v),
            beta=main.beta / inflation.clamp_min(1.0).transpose(1, 2)[..., None],
            g=main.g,
            state=None if state is None else GDNMemory(state.S_cam, None),
            chunk_starts=chunks.starts,
            every_chunk=chunks.keep_every,
            impl=self.impl,
        )
        out = from_ray_frame(out.permute(0, 2, 3, 1, 4), rays, geometry.cis)  # (B, T, N, H, D)
        return out.flatten(-2), memory.S, tail

    def _short_conv(
        self, keys: Tensor, taps: Tensor, tail: Tensor | None, chunks: Chunks
    ) -> tuple[Tensor, Tensor]:
        return short_conv(
            keys,
            taps,
            tail=tail,
            chunk_starts=chunks.starts,
            every_chunk=chunks.keep_every,
            compat_uniform_chunk=chunks.uniform,
        )

    def _key_scale(self, x: Tensor) -> float:
        return self.cfg.head_dim**-0.5 * x.shape[2] ** -0.5


def _like(old: Tensor, new: Tensor) -> Tensor:
    """Return an unchanged state tensor in the shape of a per-chunk one `(B, n, ...)` if `new` has it."""
    return old if old.ndim == new.ndim else old[:, None].expand_as(new)


class SoftmaxAttention(SelfAttention):
    """Softmax attention over the current chunk and a window of committed chunks.

    See docs/reference/transformer.md#softmax-blocks and docs/reference/transformer.md#streaming-schedule.
    """

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__(cfg, short_convolution=False)

    def forward(
        self, x: Tensor, geometry: Geometry, state: WindowState | None, chunks: Chunks
    ) -> tuple[Tensor, WindowState]:
        """Return the output `(B, T, N, C)` and the window after the last (or every) chunk."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        qk = torch.cat([self.split_heads(self.q_norm(q)), self.split_heads(self.k_norm(k))], dim=3)
        q, k = rotate(qk, geometry.cis).chunk(2, dim=3)  # (B, T, N, H, D) each
        streams = [(heads_first(q), heads_first(k), heads_first(self.split_heads(v)))]
        if geometry.rays is not None:
            cam = self.camera
            q, k, v = to_ray_frame(
                self.split_heads(cam.q_norm(cam.q(x))),
                self.split_heads(cam.k_norm(cam.k(x))),
                self.split_heads(cam.v(x)),
                geometry.rays,
                geometry.cis,
            )
            streams.append((heads_first(q), heads_first(k), heads_first(v)))

        bounds = itertools.pairwise([*chunks.starts, x.shape[1]])
        slices = [slice(start, end) for start, end in bounds]
        window = state if state is not None else WindowState(())
        if self.cfg.window_chunks is None:  # nothing is ever forgotten: one call over all chunks
            outs = [_attend(stream, window, i, chunks.starts) for i, stream in enumerate(streams)]
            windows = []
            for chunk in slices:
                window = commit(window, _keys_of(streams, chunk), self.cfg, x.shape[2])
                windows.append(window)
        else:
            parts: list[list[Tensor]] = [[] for _ in streams]
            windows = []
            for chunk in slices:
                for i, (q, k, v) in enumerate(streams):
                    part = (q[:, :, chunk], k[:, :, chunk], v[:, :, chunk])
                    parts[i].append(_attend(part, window, i, (0,)))
                window = commit(window, _keys_of(streams, chunk), self.cfg, x.shape[2])
                windows.append(window)
            outs = [torch.cat(part, dim=2) for part in parts]

        camera = None
        if geometry.rays is not None:
            camera = from_ray_frame(outs[1].permute(0, 2, 3, 1, 4), geometry.rays, geometry.cis).flatten(-2)
        out = self.merge(x, tokens_first(outs[0]), camera)
        if chunks.keep_every:
            window = tree_map(lambda *leaves: torch.stack(leaves, dim=1), *windows)
        return out, window


def _attend(
    stream: tuple[Tensor, Tensor, Tensor], window: WindowState, branch: int, chunk_starts: Sequence[int]
) -> Tensor:
    """Return attention of one branch (0 main, 1 camera) over the window and the given chunk(s)."""
    q, k, v = stream
    if not window.chunks:
        return window_attention(q=q, k=k, v=v, chunk_starts=chunk_starts)
    past_k = torch.cat([c.k if branch == 0 else c.k_cam for c in window.chunks], dim=2)
    past_v = torch.cat([c.v if branch == 0 else c.v_cam for c in window.chunks], dim=2)
    valid = None
    if not all(bool(c.valid.all()) for c in window.chunks):
        valid = torch.cat([c.valid[:, None].expand(-1, c.k.shape[2]) for c in window.chunks], dim=1)
    return window_attention(
        q=q, k=k, v=v, past_k=past_k, past_v=past_v, past_valid=valid, chunk_starts=chunk_starts
    )


def _keys_of(streams: list[tuple[Tensor, Tensor, Tensor]], chunk: slice) -> KVChunk:
    """Return keys and values of the chunk's frames as one `KVChunk`; absent camera keys are zero."""
    main = [x[:, :, chunk].flatten(2, 3) for x in streams[0][1:]]  # (B, H, n, D)
    camera = [x[:, :, chunk].flatten(2, 3) for x in streams[1][1:]] if len(streams) > 1 else [
        torch.zeros_like(x) for x in main
    ]  # fmt: skip
    return KVChunk(*main, *camera, torch.ones(main[0].shape[0], dtype=torch.bool))  # type: ignore[call-arg]


def commit(window: WindowState, chunk: KVChunk, cfg: DiTConfig, tokens_per_frame: int) -> WindowState:
    """Return the window with `chunk` appended and the oldest non-sink chunk dropped.

    A bounded window has a fixed number of slots from the first commit on, the not yet filled ones marked
    invalid, so that slots at different chunk indices stack. With the sink on, slot 0 is the first chunk.
    """
    if cfg.window_chunks is None:
        return WindowState((*window.chunks, chunk))
    if cfg.window_chunks == 0:
        return window
    if not window.chunks:
        tokens = cfg.chunk_frames * tokens_per_frame
        blank = KVChunk(  # type: ignore[call-arg]
            *(x.new_zeros(*x.shape[:2], tokens, x.shape[3]) for x in chunk[:4]), torch.zeros_like(chunk.valid)
        )
        empty = (blank,) * (cfg.window_chunks - 1)
        return WindowState((chunk, *empty) if cfg.sink else (*empty, chunk))
    if not cfg.sink:
        return WindowState((*window.chunks[1:], chunk))
    sink, recent = window.chunks[0], window.chunks[1:]
    later = WindowState((sink, *(*recent, chunk)[1:]))  # with a single slot, the sink alone
    if bool(sink.valid.all()):
        return later
    first = WindowState((chunk, *recent))  # an empty window takes its first chunk as the sink
    if not bool(sink.valid.any()):
        return first
    return tree_map(lambda a, b: _where_slot(sink.valid, a, b), later, first)


def _where_slot(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return slot by slot `a` where `condition` `(B,)` holds and `b` elsewhere."""
    return torch.where(condition.to(a.device).view(-1, *[1] * (a.ndim - 1)), a, b)


class CrossAttention(nn.Module):
    """Text cross-attention: no rotary, RMS norm on q and k, additive -10000 on padded tokens.

    See docs/reference/transformer.md#cross-attention.
    """

    MASKED = -10_000.0

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        width = cfg.hidden
        self.heads = cfg.heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm, self.k_norm = RMSNorm(width, cfg.cross_norm_eps), RMSNorm(width, cfg.cross_norm_eps)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return `(B, T, N, C)`; text `(B, 1|T, L, C)` per clip or per frame; mask `(B, 1|T, L)`, 1 keeps."""
        shape = x.shape
        per_frame = text.shape[1] > 1
        queries = x.flatten(0, 1) if per_frame else x.flatten(1, 2)  # (B*T, N, C) or (B, T*N, C)
        k, v = self.kv(text.flatten(0, 1)).chunk(2, dim=-1)  # (B*, L, C)
        q, k = self.q_norm(self.q(queries)), self.k_norm(k)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))  # (B*, H, n, D)
        bias = ((1.0 - mask.flatten(0, 1).to(q.dtype)) * self.MASKED)[:, None, None]  # (B*, 1, 1, L)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(out.transpose(1, 2).flatten(-2).reshape(shape))

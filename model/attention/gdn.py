"""Self-attention of the GDN blocks: a constant-size memory, written once per frame.

See docs/reference/transformer.md#recurrence. What it shares with the softmax blocks is in `projections.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.temporal_conv import short_conv
from wm_env.model.attention.projections import (
    Geometry,
    SelfAttention,
    from_ray_frame,
    heads_first,
    identity_taps,
    to_ray_frame,
    tokens_first,
)
from wm_env.model.camera import Rays
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig
from wm_env.model.layers import each_clip, rotate
from wm_env.model.state import GDNState

INFLATION_FLOOR = 1e-12  # smallest squared key norm, before and after the ray transform


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


class CameraOperands(NamedTuple):
    """What the recurrence of the camera branch is given beside g: q, k, v `(B, H, T, N, D)` in the frames of
    their rays, beta `(B, H, T, N)`, and the tail that the next call's short convolution needs."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
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
        raw = each_clip(self.decay, x.mean(dim=2)).float() + self.dt_bias.float()  # (B, T, H)
        log_decay = -torch.exp(self.A_log.float()) * each_clip(F.softplus, raw)
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

    def camera_operands(
        self,
        x: Tensor,
        geometry: Geometry,
        rays: Rays,
        main: Operands,
        state: GDNState | None,
        chunks: Chunks,
    ) -> CameraOperands:
        """Return what the recurrence of the camera branch is given.

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
        beta = main.beta / inflation.clamp_min(1.0).transpose(1, 2)[..., None]
        return CameraOperands(heads_first(q), heads_first(k), heads_first(v), beta, tail)

    def _camera_branch(
        self,
        x: Tensor,
        geometry: Geometry,
        rays: Rays,
        main: Operands,
        state: GDNState | None,
        chunks: Chunks,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the branch output `(B, T, N, C)`, its memory and its convolution tail."""
        given = self.camera_operands(x, geometry, rays, main, state, chunks)
        out, memory = frame_gdn(
            q=given.q,
            k=given.k,
            v=given.v,
            beta=given.beta,
            g=main.g,
            state=None if state is None else GDNMemory(state.S_cam, None),
            chunk_starts=chunks.starts,
            every_chunk=chunks.keep_every,
            impl=self.impl,
        )
        out = from_ray_frame(out.permute(0, 2, 3, 1, 4), rays, geometry.cis)  # (B, T, N, H, D)
        return out.flatten(-2), memory.S, given.tail

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

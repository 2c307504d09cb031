"""What both kinds of self-attention share: projections, camera branch, output gate.

    out = W_o ((main + W_cam camera + b_cam) * silu(W_g a + b_g)) + b_o

as in docs/reference/transformer.md#output-gate.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.camera import Rays, apply_per_token
from wm_env.model.config import DiTConfig
from wm_env.model.layers import RMSNorm, camera_rotary, rotate


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

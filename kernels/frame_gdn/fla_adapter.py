"""flash-linear-attention's gated delta rule in our signature: an independent check for one token per frame.

With one token per frame the frame-wise rule is the ordinary, token-sequential gated delta rule, which that
library implements (its tokens are our frames). With more it is another function, so those are refused. The
normaliser is the same rule with unrotated keys and value 1. Not an implementation to run a model with.

Legend: B batch, H heads, T frames, D key dim, V value dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from torch import Tensor

from wm_env.kernels.frame_gdn.naive import GDNMemory

Rule = Callable[..., tuple[Tensor, Tensor]]


def frame_gdn_fla(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: GDNMemory | None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-8,
    on_gpu: bool = False,
) -> tuple[Tensor, GDNMemory]:
    """Return (out, memory) as `frame_gdn` does with every frame a chunk; shapes as there, with N = 1.

    on_gpu: use the library's Triton kernels instead of its torch reference (which computes in float32).
    """
    if k.shape[3] != 1:
        raise ValueError(f"flash-linear-attention agrees only for one token per frame, got N={k.shape[3]}")
    rule: Rule = chunk_gated_delta_rule if on_gpu else naive_recurrent_gated_delta_rule

    def run(q: Tensor, k: Tensor, v: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        out, end = rule(
            q=q[:, :, :, 0].transpose(1, 2),  # (B,T,H,D)
            k=k[:, :, :, 0].transpose(1, 2),
            v=v[:, :, :, 0].transpose(1, 2),  # (B,T,H,V)
            beta=beta[..., 0].transpose(1, 2),  # (B,T,H)
            g=g.transpose(1, 2),  # (B,T,H)
            scale=1.0,
            initial_state=start,
            output_final_state=True,
        )
        return out.transpose(1, 2)[:, :, :, None], end  # (B,H,T,1,V), (B,H,D,V)

    out, S = run(q, k, v, None if state is None else state.S)
    if q_norm is None or k_norm is None:
        return out.to(v.dtype), GDNMemory(S, None)
    ones = torch.ones_like(v)  # the library's kernels want a full value dim: every column is the same
    start = None if state is None or state.z is None else state.z[..., None].expand_as(state.S)
    den, z = run(q_norm, k_norm, ones, start)
    return (out / (den[..., :1] + eps)).to(v.dtype), GDNMemory(S, z[..., 0])

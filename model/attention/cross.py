"""Text cross-attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.config import DiTConfig
from wm_env.model.layers import RMSNorm


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

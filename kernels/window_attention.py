"""Softmax attention over sink + recent window + current chunk, without a mask where none is needed.

    out_i = softmax(scale q_i K_i^T) V_i ,  K_i = [past keys | keys of all frames before the end of i's chunk]

The window is whatever keys the caller passes as `past` (already rotated). Chunk-causality is one product per
chunk on a prefix of the keys, so no mask is built; only padding inside `past` (a batch whose episodes have
different lengths) needs one.

Legend: B batch, H heads, T latent frames, N tokens per frame, P past tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.kernels.frame_gdn.naive import chunk_ends


def window_attention(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    past_valid: Tensor | None = None,
    chunk_starts: Sequence[int] = (0,),
    scale: float | None = None,
) -> Tensor:
    """Return `(B,H,T,N,D)` in v's dtype, by scaled_dot_product_attention.

    q, k, v: `(B,H,T,N,D)`, rotated. past_k, past_v: `(B,H,P,D)`, both or none; P may be 0.
    past_valid: `(B,P)` bool, False = padding that nothing attends to; None = all valid. Keep it on the CPU:
        whether a mask is needed is decided by reading it.
    chunk_starts: first frame of every chunk. scale: default D^-1/2.
    """
    ends, keys, values = _prepare(q, k, v, past_k, past_v, past_valid, chunk_starts)
    b, h, frames, n, d = q.shape
    past = keys.shape[2] - frames * n
    mask = None
    if past_valid is not None and not bool(past_valid.all()):
        present = torch.ones(b, frames * n, dtype=torch.bool, device=q.device)
        unwaited = q.device.type in ("cuda", "meta")  # the copy is queued behind what the device is at
        known = past_valid.to(q.device, non_blocking=unwaited)
        mask = torch.cat([known, present], 1)[:, None, None]  # (B,1,1,P+T*N)
    outs = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        seen = past + end * n
        outs.append(
            F.scaled_dot_product_attention(
                q[:, :, begin:end].flatten(2, 3),  # (B,H,t*N,D)
                keys[:, :, :seen],
                values[:, :, :seen],
                attn_mask=None if mask is None else mask[..., :seen],
                scale=scale,
            )
        )
    out = outs[0] if len(outs) == 1 else torch.cat(outs, 2)  # (B,H,T*N,D)
    return out.to(v.dtype).view(b, h, frames, n, d)


def window_attention_naive(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    past_valid: Tensor | None = None,
    chunk_starts: Sequence[int] = (0,),
    scale: float | None = None,
) -> Tensor:
    """Return the same as `window_attention`, written as the softmax of one full masked score matrix."""
    ends, keys, values = _prepare(q, k, v, past_k, past_v, past_valid, chunk_starts)
    b, _, frames, n, d = q.shape
    past = keys.shape[2] - frames * n
    end_of = torch.empty(frames, dtype=torch.long)  # end of the chunk of each frame
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        end_of[begin:end] = end
    limit = past + end_of.repeat_interleave(n) * n  # (T*N,) number of keys a query may see
    seen = torch.arange(keys.shape[2]) < limit[:, None]  # (T*N, P+T*N)
    allowed = seen.expand(b, 1, -1, -1).clone()  # (B,1,T*N,P+T*N)
    if past_valid is not None:
        allowed[..., :past] &= past_valid.cpu()[:, None, None]
    scores = q.flatten(2, 3) @ keys.transpose(-1, -2) * (d**-0.5 if scale is None else scale)
    weights = scores.masked_fill(~allowed.to(q.device), -torch.inf).softmax(-1)  # (B,H,T*N,P+T*N)
    return (weights @ values).unflatten(2, (frames, n)).to(v.dtype)


def _prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None,
    past_v: Tensor | None,
    past_valid: Tensor | None,
    chunk_starts: Sequence[int],
) -> tuple[list[int], Tensor, Tensor]:
    """Return chunk ends, keys and values `(B,H,P+T*N,D)` in token order, after checking shapes."""
    if q.ndim != 5 or q.numel() == 0 or q.shape != k.shape or q.shape != v.shape:
        shapes = (tuple(q.shape), tuple(k.shape), tuple(v.shape))
        raise ValueError(f"q, k, v must be non-empty (B,H,T,N,D) of one shape; got {shapes}")
    b, h, frames, _, d = q.shape
    ends = chunk_ends(chunk_starts, frames)
    keys, values = k.flatten(2, 3), v.flatten(2, 3)  # (B,H,T*N,D)
    if past_k is None and past_v is None:
        if past_valid is not None:
            raise ValueError("past_valid says which past tokens exist, but past_k and past_v are missing")
        return ends, keys, values
    if past_k is None or past_v is None or past_k.shape != past_v.shape or past_k.shape[:2] != (b, h):
        raise ValueError(f"past_k and past_v come together as (B,H,P,D) with B={b}, H={h}, D={d}")
    if past_k.shape[3] != d or (past_valid is not None and past_valid.shape != (b, past_k.shape[2])):
        got = None if past_valid is None else tuple(past_valid.shape)
        raise ValueError(
            f"past_k {tuple(past_k.shape)} needs D={d} and past_valid (B,P); got past_valid {got}"
        )
    return ends, torch.cat([past_k.to(k.dtype), keys], 2), torch.cat([past_v.to(v.dtype), values], 2)

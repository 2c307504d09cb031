"""Frame-wise gated delta rule in matrix form: plain torch, no loop over tokens; the CPU path.

One frame acts on the memory as an affine map. With decay d_t = exp(g_t):

    P_t = K_t^T diag(beta_t) K_t   A_t = K_t^T diag(beta_t) V_t   W_t = d_t (I - P_t)   all frames at once
    S_t = W_t S_{t-1} + A_t                                       one small product per frame
    O_t = Q_t (S_t + S^r_t)                                       all frames at once

The normaliser is the same map with unrotated keys and value 1. The backward pass is written by hand, with R_t
the gradient that reaches S_t (what reaches the reverse memory adds terms of the same form):

    R_t = Q_t^T dO_t + W_{t+1}^T R_{t+1}     dA_t = R_t     Y_t = R_t S_{t-1}^T     dP_t = -d_t Y_t
    dg_t = <Y_t, W_t>                        dK = beta (V dA^T + K (dP + dP^T))     dV = beta (K dA)
    dbeta = (K dA) . V + (K dP) . K           (row by row)

Products over tokens run in the dtype of the inputs (bfloat16 operands are summed in float32 and rounded once),
the memory and the steps between frames in float32. A single frame (a streaming step) skips P, which costs more
than it saves there, and writes the residual beta (V - K d S) directly.

Legend: B batch, H heads, T latent frames, N tokens per frame, D key dim, V value dim; G = B*H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wm_env.kernels.frame_gdn.naive import GDNMemory, chunk_ends, state_dtype


def frame_gdn_chunk(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: GDNMemory | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    chunk_starts: Sequence[int],
    eps: float,
    every_chunk: bool,
) -> tuple[Tensor, GDNMemory]:
    """Return (out, memory) by the matrix form above; arguments as in `frame_gdn`. Once differentiable."""
    b, h, frames, n, dv = v.shape
    ends = chunk_ends(chunk_starts, frames)
    token = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    memory = state_dtype(v)

    def flat(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).flatten(0, 1)  # (G, ...)

    with torch.autocast(v.device.type, enabled=False):
        q_, k_, v_, beta_ = flat(q, token), flat(k, token), flat(v, token), flat(beta, token)
        g_ = flat(g, memory)  # (G,T)
        start = None if state is None else flat(state.S, memory)  # (G,D,V)
        step = _one_frame if frames == 1 else _frames
        num, S = step(q_, k_, v_, beta_, g_, start, ends, every_chunk)  # (G,T,N,V), (G,n,D,V)
        z = None
        if q_norm is not None and k_norm is not None:
            start = None if state is None or state.z is None else flat(state.z, memory)[..., None]  # (G,D,1)
            qn, kn = flat(q_norm, token), flat(k_norm, token)
            den, z = step(qn, kn, None, beta_, g_, start, ends, every_chunk)  # (G,T,N,1), (G,n,D,1)
            num = num / (den + eps)
            z = z.squeeze(-1).unflatten(0, (b, h)).transpose(1, 2)  # (B,n,H,D)
        S = S.unflatten(0, (b, h)).transpose(1, 2)  # (B,n,H,D,V)
    if not every_chunk:
        S, z = S[:, 0], None if z is None else z[:, 0]
    return num.to(v.dtype).view(b, h, frames, n, dv), GDNMemory(S, z)


def _one_frame(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    beta: Tensor,
    g: Tensor,
    start: Tensor | None,
    ends: Sequence[int],
    every_chunk: bool,
) -> tuple[Tensor, Tensor]:
    """Return the read (G,1,N,V) and memory (G,1,D,V) of one frame, by its residual (see `_frames`)."""
    q, k, beta = q[:, 0], k[:, 0], beta[:, 0, :, None]  # (G,N,D), (G,N,D), (G,N,1)
    value = 1.0 if v is None else v[:, 0]
    if start is None:
        memory = torch.bmm(k.transpose(1, 2), beta * value).to(g.dtype)  # (G,D,V)
    else:
        kept = g.exp()[:, :, None] * start  # (G,D,V)
        surprise = beta * (value - torch.bmm(k, kept.to(k.dtype)))  # (G,N,V)
        memory = kept + torch.bmm(k.transpose(1, 2), surprise)
    return torch.bmm(q, memory.to(q.dtype))[:, None], memory[:, None]


def _frames(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    beta: Tensor,
    g: Tensor,
    start: Tensor | None,
    ends: Sequence[int],
    every_chunk: bool,
) -> tuple[Tensor, Tensor]:
    """Return what the queries read (G,T,N,V) and the memory after the last (or every) chunk (G,n,D,V).

    q, k (G,T,N,D), v (G,T,N,V) or None for the value 1, beta (G,T,N), g (G,T), start (G,D,V) or None.
    """
    kept = [end - 1 for end in ends] if every_chunk else [ends[-1] - 1]
    if v is None:
        return _NormaliserFrames.apply(q, k, beta, g, start, ends, kept)
    return _MemoryFrames.apply(q, k, v, beta, g, start, ends, kept)


def _steps(erase: Tensor, decay: Tensor) -> Tensor:
    """Return W = decay (I - erase) `(G,T,D,D)` in decay's dtype."""
    steps = erase.to(decay.dtype).neg_()
    steps.diagonal(dim1=-2, dim2=-1).add_(1)
    return steps.mul_(decay[..., None, None])


def _scan(
    steps: Tensor, writes: Tensor, start: Tensor | None, ends: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return forward and reverse memories (G,T,D,V); the reverse ones None if every chunk is one frame."""
    w, a = steps.unbind(1), writes.unbind(1)
    forward = [a[0] if start is None else torch.baddbmm(a[0], w[0], start)]
    for t in range(1, len(a)):
        forward.append(torch.baddbmm(a[t], w[t], forward[-1]))
    if len(ends) == len(a):
        return torch.stack(forward, 1), None
    nothing = torch.zeros_like(a[0])
    reverse = [nothing] * len(a)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for t in range(end - 1, begin, -1):
            reverse[t - 1] = a[t] if t == end - 1 else torch.baddbmm(a[t], w[t], reverse[t])
    return torch.stack(forward, 1), torch.stack(reverse, 1)


def _scan_backward(
    steps: Tensor, d_read: Tensor, d_kept: Tensor, kept: Sequence[int], ends: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients that reach the forward memory of every frame t and the reverse memory of t-1.

    d_read (G,T,D,V), from the outputs; d_kept (G,n,D,V), from the returned memories. Both results (G,T,D,V).
    """
    wt, d = steps.transpose(-1, -2).unbind(1), d_read.unbind(1)
    returned = dict(zip(kept, d_kept.unbind(1), strict=True))
    frames = len(d)
    forward = list(d)
    for t in range(frames - 1, -1, -1):
        if t in returned:
            forward[t] = forward[t] + returned[t]
        if t + 1 < frames:
            forward[t] = torch.baddbmm(forward[t], wt[t + 1], forward[t + 1])
    if len(ends) == frames:
        return torch.stack(forward, 1), None
    nothing = torch.zeros_like(d[0])
    before = [nothing] * frames  # before[t] reaches the reverse memory of frame t-1
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for t in range(begin + 1, end):
            before[t] = d[t - 1] if t == begin + 1 else torch.baddbmm(d[t - 1], wt[t - 1], before[t - 1])
    return torch.stack(forward, 1), torch.stack(before, 1)


def _shifted(forward: Tensor, start: Tensor | None) -> Tensor:
    """Return the memory before every frame (G,T,D,V)."""
    first = torch.zeros_like(forward[:, :1]) if start is None else start[:, None]
    return torch.cat([first, forward[:, :-1]], 1)


class _MemoryFrames(torch.autograd.Function):
    """Numerator stream; the equations of the module docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        g: Tensor,
        start: Tensor | None,
        ends: Sequence[int],
        kept: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        decay = g.exp()  # (G,T)
        weighted = (beta[..., None] * k).transpose(-1, -2)  # (G,T,D,N)
        steps = _steps(torch.matmul(weighted, k), decay)  # (G,T,D,D)
        writes = torch.matmul(weighted, v).to(decay.dtype)  # (G,T,D,V)
        forward, reverse = _scan(steps, writes, start, ends)
        read = forward if reverse is None else forward + reverse
        read = read.to(q.dtype)
        ctx.save_for_backward(q, k, v, beta, decay, start, steps, forward, reverse, read)
        ctx.ends, ctx.kept = ends, kept
        return torch.matmul(q, read), forward[:, list(kept)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_kept: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, decay, start, steps, forward, reverse, read = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            dq = torch.matmul(d_out, read.transpose(-1, -2))  # (G,T,N,D)
            d_read = torch.matmul(q.transpose(-1, -2), d_out).to(decay.dtype)  # (G,T,D,V)
            r, before = _scan_backward(steps, d_read, d_kept, ctx.kept, ctx.ends)
            outer = torch.matmul(r, _shifted(forward, start).transpose(-1, -2))  # Y (G,T,D,D)
            d_write = r
            if before is not None and reverse is not None:
                outer = outer + torch.matmul(before, reverse.transpose(-1, -2))
                d_write = r + before
            d_g = (outer * steps).sum((-1, -2))  # (G,T)
            both = (outer + outer.transpose(-1, -2)).mul_(-decay[..., None, None]).to(k.dtype)  # dP + dP^T
            d_write = d_write.to(k.dtype)  # (G,T,D,V)
            wrote = torch.matmul(v, d_write.transpose(-1, -2))  # (G,T,N,D)
            erased = torch.matmul(k, both)  # (G,T,N,D)
            d_beta = (k * (wrote + 0.5 * erased)).sum(-1)  # (G,T,N)
            dk = beta[..., None] * (wrote + erased)
            dv = beta[..., None] * torch.matmul(k, d_write)
            d_start = torch.bmm(steps[:, 0].transpose(1, 2), r[:, 0]) if ctx.needs_input_grad[5] else None
        return dq, dk, dv, d_beta, d_g, d_start, None, None


class _NormaliserFrames(torch.autograd.Function):
    """Denominator stream: value 1, so dP is a sum of outer products and no D x D product is needed."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        beta: Tensor,
        g: Tensor,
        start: Tensor | None,
        ends: Sequence[int],
        kept: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        decay = g.exp()  # (G,T)
        weighted = beta[..., None] * k  # (G,T,N,D)
        steps = _steps(torch.matmul(weighted.transpose(-1, -2), k), decay)  # (G,T,D,D)
        writes = weighted.sum(-2, dtype=decay.dtype)[..., None]  # (G,T,D,1)
        forward, reverse = _scan(steps, writes, start, ends)
        read = forward if reverse is None else forward + reverse
        read = read.to(q.dtype)
        ctx.save_for_backward(q, k, beta, decay, start, steps, forward, reverse, read)
        ctx.ends, ctx.kept = ends, kept
        return torch.matmul(q, read), forward[:, list(kept)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_kept: Tensor) -> tuple[Tensor | None, ...]:
        q, k, beta, decay, start, steps, forward, reverse, read = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            dq = d_out * read.transpose(-1, -2)  # (G,T,N,D)
            d_read = torch.matmul(d_out.transpose(-1, -2), q).to(decay.dtype).transpose(-1, -2)  # (G,T,D,1)
            r, before = _scan_backward(steps, d_read, d_kept, ctx.kept, ctx.ends)
            # rows of `left` meet the memory in `right` that they were the gradient of: Y = left^T right
            left, right = r, _shifted(forward, start)
            if before is not None and reverse is not None:
                left, right = torch.cat([r, before], -1), torch.cat([right, reverse], -1)  # (G,T,D,2)
            d_g = (left * torch.matmul(steps, right)).sum((-1, -2))  # (G,T)
            pairs = torch.cat([left, right], -1).to(k.dtype)  # (G,T,D,2m)
            along = torch.matmul(k, pairs)  # (G,T,N,2m): k . left, k . right
            m = left.shape[-1]
            on_left, on_right = along[..., :m], along[..., m:]
            scale = decay.to(k.dtype)[..., None, None]
            wrote = 1 - scale * on_right  # (G,T,N,m)
            d_beta = (on_left * wrote).sum(-1)  # (G,T,N)
            weights = beta[..., None] * torch.cat([wrote, -scale * on_left], -1)  # (G,T,N,2m)
            dk = torch.matmul(weights, pairs.transpose(-1, -2))  # (G,T,N,D)
            d_start = torch.bmm(steps[:, 0].transpose(1, 2), r[:, 0]) if ctx.needs_input_grad[4] else None
        return dq, dk, d_beta, d_g, d_start, None, None

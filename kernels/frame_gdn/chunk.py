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

Products over tokens run in the dtype of the inputs (bfloat16 operands are summed in float32, then rounded),
the memory and the steps between frames in float32. A single frame (a streaming step) skips P, which costs
more than it saves there, and writes the residual beta (V - K d S) directly.

Legend: B batch, H heads, T latent frames, N tokens per frame, D key dim, V value dim; G = B*H. Inside, time
comes first, so that every frame is one contiguous block.
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
    ends = chunk_ends(chunk_starts, g.shape[2])
    kept = [end - 1 for end in ends] if every_chunk else [g.shape[2] - 1]
    token = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    with torch.autocast(v.device.type, enabled=False):
        if g.shape[2] == 1:
            out, S, z = _one_frame(q, k, v, beta, g, state, q_norm, k_norm, eps, token)
        else:
            out, S, z = _several_frames(q, k, v, beta, g, state, q_norm, k_norm, eps, token, ends, kept)
    if not every_chunk:
        S, z = S[:, 0], None if z is None else z[:, 0]
    return out.to(v.dtype), GDNMemory(S, z)


def _one_frame(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: GDNMemory | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    token: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return out (B,H,1,N,V), S (B,1,H,D,V) and z (B,1,H,D) by the residual form.

    The normaliser's vectors are kept as rows: a row times a matrix is faster than a matrix times a column.
    """
    b, h, _, n, d = k.shape
    memory = state_dtype(v)
    # (G,N,D), (G,N,V), (G,N), in one layout whatever B is
    q, k, v, beta = (x.to(token).flatten(0, 2).contiguous() for x in (q, k, v, beta))
    decay = _exp(g.to(memory).flatten())[:, None, None]  # (G,1,1)
    if state is None:
        S = torch.bmm(k.transpose(1, 2), beta[:, :, None] * v).to(memory)  # (G,D,V)
    else:
        kept = decay * state.S.to(memory).flatten(0, 1)
        write = torch.baddbmm(v, k, kept.to(token), alpha=-1) * beta[:, :, None]  # (G,N,V)
        S = _add_product(kept, k.transpose(1, 2), write)
    out, z = torch.bmm(q, S.to(token)), None  # (G,N,V)
    if q_norm is not None and k_norm is not None:
        qn, kn = (x.to(token).flatten(0, 2).contiguous() for x in (q_norm, k_norm))  # (G,N,D)
        if state is None or state.z is None:
            z = torch.bmm(beta[:, None], kn).to(memory)  # (G,1,D)
        else:
            kept = decay * state.z.to(memory).flatten(0, 1)[:, None]
            write = (1 - torch.bmm(kept.to(token), kn.transpose(1, 2))) * beta[:, None]  # (G,1,N)
            z = _add_product(kept, write, kn)
        den = torch.bmm(z.to(token), qn.transpose(1, 2)).transpose(1, 2)  # (G,N,1)
        out, z = out / (den + eps), z.view(b, 1, h, d)
    return out.view(b, h, 1, n, -1), S.view(b, 1, h, d, -1), z


def _several_frames(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: GDNMemory | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    token: torch.dtype,
    ends: Sequence[int],
    kept: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return out (B,H,T,N,V), S (B,n,H,D,V) and z (B,n,H,D) by the matrix form."""
    b, h = g.shape[:2]
    memory = state_dtype(v)

    def time_first(x: Tensor, dtype: torch.dtype) -> Tensor:
        # (B,H,T,...) -> (T,G,...); in one layout whatever B is: another one adds in another order
        return x.to(dtype).movedim(2, 0).flatten(1, 2).contiguous()

    q, k, v = time_first(q, token), time_first(k, token), time_first(v, token)  # (T,G,N,D), (T,G,N,V)
    beta, g = time_first(beta, token)[..., None], time_first(g, memory)  # (T,G,N,1), (T,G)
    start = None if state is None else state.S.to(memory).flatten(0, 1)  # (G,D,V)
    out, S = _Frames.apply(q, k, v, beta, g, start, ends, kept)  # (T,G,N,V), (n,G,D,V)
    z = None
    if q_norm is not None and k_norm is not None:
        start = None if state is None or state.z is None else state.z.to(memory).flatten(0, 1)[..., None]
        qn, kn = time_first(q_norm, token), time_first(k_norm, token)
        den, z = _Frames.apply(qn, kn, None, beta, g, start, ends, kept)  # (T,G,N,1), (n,G,D,1)
        out = out * (den + eps).reciprocal()
        z = z[..., 0].unflatten(1, (b, h)).transpose(0, 1)
    return out.unflatten(1, (b, h)).movedim(0, 2), S.unflatten(1, (b, h)).transpose(0, 1), z


def _exp(g: Tensor) -> Tensor:
    """Return exp(g), by float64: a CPU's vector and scalar code differ in the last digit of float32, and
    which of them an element meets depends on how many there are."""
    return g.double().exp().to(g.dtype)


def _add_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return x + a b in x's dtype, which may be wider than that of a and b."""
    return torch.baddbmm(x, a, b) if x.dtype == a.dtype else x + torch.bmm(a, b)


def _read(q: Tensor, memory: Tensor) -> Tensor:
    """Return q memory `(T,G,N,V)`; a single column goes through the faster row-times-matrix product."""
    if memory.shape[-1] == 1:
        return torch.matmul(memory.transpose(-1, -2), q.transpose(-1, -2)).transpose(-1, -2)
    return torch.matmul(q, memory)


class _Frames(torch.autograd.Function):
    """One stream over several frames; the equations of the module docstring.

    q, k (T,G,N,D), v (T,G,N,V) or None for the value 1, beta (T,G,N,1), g (T,G), start (G,D,V) or None.
    Returns what the queries read (T,G,N,V) and the memory after the frames `kept` (n,G,D,V).
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        beta: Tensor,
        g: Tensor,
        start: Tensor | None,
        ends: Sequence[int],
        kept: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        decay = _exp(g)[..., None, None]  # (T,G,1,1)
        weighted = beta * k  # (T,G,N,D)
        steps = torch.matmul(weighted.transpose(-1, -2), k).to(g.dtype).neg_()  # (T,G,D,D)
        steps.diagonal(dim1=-2, dim2=-1).add_(1)
        steps.mul_(decay)  # W
        if v is None:
            writes = weighted.sum(-2, dtype=g.dtype)[..., None]  # (T,G,D,1)
        else:
            writes = torch.matmul(weighted.transpose(-1, -2), v).to(g.dtype)  # (T,G,D,V)
        history, reverse = _scan(steps, writes, start, ends)
        read = history[1:].to(q.dtype) if reverse is None else (history[1:] + reverse).to(q.dtype)
        ctx.save_for_backward(q, k, v, beta, decay, steps, history, reverse, read)
        ctx.ends, ctx.kept = ends, kept
        ctx.set_materialize_grads(False)
        after = history[1:]
        return _read(q, read), after if len(kept) == len(after) else torch.stack([after[t] for t in kept])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_kept: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, beta, decay, steps, history, reverse, read = ctx.saved_tensors
        d_out = None if d_out is None else d_out.contiguous()
        with torch.autocast(q.device.type, enabled=False):
            if d_out is None:
                dq, d_read = None, torch.zeros_like(history[1:])
            elif v is None:
                dq = d_out * read.transpose(-1, -2)  # (T,G,N,D)
                d_read = torch.matmul(d_out.transpose(-1, -2), q).transpose(-1, -2).to(history.dtype)
            else:
                dq = torch.matmul(d_out, read.transpose(-1, -2))
                d_read = torch.matmul(q.transpose(-1, -2), d_out).to(history.dtype)  # (T,G,D,V)
            r, before = _scan_backward(steps, d_read, d_kept, ctx.kept, ctx.ends)
            outer = torch.matmul(r, history[:-1].transpose(-1, -2))  # Y (T,G,D,D)
            d_write = r
            if before is not None:
                outer += torch.matmul(before, reverse.transpose(-1, -2))
                d_write = r + before
            d_g = (outer * steps).sum((-1, -2))  # (T,G)
            d_erase = (outer + outer.transpose(-1, -2)).mul_(-decay).to(k.dtype)  # dP + dP^T
            d_write = d_write.to(k.dtype)
            erased = torch.matmul(k, d_erase)  # (T,G,N,D)
            wrote = d_write.transpose(-1, -2)  # (T,G,1,D) if every value is 1
            dv = None
            if v is not None:
                wrote = torch.matmul(v, wrote)  # (T,G,N,D)
                dv = torch.matmul(k, d_write).mul_(beta)  # (T,G,N,V)
            dk = erased + wrote
            d_beta = erased.mul_(-0.5).add_(dk).mul_(k).sum(-1, keepdim=True)  # k . (wrote + erased / 2)
            dk.mul_(beta)
            d_start = torch.bmm(steps[0].transpose(1, 2), r[0]) if ctx.needs_input_grad[5] else None
        return dq, dk, dv, d_beta, d_g, d_start, None, None


def _scan(
    steps: Tensor, writes: Tensor, start: Tensor | None, ends: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return the memory before every frame and after the last (T+1,G,D,V), and the reverse memory of every
    frame (T,G,D,V), None if every chunk is one frame."""
    frames = len(writes)
    history = writes.new_empty(frames + 1, *writes.shape[1:])
    history[0] = 0 if start is None else start
    for t in range(frames):
        torch.baddbmm(writes[t], steps[t], history[t], out=history[t + 1])
    if len(ends) == frames:
        return history, None
    reverse = torch.zeros_like(writes)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for t in range(end - 1, begin, -1):
            torch.baddbmm(writes[t], steps[t], reverse[t], out=reverse[t - 1])
    return history, reverse


def _scan_backward(
    steps: Tensor, d_read: Tensor, d_kept: Tensor | None, kept: Sequence[int], ends: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients that reach the memory after every frame t, and the reverse memory of frame t-1.

    d_read (T,G,D,V), from the outputs; d_kept (n,G,D,V), from the returned memories. Both results (T,G,D,V).
    """
    frames = len(d_read)
    back = steps.transpose(-1, -2)
    forward = d_read.clone()
    if d_kept is not None:
        forward[list(kept)] += d_kept
    for t in range(frames - 2, -1, -1):
        forward[t].baddbmm_(back[t + 1], forward[t + 1])
    if len(ends) == frames:
        return forward, None
    before = torch.zeros_like(d_read)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for t in range(begin + 1, end):
            torch.baddbmm(d_read[t - 1], back[t - 1], before[t - 1], out=before[t])
    return forward, before

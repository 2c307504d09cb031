"""Frame-wise gated delta rule in matrix form: plain torch, autograd, no loop over tokens; the CPU path.

One frame acts on the memory as an affine map (decay d_t = exp(g_t)):

    P_t = K_t^T diag(beta_t) K_t     A_t = K_t^T diag(beta_t) V_t        in parallel over all frames
    S_t = d_t (I - P_t) S_{t-1} + A_t                                    one small product per frame
    O_t = Q_t (S_t + S^r_t)                                              in parallel over all frames

The normaliser is the same map with unrotated keys and value 1. A single frame (a streaming step) skips P,
which costs more than it saves there, and writes the residual beta (V - K d S) directly.

Legend: B batch, H heads, T latent frames, N tokens per frame, D key dim, V value dim; G = B*H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wm_env.kernels.frame_gdn.naive import GDNMemory, chunk_ends, state_dtype


def _one_frame(k: Tensor, v: Tensor | float, beta: Tensor, decay: Tensor, start: Tensor | None) -> Tensor:
    """Return the memory (G,D,V) after one frame: k (G,N,D), v (G,N,V) or 1, beta (G,N,1), decay (G,1,1)."""
    if start is None:
        return torch.bmm(k.transpose(1, 2), beta * v)
    kept = decay * start  # (G,D,V)
    return torch.baddbmm(kept, k.transpose(1, 2), beta * (v - torch.bmm(k, kept)))


def _scan(
    k: Tensor, v: Tensor | None, beta: Tensor, decay: Tensor, start: Tensor | None, ends: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Return the memories read by each frame (G,T,D,V) and the list of forward memories (G,D,V) per frame.

    k (G,T,N,D), v (G,T,N,V) or None for the value 1, beta (G,T,N,1), decay (G,T,1,1), start (G,D,V).
    """
    frames, d = k.shape[1], k.shape[3]
    weighted = (beta * k).transpose(-1, -2)  # (G,T,D,N)
    erase = torch.matmul(weighted, k)  # (G,T,D,D)
    write = weighted.sum(-1, keepdim=True) if v is None else torch.matmul(weighted, v)  # (G,T,D,V)
    eye = torch.eye(d, dtype=k.dtype, device=k.device)
    steps = (decay * (eye - erase)).unbind(1)  # T x (G,D,D)
    writes = write.unbind(1)  # T x (G,D,V)

    memory = writes[0] if start is None else torch.baddbmm(writes[0], steps[0], start)
    forward = [memory]
    for t in range(1, frames):
        memory = torch.baddbmm(writes[t], steps[t], memory)
        forward.append(memory)

    read = list(forward)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for t in range(end - 1, begin, -1):  # the reverse memory is zero at the last frame of a chunk
            memory = writes[t] if t == end - 1 else torch.baddbmm(writes[t], steps[t], memory)
            read[t - 1] = forward[t - 1] + memory
    return torch.stack(read, 1), forward


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
    """Return (out, memory) by the matrix form above; arguments as in `frame_gdn`."""
    dtype = state_dtype(v)
    b, h, frames, n, dv = v.shape
    ends = chunk_ends(chunk_starts, frames)
    kept = [end - 1 for end in ends] if every_chunk else [frames - 1]

    def flat(x: Tensor) -> Tensor:
        return x.to(dtype).flatten(0, 1)  # (G, ...)

    with torch.autocast(v.device.type, enabled=False):
        beta_ = flat(beta)[..., None]  # (G,T,N,1)
        decay = flat(g).exp()[..., None, None]  # (G,T,1,1)
        k_, v_, q_ = flat(k), flat(v), flat(q)
        S0 = None if state is None else flat(state.S)  # (G,D,V)
        if frames == 1:
            memory = _one_frame(k_[:, 0], v_[:, 0], beta_[:, 0], decay[:, 0], S0)
            out, forward = torch.bmm(q_[:, 0], memory)[:, None], [memory]
        else:
            read, forward = _scan(k_, v_, beta_, decay, S0, ends)
            out = torch.matmul(q_, read)  # (G,T,N,V)
        S = _gather(forward, kept, b, every_chunk)
        z = None
        if q_norm is not None and k_norm is not None:
            kn, qn = flat(k_norm), flat(q_norm)
            z0 = None if state is None or state.z is None else flat(state.z)[..., None]  # (G,D,1)
            if frames == 1:
                memory = _one_frame(kn[:, 0], 1.0, beta_[:, 0], decay[:, 0], z0)
                den, forward = torch.bmm(qn[:, 0], memory)[:, None], [memory]
            else:
                read, forward = _scan(kn, None, beta_, decay, z0, ends)
                den = torch.matmul(qn, read)  # (G,T,N,1)
            out = out / (den + eps)
            z = _gather(forward, kept, b, every_chunk)[..., 0]
    return out.to(v.dtype).view(b, h, frames, n, dv), GDNMemory(S, z)


def _gather(forward: list[Tensor], kept: Sequence[int], batch: int, every_chunk: bool) -> Tensor:
    """Return the forward memories (G,D,V) of the kept frames as (B,H,D,V), or (B,n,H,D,V) for every chunk."""
    if not every_chunk:
        return forward[kept[-1]].unflatten(0, (batch, -1))
    return torch.stack([forward[t].unflatten(0, (batch, -1)) for t in kept], dim=1)

"""Frame-wise gated delta rule, frame by frame: the definition that every other version must match.

Per batch element and head, with the N tokens of frame t as the rows of K_t, Q_t, V_t (SANA-WM, section on the
frame-wise Gated DeltaNet):

    S' = exp(g_t) S_{t-1}
    S_t = S' + K_t^T diag(beta_t) (V_t - K_t S')        all N tokens of a frame write at once
    z'  = exp(g_t) z_{t-1}                              normaliser: unrotated keys, constant value 1
    z_t = z' + Kn_t^T diag(beta_t) (1 - Kn_t z')

Frames of one chunk also see each other backwards. The reverse memory is exclusive: it is zero at the last
frame of a chunk, and S^r_t follows from S^r_{t+1} by the step of frame t+1 above. The output adds both
memories before it divides:

    O_t = Q_t (S_t + S^r_t) / (Qn_t (z_t + z^r_t) + eps)

without the division when no normaliser keys are given (the camera branch).

Legend: B batch, H heads, T latent frames, N tokens per frame, D key dim, V value dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class GDNMemory(NamedTuple):
    """What the frame-wise delta rule remembers between calls.

    S: `(B, H, D, V)` float32 (float64 for float64 inputs), key-value memory.
    z: `(B, H, D)` of the same dtype, its normaliser; None for the numerator-only form.

    With `every_chunk=True` both have an axis after B, one entry per chunk.
    """

    S: Tensor
    z: Tensor | None


def state_dtype(v: Tensor) -> torch.dtype:
    """Return the dtype of the memory: float64 for float64 values, else float32 (it sums over every frame)."""
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def chunk_ends(chunk_starts: Sequence[int], frames: int) -> list[int]:
    """Return the exclusive end of every chunk; the starts must be 0 = c_0 < c_1 < ... < frames."""
    ends = [*chunk_starts[1:], frames]
    if (
        not chunk_starts
        or chunk_starts[0] != 0
        or any(b <= a for a, b in zip(chunk_starts, ends, strict=True))
    ):
        raise ValueError(
            f"chunk_starts={tuple(chunk_starts)} must rise strictly from 0 and stay below the {frames} frames"
        )
    return ends


def _step(memory: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """Return the memory (B,H,D,V) after one frame: k (B,H,N,D), v (B,H,N,V), beta (B,H,N), decay (B,H)."""
    kept = decay[..., None, None] * memory  # (B,H,D,V)
    surprise = v - torch.einsum("bhnd,bhdv->bhnv", k, kept)  # (B,H,N,V)
    return kept + torch.einsum("bhnd,bhn,bhnv->bhdv", k, beta, surprise)


def _memories(
    k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, start: Tensor, ends: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return, per frame, the memory that its queries read and the forward memory after it."""
    forward = []
    memory = start
    for t in range(k.shape[2]):
        memory = _step(memory, k[:, :, t], v[:, :, t], beta[:, :, t], decay[:, :, t])
        forward.append(memory)
    read = list(forward)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        memory = torch.zeros_like(start)
        for t in range(end - 1, begin, -1):
            memory = _step(memory, k[:, :, t], v[:, :, t], beta[:, :, t], decay[:, :, t])
            read[t - 1] = forward[t - 1] + memory
    return read, forward


def frame_gdn_naive(
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
    """Return (out, memory) by the recurrence above; arguments as in `frame_gdn`."""
    dtype = state_dtype(v)
    b, h, frames, _, d = k.shape
    ends = chunk_ends(chunk_starts, frames)
    with torch.autocast(v.device.type, enabled=False):
        beta_, decay = beta.to(dtype), g.to(dtype).exp()
        start = v.new_zeros(b, h, d, v.shape[-1], dtype=dtype) if state is None else state.S.to(dtype)
        read, forward = _memories(k.to(dtype), v.to(dtype), beta_, decay, start, ends)
        out = torch.stack([q[:, :, t].to(dtype) @ read[t] for t in range(frames)], dim=2)  # (B,H,T,N,V)
        kept = [end - 1 for end in ends] if every_chunk else [frames - 1]
        S = torch.stack([forward[t] for t in kept], dim=1)  # (B,n,H,D,V)
        z = None
        if q_norm is not None and k_norm is not None:
            ones = v.new_ones(*v.shape[:-1], 1, dtype=dtype)  # (B,H,T,N,1)
            start = start.new_zeros(b, h, d) if state is None or state.z is None else state.z.to(dtype)
            read, forward = _memories(k_norm.to(dtype), ones, beta_, decay, start[..., None], ends)
            den = torch.stack(
                [q_norm[:, :, t].to(dtype) @ read[t] for t in range(frames)], dim=2
            )  # (B,H,T,N,1)
            out = out / (den + eps)
            z = torch.stack([forward[t][..., 0] for t in kept], dim=1)  # (B,n,H,D)
    if not every_chunk:
        S, z = S[:, 0], None if z is None else z[:, 0]
    return out.to(v.dtype), GDNMemory(S, z)

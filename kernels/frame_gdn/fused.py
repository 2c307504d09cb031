"""Frame-wise gated delta rule by the Triton kernels: launches, and the autograd.Function that joins them.

Runs on CUDA tensors, or on CPU tensors under the Triton interpreter (`TRITON_INTERPRET=1` before the first
import). Token tensors are read and written with the strides they have; nothing of size T*N is stored for the
backward pass beyond the inputs and the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from wm_env.kernels.frame_gdn.naive import GDNMemory, chunk_ends
from wm_env.kernels.frame_gdn.triton_bwd import (
    gram_backward_kernel,
    read_backward_kernel,
    step_backward_kernel,
)
from wm_env.kernels.frame_gdn.triton_fwd import gram_kernel, read_kernel, scan_kernel

LARGEST_DIM = 128
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROGRAMS = 512  # enough to fill any GPU; fewer, longer programs read each memory less often
NO_STRIDES = (0, 0, 0, 0)


class Marks(NamedTuple):
    """Chunk structure on the device, int32."""

    first: Tensor  # (T,) 1 at the first frame of a chunk
    last: Tensor  # (T,) 1 at the last frame of a chunk
    restart: Tensor  # (2, T) where the forward scans begin anew, up and down
    restart_backward: Tensor  # (2, T) the same for the backward scans
    slots: Tensor  # (T,) index of the returned memory after frame t, -1 if it is not returned


class Blocks(NamedTuple):
    """Block sizes and launch settings of one problem."""

    BN: int
    BD: int
    BV: int
    BC: int
    BK: int  # 0 where D x D operands of the last backward kernel fit on the chip
    warps: int
    tokens_per_program: int
    PRECISION: str  # of products of float32 operands


@lru_cache(maxsize=64)
def _marks(ends: tuple[int, ...], kept: tuple[int, ...], device: torch.device) -> Marks:
    frames = ends[-1]
    last = [int(t + 1 in ends) for t in range(frames)]
    first = [1, *last[:-1]]
    slots = [kept.index(t) if t in kept else -1 for t in range(frames)]
    never = [0] * frames
    rows = (first, last, [never, last], [first, never], slots)
    return Marks(*(torch.tensor(row, dtype=torch.int32, device=device) for row in rows))


def _blocks(k: Tensor, value_dim: int) -> Blocks:
    b, h, frames, tokens, key_dim = k.shape
    exact = k.dtype == torch.float32
    width = max(16, triton.next_power_of_2(key_dim))
    wide_exact = exact and width > 64
    block = 16 if wide_exact else 64
    splits = min(triton.cdiv(PROGRAMS, b * h * frames), triton.cdiv(tokens, block))
    return Blocks(
        BN=block,
        BD=width,
        BV=max(16, triton.next_power_of_2(value_dim)),
        BC=min(32, max(16, triton.next_power_of_2(value_dim))),
        BK=32 if wide_exact else 0,
        warps=8 if width > 64 else 4,
        tokens_per_program=triton.cdiv(triton.cdiv(tokens, splits), block) * block,
        PRECISION="tf32x3" if exact else "tf32",
    )


def frame_gdn_triton(
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
    """Return (out, memory) by the Triton kernels; arguments as in `frame_gdn`. Once differentiable."""
    frames, key_dim, value_dim = k.shape[2], k.shape[4], v.shape[4]
    ends = tuple(chunk_ends(chunk_starts, frames))
    kept = tuple(end - 1 for end in ends) if every_chunk else (frames - 1,)
    token = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    if token not in DTYPES:
        raise ValueError(
            f"impl='triton' takes float32, bfloat16 or float16, not {token}; use 'naive' or 'chunk'"
        )
    if max(key_dim, value_dim) > LARGEST_DIM:
        raise ValueError(f"impl='triton' takes head dims up to {LARGEST_DIM}, got D={key_dim}, V={value_dim}")
    if not k.is_cuda and not triton.knobs.runtime.interpret:
        raise ValueError(f"impl='triton' needs CUDA tensors, got {k.device}; use impl='chunk'")
    if token == torch.bfloat16 and triton.knobs.runtime.interpret:
        raise ValueError(
            "the Triton interpreter multiplies bfloat16 as integers; use float32 or float16 there"
        )

    def tokens(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        x = x.to(token)
        return x if x.stride(-1) == 1 else x.contiguous()

    S, z = (None, None) if state is None else (state.S.float(), None if state.z is None else state.z.float())
    out, S, z = _FrameGDN.apply(
        tokens(q),
        tokens(k),
        tokens(v),
        beta,
        g.float(),
        S,
        z,
        tokens(q_norm),
        tokens(k_norm),
        ends,
        kept,
        eps,
    )
    if not every_chunk:
        S, z = S[:, 0], None if z is None else z[:, 0]
    return out.to(v.dtype), GDNMemory(S, z)


def _strides(x: Tensor | None) -> tuple[int, ...]:
    return NO_STRIDES if x is None else x.stride()[:4]


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()  # (B,H,...), read as (G,...)


class _FrameGDN(torch.autograd.Function):
    """All streams of one call; shapes as in `frame_gdn`, memories (B,n,H,D,V) and (B,n,H,D)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        g: Tensor,
        S: Tensor | None,
        z: Tensor | None,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        ends: tuple[int, ...],
        kept: tuple[int, ...],
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        b, h, frames, tokens, d = k.shape
        dv, groups, normalised, reverse = v.shape[4], b * h, k_norm is not None, len(ends) < frames
        marks, blocks = _marks(ends, kept, k.device), _blocks(k, dv)
        g, S, z = g.contiguous(), _flat(S), _flat(z)

        def buffer(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=k.device)

        erase, write = buffer(groups, frames, d, d), buffer(groups, frames, d, dv)
        states = buffer(1 + reverse, groups, frames, d, dv)
        erase_z = write_z = states_z = None
        if normalised:
            erase_z, write_z = buffer(groups, frames, d, d), buffer(groups, frames, d)
            states_z = buffer(1 + reverse, groups, frames, d)
        gram_kernel[(groups * frames, 2 + normalised)](
            k, v, k_norm, beta, erase, write, erase_z, write_z,
            _strides(k), _strides(v), _strides(k_norm), _strides(beta), h, frames, tokens, d, dv,
            BN=blocks.BN, BD=blocks.BD, BV=blocks.BV, PRECISION=blocks.PRECISION,
            num_warps=blocks.warps, num_stages=3,
        )  # fmt: skip
        columns = triton.cdiv(dv, blocks.BC)
        scan_kernel[(groups, columns + normalised, 1 + reverse)](
            g, marks.restart, marks.slots, erase, write, None, S, states, erase_z, write_z, None, z, states_z,
            groups, frames, len(kept), d, dv, columns,
            FIRST=0, LAG=0, HAS_START=S is not None, HAS_EXTRA=False,
            BD=blocks.BD, BC=blocks.BC, PRECISION=blocks.PRECISION, num_warps=blocks.warps, num_stages=2,
        )  # fmt: skip
        out = torch.empty_like(v)
        read_kernel[(groups * frames, triton.cdiv(tokens, blocks.tokens_per_program))](
            q, q_norm, states, states_z, marks.last, out, _strides(q), _strides(q_norm), _strides(out), eps,
            groups, h, frames, tokens, d, dv, blocks.tokens_per_program,
            NORMALISED=normalised, REVERSE=reverse,
            BN=blocks.BN, BD=blocks.BD, BV=blocks.BV, PRECISION=blocks.PRECISION,
            num_warps=blocks.warps, num_stages=2,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, beta, g, S, z, q_norm, k_norm, out, erase, states, erase_z, states_z)
        ctx.ends, ctx.kept, ctx.eps = ends, kept, eps
        ctx.set_materialize_grads(False)
        after = _kept(states[0], kept).unflatten(0, (b, h)).transpose(1, 2)  # (B,n,H,D,V)
        if states_z is None:
            return out, after, None
        return out, after, _kept(states_z[0], kept).unflatten(0, (b, h)).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_out: Tensor | None, d_S: Tensor | None, d_z: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, beta, g, S, z, q_norm, k_norm, out, erase, states, erase_z, states_z = ctx.saved_tensors
        b, h, frames, tokens, d = k.shape
        dv, groups, normalised, reverse = v.shape[4], b * h, k_norm is not None, len(ctx.ends) < frames
        marks, blocks = _marks(ctx.ends, ctx.kept, k.device), _blocks(k, dv)
        n = len(ctx.kept)

        def buffer(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=k.device)

        if d_out is None:
            d_out = torch.zeros_like(out)
        d_out = d_out if d_out.stride(-1) == 1 else d_out.contiguous()
        extra = d_S is not None or d_z is not None
        if extra:
            d_S = torch.zeros(b, n, h, d, dv, device=k.device) if d_S is None else d_S
            d_S = d_S.transpose(1, 2).contiguous()  # (B,H,n,D,V)
            if normalised:
                d_z = torch.zeros(b, n, h, d, device=k.device) if d_z is None else d_z
                d_z = d_z.transpose(1, 2).contiguous()
        d_q, d_k, d_v, d_beta, d_g = (torch.empty_like(x) for x in (q, k, v, beta, g))
        d_read, d_states = buffer(groups, frames, d, dv), buffer(2, groups, frames, d, dv)
        d_erase, d_write = buffer(groups, frames, d, d), buffer(groups, frames, d, dv)
        d_q_norm = d_k_norm = d_read_z = d_states_z = None
        if normalised:
            d_q_norm, d_k_norm = torch.empty_like(q_norm), torch.empty_like(k_norm)
            d_read_z, d_states_z = buffer(groups, frames, d), buffer(2, groups, frames, d)
        sizes = {"BN": blocks.BN, "BD": blocks.BD, "BV": blocks.BV, "PRECISION": blocks.PRECISION}
        read_backward_kernel[(groups * frames,)](
            q, q_norm, states, states_z, marks.last, out, d_out, d_q, d_q_norm, d_read, d_read_z,
            _strides(q), _strides(q_norm), _strides(out), _strides(d_out), _strides(d_q), _strides(d_q_norm),
            ctx.eps, groups, h, frames, tokens, d, dv,
            NORMALISED=normalised, REVERSE=reverse, **sizes, num_warps=blocks.warps, num_stages=2,
        )  # fmt: skip
        columns = triton.cdiv(dv, blocks.BC)
        scan_kernel[(groups, columns + normalised, 1 + reverse)](
            g, marks.restart_backward, marks.slots, erase, d_read, d_S, None, d_states,
            erase_z, d_read_z, d_z, None, d_states_z, groups, frames, n, d, dv, columns,
            FIRST=0 if reverse else 1, LAG=1, HAS_START=False, HAS_EXTRA=extra,
            BD=blocks.BD, BC=blocks.BC, PRECISION=blocks.PRECISION, num_warps=blocks.warps, num_stages=2,
        )  # fmt: skip
        flags = {"HAS_START": S is not None, "NORMALISED": normalised, "REVERSE": reverse}
        step_backward_kernel[(groups * frames,)](
            g, marks.first, marks.last, erase, S, states, d_states, erase_z, z, states_z, d_states_z,
            d_erase, d_write, d_g, groups, frames, d, dv,
            **flags, BD=blocks.BD, BC=blocks.BC, PRECISION=blocks.PRECISION,
            num_warps=blocks.warps, num_stages=2,
        )  # fmt: skip
        gram_backward_kernel[(groups * frames, triton.cdiv(tokens, blocks.tokens_per_program))](
            k, v, k_norm, beta, g, marks.first, marks.last, d_erase, d_write, z, states_z, d_states_z,
            d_k, d_v, d_k_norm, d_beta, _strides(k), _strides(v), _strides(k_norm), _strides(beta),
            _strides(d_k), _strides(d_v), _strides(d_k_norm), _strides(d_beta),
            groups, h, frames, tokens, d, dv, blocks.tokens_per_program,
            **flags, **sizes, BK=blocks.BK, num_warps=blocks.warps, num_stages=2,
        )  # fmt: skip
        d_start, d_start_z = _start_gradients(ctx, g, erase, d_states, erase_z, d_states_z, b, h)
        return d_q, d_k, d_v, d_beta, d_g, d_start, d_start_z, d_q_norm, d_k_norm, None, None, None


def _kept(states: Tensor, kept: tuple[int, ...]) -> Tensor:
    """Return the frames `kept` of `(G,T,...)`, copied; a list as index would wait for the device."""
    return torch.stack([states[:, t] for t in kept], 1)


def _start_gradients(
    ctx: Any,
    g: Tensor,
    erase: Tensor,
    d_states: Tensor,
    erase_z: Tensor | None,
    d_states_z: Tensor | None,
    b: int,
    h: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Return W_0^T R_0 (B,H,D,V) and the same for the normaliser (B,H,D), None where not needed."""
    decay = g[:, :, 0].exp().flatten()[:, None, None]  # (G,1,1)
    d_start = d_start_z = None
    if ctx.needs_input_grad[5]:
        r = d_states[1, :, 0]  # (G,D,V)
        d_start = (decay * torch.baddbmm(r, erase[:, 0], r, alpha=-1)).unflatten(0, (b, h))
    if ctx.needs_input_grad[6] and erase_z is not None and d_states_z is not None:
        r = d_states_z[1, :, 0, :, None]  # (G,D,1)
        d_start_z = (decay * torch.baddbmm(r, erase_z[:, 0], r, alpha=-1)).squeeze(-1).unflatten(0, (b, h))
    return d_start, d_start_z

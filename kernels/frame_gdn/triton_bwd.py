"""Triton backward kernels of the frame-wise gated delta rule.

Going back through read, scan and gram (equations in `chunk.py`; R_t, r_t are the gradients that reach the
forward memories S_t, z_t, and U_t, u_t those that reach the reverse memory of frame t):

    read_backward   dQ = dO~ M^T, dM = Q^T dO~, with dO~ = dO / den, and the same for the normaliser
    scan (forward's kernel, since every P is symmetric)
                    R_t = W_{t+1} R_{t+1} + dM_t,   U_t = W_t U_{t-1} + dM_t, from zero at every chunk start
    step_backward   Y = R_t S_{t-1}^T + U_{t-1} E_{t+1}^T,  dP + dP^T = -d (Y + Y^T),  dA = R_t + U_{t-1},
                    dg = d <Y, I - P>
    gram_backward   dK = beta (V dA^T + K (dP + dP^T)),  dV = beta K dA,  dbeta = k . (V dA^T + K dP)

Legend and conventions as in `triton_fwd.py`.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl

from wm_env.kernels.frame_gdn.triton_fwd import (
    frame_offset,
    load_matrix,
    load_read,
    load_read_z,
    load_tokens,
    store_matrix,
    store_tokens,
)


@triton.jit
def read_backward_kernel(
    q, q_norm, states, states_z, last, out, d_out, d_q, d_q_norm, d_memory, d_z,
    q_strides, q_norm_strides, out_strides, d_out_strides, d_q_strides, d_q_norm_strides, eps,
    groups, heads, frames, tokens, key_dim, value_dim,
    NORMALISED: tl.constexpr, REVERSE: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (G*T): dQ, dQn and the gradient of the memory read, (D,V) and (D,) per frame."""
    frame = tl.program_id(0)
    wide = frame.to(tl.int64)
    is_last = tl.load(last + frame % frames)
    cols_d, cols_v = tl.arange(0, BD), tl.arange(0, BV)
    memory = load_read(states, groups, frames, frame, is_last, key_dim, value_dim, BD, BV, REVERSE)
    memory = memory.to(q.dtype.element_ty)
    x = q + frame_offset(frame, heads, frames, q_strides)
    dx = d_q + frame_offset(frame, heads, frames, d_q_strides)
    dy = d_out + frame_offset(frame, heads, frames, d_out_strides)
    if NORMALISED:
        xn = q_norm + frame_offset(frame, heads, frames, q_norm_strides)
        dxn = d_q_norm + frame_offset(frame, heads, frames, d_q_norm_strides)
        y = out + frame_offset(frame, heads, frames, out_strides)
        z = load_read_z(states_z, groups, frames, frame, is_last, key_dim, BD, REVERSE)
        dz = tl.zeros((BD,), dtype=tl.float32)
    dm = tl.zeros((BD, BV), dtype=tl.float32)
    for first in range(0, tokens, BN):
        rows = first + tl.arange(0, BN)
        grad = load_tokens(dy, d_out_strides[3], rows, tokens, cols_v, value_dim)  # (BN,BV)
        query = load_tokens(x, q_strides[3], rows, tokens, cols_d, key_dim)  # (BN,BD)
        if NORMALISED:
            qn = load_tokens(xn, q_norm_strides[3], rows, tokens, cols_d, key_dim).to(tl.float32)
            value = load_tokens(y, out_strides[3], rows, tokens, cols_v, value_dim).to(tl.float32)
            share = 1 / (tl.sum(qn * z[None, :], 1) + eps)  # (BN,)
            grad = grad.to(tl.float32)
            d_den = -tl.sum(grad * value, 1) * share
            d_den = tl.where(rows < tokens, d_den, 0.0)
            dz += tl.sum(qn * d_den[:, None], 0)
            store_tokens(dxn, d_q_norm_strides[3], rows, tokens, cols_d, key_dim, d_den[:, None] * z[None, :])
            grad = (grad * tl.where(rows < tokens, share, 0.0)[:, None]).to(query.dtype)
        else:
            grad = grad.to(query.dtype)
        dq = tl.dot(grad, tl.trans(memory), input_precision=PRECISION)
        store_tokens(dx, d_q_strides[3], rows, tokens, cols_d, key_dim, dq)
        dm = tl.dot(tl.trans(query), grad, dm, input_precision=PRECISION)
    store_matrix(d_memory + wide * key_dim * value_dim, cols_d, key_dim, cols_v, value_dim, dm)
    if NORMALISED:
        tl.store(d_z + wide * key_dim + cols_d, dz, mask=cols_d < key_dim)


@triton.jit
def step_backward_kernel(
    g, first, last, erase, start, states, d_states, erase_z, start_z, states_z, d_states_z,
    d_erase, d_write, d_g,
    groups, frames, key_dim, value_dim,
    HAS_START: tl.constexpr, NORMALISED: tl.constexpr, REVERSE: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (G*T): dP + dP^T (D,D), dA (D,V) and dg of every frame.

    states, d_states (2,G,T,D,V): forward and reverse memories; U and R. first, last (T,): ends of the chunks.
    """
    frame = tl.program_id(0)
    t = frame % frames
    here = frame.to(tl.int64)
    group = here // frames
    other = here + groups * frames  # the same frame in the second half of a stacked buffer
    rows = tl.arange(0, BD)
    inside = rows < key_dim
    size = key_dim * value_dim
    is_first, is_last = tl.load(first + t), tl.load(last + t)
    outer = tl.zeros((BD, BD), dtype=tl.float32)
    for begin in range(0, value_dim, BC):
        cols = begin + tl.arange(0, BC)
        r = load_matrix(d_states + other * size, rows, key_dim, cols, value_dim)  # (BD,BC)
        before = tl.zeros((BD, BC), dtype=tl.float32)
        if t > 0:
            before = load_matrix(states + (here - 1) * size, rows, key_dim, cols, value_dim)
        elif HAS_START:
            before = load_matrix(start + group * size, rows, key_dim, cols, value_dim)
        outer = tl.dot(r, tl.trans(before), outer, input_precision=PRECISION)
        if REVERSE:  # noqa: SIM102 (constexpr)
            if is_first == 0:
                u = load_matrix(d_states + (here - 1) * size, rows, key_dim, cols, value_dim)
                if is_last == 0:
                    e = load_matrix(states + (other + 1) * size, rows, key_dim, cols, value_dim)
                    outer = tl.dot(u, tl.trans(e), outer, input_precision=PRECISION)
                r += u
        store_matrix(d_write + here * size, rows, key_dim, cols, value_dim, r)
    p = load_matrix(erase + here * key_dim * key_dim, rows, key_dim, rows, key_dim)
    eye = (rows[:, None] == rows[None, :]).to(tl.float32)
    kept = tl.sum(tl.sum(outer * (eye - p), 1), 0)
    decay = tl.exp(tl.load(g + here))
    both = -decay * (outer + tl.trans(outer))
    store_matrix(d_erase + here * key_dim * key_dim, rows, key_dim, rows, key_dim, both)
    if NORMALISED:
        p = load_matrix(erase_z + here * key_dim * key_dim, rows, key_dim, rows, key_dim)
        z = tl.zeros((BD,), dtype=tl.float32)
        if t > 0:
            z = tl.load(states_z + (here - 1) * key_dim + rows, mask=inside, other=0.0)
        elif HAS_START:
            z = tl.load(start_z + group * key_dim + rows, mask=inside, other=0.0)
        r_z = tl.load(d_states_z + other * key_dim + rows, mask=inside, other=0.0)
        kept += tl.sum(r_z * z, 0) - tl.sum(tl.sum(p * z[:, None], 0) * r_z, 0)
        if REVERSE:  # noqa: SIM102 (constexpr)
            if (is_first == 0) & (is_last == 0):
                u_z = tl.load(d_states_z + (here - 1) * key_dim + rows, mask=inside, other=0.0)
                e_z = tl.load(states_z + (other + 1) * key_dim + rows, mask=inside, other=0.0)
                kept += tl.sum(u_z * e_z, 0) - tl.sum(tl.sum(p * e_z[:, None], 0) * u_z, 0)
    tl.store(d_g + here, decay * kept)


@triton.jit
def gram_backward_kernel(
    k, v, k_norm, beta, g, first, last, d_erase, d_write, start_z, states_z, d_states_z,
    d_k, d_v, d_k_norm, d_beta,
    k_strides, v_strides, k_norm_strides, beta_strides,
    d_k_strides, d_v_strides, d_k_norm_strides, d_beta_strides,
    groups, heads, frames, tokens, key_dim, value_dim, tokens_per_program,
    HAS_START: tl.constexpr, NORMALISED: tl.constexpr, REVERSE: tl.constexpr, BK: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (G*T, token blocks): dK, dV, dKn and dbeta.

    BK = 0 keeps both D x D factors on the chip; where they do not fit (float32, wide heads) they are read
    again for every token block, BK rows or columns at a time.

    The normaliser's dP is a sum of outer products, so its part needs vectors only (z, e before the frame):
    dKn = beta ((1 - d kn.z) r - d (kn.r) z + (1 - d kn.e) u - d (kn.u) e).
    """
    frame = tl.program_id(0)
    t = frame % frames
    here = frame.to(tl.int64)
    begin = tl.program_id(1) * tokens_per_program
    cols_d, cols_v = tl.arange(0, BD), tl.arange(0, BV)
    dtype = k.dtype.element_ty
    m_both, m_a = d_erase + here * key_dim * key_dim, d_write + here * key_dim * value_dim
    if BK == 0:
        both = load_matrix(m_both, cols_d, key_dim, cols_d, key_dim).to(dtype)
        d_a = load_matrix(m_a, cols_d, key_dim, cols_v, value_dim).to(dtype)
    xk, dxk = (
        k + frame_offset(frame, heads, frames, k_strides),
        d_k + frame_offset(frame, heads, frames, d_k_strides),
    )
    xv, dxv = (
        v + frame_offset(frame, heads, frames, v_strides),
        d_v + frame_offset(frame, heads, frames, d_v_strides),
    )
    xb = beta + frame_offset(frame, heads, frames, beta_strides)
    dxb = d_beta + frame_offset(frame, heads, frames, d_beta_strides)
    if NORMALISED:
        inside = cols_d < key_dim
        other = here + groups * frames
        xn = k_norm + frame_offset(frame, heads, frames, k_norm_strides)
        dxn = d_k_norm + frame_offset(frame, heads, frames, d_k_norm_strides)
        decay = tl.exp(tl.load(g + here))
        z = tl.zeros((BD,), dtype=tl.float32)
        u = tl.zeros((BD,), dtype=tl.float32)
        e = tl.zeros((BD,), dtype=tl.float32)
        if t > 0:
            z = tl.load(states_z + (here - 1) * key_dim + cols_d, mask=inside, other=0.0)
        elif HAS_START:
            z = tl.load(start_z + here // frames * key_dim + cols_d, mask=inside, other=0.0)
        r = tl.load(d_states_z + other * key_dim + cols_d, mask=inside, other=0.0)
        if REVERSE:
            if tl.load(first + t) == 0:
                u = tl.load(d_states_z + (here - 1) * key_dim + cols_d, mask=inside, other=0.0)
            if tl.load(last + t) == 0:
                e = tl.load(states_z + (other + 1) * key_dim + cols_d, mask=inside, other=0.0)
    for start in range(begin, tl.minimum(begin + tokens_per_program, tokens), BN):
        rows = start + tl.arange(0, BN)
        key = load_tokens(xk, k_strides[3], rows, tokens, cols_d, key_dim)  # (BN,BD)
        weight = tl.load(xb + rows * beta_strides[3], mask=rows < tokens, other=0.0).to(tl.float32)  # (BN,)
        if BK == 0:
            value = load_tokens(xv, v_strides[3], rows, tokens, cols_v, value_dim)  # (BN,BV)
            erased = tl.dot(key, both, input_precision=PRECISION)  # (BN,BD)
            wrote = tl.dot(value, tl.trans(d_a), input_precision=PRECISION)  # (BN,BD)
            dv = tl.dot(key, d_a, input_precision=PRECISION)  # (BN,BV)
        else:
            erased = tl.zeros((BN, BD), dtype=tl.float32)
            wrote = tl.zeros((BN, BD), dtype=tl.float32)
            dv = tl.zeros((BN, BV), dtype=tl.float32)
            for at in range(0, key_dim, BK):
                some = at + tl.arange(0, BK)
                part = load_tokens(xk, k_strides[3], rows, tokens, some, key_dim)  # (BN,BK)
                erased = tl.dot(
                    part, load_matrix(m_both, some, key_dim, cols_d, key_dim).to(dtype), erased,
                    input_precision=PRECISION,
                )  # fmt: skip
                dv = tl.dot(
                    part, load_matrix(m_a, some, key_dim, cols_v, value_dim).to(dtype), dv,
                    input_precision=PRECISION,
                )  # fmt: skip
            for at in range(0, value_dim, BK):
                some = at + tl.arange(0, BK)
                part = load_tokens(xv, v_strides[3], rows, tokens, some, value_dim)  # (BN,BK)
                wrote = tl.dot(
                    part, tl.trans(load_matrix(m_a, cols_d, key_dim, some, value_dim).to(dtype)), wrote,
                    input_precision=PRECISION,
                )  # fmt: skip
        dw = tl.sum(key.to(tl.float32) * (wrote + 0.5 * erased), 1)
        store_tokens(dxk, d_k_strides[3], rows, tokens, cols_d, key_dim, weight[:, None] * (wrote + erased))
        store_tokens(dxv, d_v_strides[3], rows, tokens, cols_v, value_dim, weight[:, None] * dv)
        if NORMALISED:
            kn = load_tokens(xn, k_norm_strides[3], rows, tokens, cols_d, key_dim).to(tl.float32)
            on_r = tl.sum(kn * r[None, :], 1)  # (BN,)
            left = 1 - decay * tl.sum(kn * z[None, :], 1)
            dw += on_r * left
            dkn = left[:, None] * r[None, :] - (decay * on_r)[:, None] * z[None, :]
            if REVERSE:
                on_u = tl.sum(kn * u[None, :], 1)
                left = 1 - decay * tl.sum(kn * e[None, :], 1)
                dw += on_u * left
                dkn += left[:, None] * u[None, :] - (decay * on_u)[:, None] * e[None, :]
            store_tokens(dxn, d_k_norm_strides[3], rows, tokens, cols_d, key_dim, weight[:, None] * dkn)
        tl.store(dxb + rows * d_beta_strides[3], dw.to(d_beta.dtype.element_ty), mask=rows < tokens)

"""Triton forward kernels of the frame-wise gated delta rule, in matrix form.

Three kernels, named after the phases of the matrix form (`chunk.py` states the equations):

    gram   P_t = K_t^T diag(beta_t) K_t,  A_t = K_t^T diag(beta_t) V_t     a program per frame and matrix
    scan   X_t = d_s (X - P_s X) + A_t, up or down the frames              a program per head, columns, way
    read   O_t = Q_t (S_t + E_{t+1}) / (Qn_t (z_t + e_{t+1}) + eps)        a program per frame and token block

E is the reverse memory after taking in its own frame, E_t = W_t E_{t+1} + A_t, started anew at the last frame
of every chunk, so that frame t reads E_{t+1} unless it is the last of its chunk.

Operands of products over tokens have the dtype of the inputs; sums, P, A and all memories are float32.

Legend: B batch, H heads, T latent frames, N tokens per frame, D key dim, V value dim; G = B*H. BD, BV, BN
are block sizes: powers of two >= 16 that cover D, V and a block of tokens. Token tensors may have any strides
as long as channels are contiguous; internal buffers are contiguous `(G,T,...)`.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def frame_offset(frame, heads, frames, strides):
    """Return the offset of frame number (b*H + h)*T + t in a `(B,H,T,N,...)` tensor, in 64 bits."""
    t = (frame % frames).to(tl.int64)
    h = (frame // frames % heads).to(tl.int64)
    b = (frame // (frames * heads)).to(tl.int64)
    return b * strides[0] + h * strides[1] + t * strides[2]


@triton.jit
def load_tokens(base, stride, rows, tokens, cols, width):
    """Return rows x cols of a token tensor, zero outside."""
    inside = (rows[:, None] < tokens) & (cols[None, :] < width)
    return tl.load(base + rows[:, None] * stride + cols[None, :], mask=inside, other=0.0)


@triton.jit
def store_tokens(base, stride, rows, tokens, cols, width, value):
    inside = (rows[:, None] < tokens) & (cols[None, :] < width)
    tl.store(base + rows[:, None] * stride + cols[None, :], value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_matrix(base, rows, height, cols, width):
    """Return rows x cols of a contiguous (height, width) matrix, zero outside."""
    inside = (rows[:, None] < height) & (cols[None, :] < width)
    return tl.load(base + rows[:, None] * width + cols[None, :], mask=inside, other=0.0)


@triton.jit
def store_matrix(base, rows, height, cols, width, value):
    inside = (rows[:, None] < height) & (cols[None, :] < width)
    tl.store(base + rows[:, None] * width + cols[None, :], value, mask=inside)


@triton.jit
def _gram(
    left, left_stride, right, right_stride, beta, beta_stride, out, total, tokens, key_dim, right_dim,
    SUM: tl.constexpr, BN: tl.constexpr, BL: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store left^T diag(beta) right (D, right_dim) and, with SUM, left^T beta (D,)."""
    cols_l, cols_r = tl.arange(0, BL), tl.arange(0, BR)
    product = tl.zeros((BL, BR), dtype=tl.float32)
    plain = tl.zeros((BL,), dtype=tl.float32)
    for first in range(0, tokens, BN):
        rows = first + tl.arange(0, BN)
        x = load_tokens(left, left_stride, rows, tokens, cols_l, key_dim)  # (BN,BL)
        y = load_tokens(right, right_stride, rows, tokens, cols_r, right_dim)  # (BN,BR)
        weight = tl.load(beta + rows * beta_stride, mask=rows < tokens, other=0.0).to(tl.float32)
        y = (y.to(tl.float32) * weight[:, None]).to(x.dtype)
        product = tl.dot(tl.trans(x), y, product, input_precision=PRECISION)
        if SUM:
            plain += tl.sum(x.to(tl.float32) * weight[:, None], 0)
    store_matrix(out, cols_l, key_dim, cols_r, right_dim, product)
    if SUM:
        tl.store(total + cols_l, plain, mask=cols_l < key_dim)


@triton.jit
def gram_kernel(
    k, v, k_norm, beta, erase, write, erase_z, write_z, k_strides, v_strides, k_norm_strides, beta_strides,
    heads, frames, tokens, key_dim, value_dim,
    BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (G*T, 2 or 3): P (D,D), A (D,V) and, third, the normaliser's P and b (D,)."""
    frame = tl.program_id(0)
    part = tl.program_id(1)
    wide = frame.to(tl.int64)
    b = beta + frame_offset(frame, heads, frames, beta_strides)
    if part == 2:
        x = k_norm + frame_offset(frame, heads, frames, k_norm_strides)
        _gram(
            x, k_norm_strides[3], x, k_norm_strides[3], b, beta_strides[3],
            erase_z + wide * key_dim * key_dim, write_z + wide * key_dim,
            tokens, key_dim, key_dim, True, BN, BD, BD, PRECISION,
        )  # fmt: skip
    else:
        x = k + frame_offset(frame, heads, frames, k_strides)
        if part == 0:
            _gram(
                x, k_strides[3], x, k_strides[3], b, beta_strides[3], erase + wide * key_dim * key_dim, erase,
                tokens, key_dim, key_dim, False, BN, BD, BD, PRECISION,
            )  # fmt: skip
        else:
            y = v + frame_offset(frame, heads, frames, v_strides)
            _gram(
                x, k_strides[3], y, v_strides[3], b, beta_strides[3],
                write + wide * key_dim * value_dim, write,
                tokens, key_dim, value_dim, False, BN, BD, BV, PRECISION,
            )  # fmt: skip


@triton.jit
def scan_kernel(
    g, restart, slots, erase, add, extra, start, out, erase_z, add_z, extra_z, start_z, out_z,
    groups, frames, kept, key_dim, value_dim, column_blocks,
    FIRST: tl.constexpr, LAG: tl.constexpr, HAS_START: tl.constexpr, HAS_EXTRA: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (G, column blocks of V, plus one for the normaliser; directions): store X_t for every frame.

    Direction 0 goes up the frames and begins with `start`, direction 1 goes down and begins with zero:

        X <- 0 if restart[direction, t];   X_t = d_s (X - P_s X) + add_t,   s = t, or t + LAG going down

    Going down, `extra[slots[t]]` is added where slots[t] >= 0. FIRST is the direction of grid index 0.
    add (G,T,D,V), extra (G,n,D,V), start (G,D,V), out (2,G,T,D,V); the same without V, with suffix z.
    """
    group = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1)
    down = tl.program_id(2) + FIRST
    rows = tl.arange(0, BD)
    if column < column_blocks:
        cols = column * BC + tl.arange(0, BC)
        x = tl.zeros((BD, BC), dtype=tl.float32)
        if HAS_START:  # noqa: SIM102 (constexpr)
            if down == 0:
                x = load_matrix(start + group * key_dim * value_dim, rows, key_dim, cols, value_dim)
        for i in range(frames):
            t = i + down * (frames - 1 - 2 * i)
            s = tl.minimum(t + down * LAG, frames - 1)
            here = group * frames + t
            x = x * (1 - tl.load(restart + down * frames + t)).to(tl.float32)
            p = load_matrix(erase + (group * frames + s) * key_dim * key_dim, rows, key_dim, rows, key_dim)
            new = load_matrix(add + here * key_dim * value_dim, rows, key_dim, cols, value_dim)
            if HAS_EXTRA:
                slot = tl.load(slots + t)
                if (down == 1) & (slot >= 0):
                    new += load_matrix(
                        extra + (group * kept + slot) * key_dim * value_dim, rows, key_dim, cols, value_dim
                    )
            decay = tl.exp(tl.load(g + group * frames + s))
            x = decay * (x - tl.dot(p, x, input_precision=PRECISION)) + new
            place = (down * groups + group) * frames + t
            store_matrix(out + place * key_dim * value_dim, rows, key_dim, cols, value_dim, x)
    else:
        inside = rows < key_dim
        z = tl.zeros((BD,), dtype=tl.float32)
        if HAS_START:  # noqa: SIM102 (constexpr)
            if down == 0:
                z = tl.load(start_z + group * key_dim + rows, mask=inside, other=0.0)
        for i in range(frames):
            t = i + down * (frames - 1 - 2 * i)
            s = tl.minimum(t + down * LAG, frames - 1)
            here = group * frames + t
            z = z * (1 - tl.load(restart + down * frames + t)).to(tl.float32)
            p = load_matrix(erase_z + (group * frames + s) * key_dim * key_dim, rows, key_dim, rows, key_dim)
            new = tl.load(add_z + here * key_dim + rows, mask=inside, other=0.0)
            if HAS_EXTRA:
                slot = tl.load(slots + t)
                if (down == 1) & (slot >= 0):
                    new += tl.load(extra_z + (group * kept + slot) * key_dim + rows, mask=inside, other=0.0)
            decay = tl.exp(tl.load(g + group * frames + s))
            # P is symmetric: summing over its rows gives P z with z along the rows, where it already lies
            z = decay * (z - tl.sum(p * z[:, None], 0)) + new
            place = (down * groups + group) * frames + t
            tl.store(out_z + place * key_dim + rows, z, mask=inside)


@triton.jit
def load_read(states, groups, frames, frame, last, key_dim, value_dim, BD: tl.constexpr, BV: tl.constexpr,
              REVERSE: tl.constexpr):  # fmt: skip
    """Return the memory that frame t reads, S_t + E_{t+1} (BD,BV), from states (2,G,T,D,V)."""
    rows, cols = tl.arange(0, BD), tl.arange(0, BV)
    size = key_dim * value_dim
    memory = load_matrix(states + frame.to(tl.int64) * size, rows, key_dim, cols, value_dim)
    if REVERSE:  # noqa: SIM102 (constexpr)
        if last == 0:
            after = (groups * frames + frame + 1).to(tl.int64)
            memory += load_matrix(states + after * size, rows, key_dim, cols, value_dim)
    return memory


@triton.jit
def load_read_z(states_z, groups, frames, frame, last, key_dim, BD: tl.constexpr, REVERSE: tl.constexpr):
    """Return the normaliser that frame t reads, z_t + e_{t+1} (BD,), from states_z (2,G,T,D)."""
    rows = tl.arange(0, BD)
    z = tl.load(states_z + frame.to(tl.int64) * key_dim + rows, mask=rows < key_dim, other=0.0)
    if REVERSE:  # noqa: SIM102 (constexpr)
        if last == 0:
            after = (groups * frames + frame + 1).to(tl.int64)
            z += tl.load(states_z + after * key_dim + rows, mask=rows < key_dim, other=0.0)
    return z


@triton.jit
def read_kernel(
    q, q_norm, states, states_z, last, out, q_strides, q_norm_strides, out_strides, eps,
    groups, heads, frames, tokens, key_dim, value_dim, tokens_per_program,
    NORMALISED: tl.constexpr, REVERSE: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (G*T, token blocks): the outputs; last (T,) is 1 for the last frame of a chunk."""
    frame = tl.program_id(0)
    begin = tl.program_id(1) * tokens_per_program
    is_last = tl.load(last + frame % frames)
    cols_d, cols_v = tl.arange(0, BD), tl.arange(0, BV)
    memory = load_read(states, groups, frames, frame, is_last, key_dim, value_dim, BD, BV, REVERSE)
    memory = memory.to(q.dtype.element_ty)
    x = q + frame_offset(frame, heads, frames, q_strides)
    y = out + frame_offset(frame, heads, frames, out_strides)
    if NORMALISED:
        xn = q_norm + frame_offset(frame, heads, frames, q_norm_strides)
        z = load_read_z(states_z, groups, frames, frame, is_last, key_dim, BD, REVERSE)
    for first in range(begin, tl.minimum(begin + tokens_per_program, tokens), BN):
        rows = first + tl.arange(0, BN)
        value = tl.dot(
            load_tokens(x, q_strides[3], rows, tokens, cols_d, key_dim), memory, input_precision=PRECISION
        )  # (BN,BV)
        if NORMALISED:
            qn = load_tokens(xn, q_norm_strides[3], rows, tokens, cols_d, key_dim).to(tl.float32)
            value = value / (tl.sum(qn * z[None, :], 1) + eps)[:, None]
        store_tokens(y, out_strides[3], rows, tokens, cols_v, value_dim, value)

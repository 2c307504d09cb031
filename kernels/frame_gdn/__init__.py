"""Frame-wise gated delta rule: one function, several exact implementations chosen by argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from wm_env.kernels.frame_gdn.chunk import frame_gdn_chunk
from wm_env.kernels.frame_gdn.naive import GDNMemory, frame_gdn_naive

__all__ = ["IMPLEMENTATIONS", "GDNMemory", "frame_gdn", "resolve_impl"]

IMPLEMENTATIONS = ("naive", "chunk", "triton")


def resolve_impl(impl: str, device: torch.device | str) -> str:
    """Return the implementation that `impl` names on `device`; "auto" is decided here, once, by the caller's
    constructor: triton on CUDA where it is installed, else chunk."""
    if impl == "auto":
        return "triton" if torch.device(device).type == "cuda" and find_spec("triton") else "chunk"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} is unknown; choose one of {IMPLEMENTATIONS} or 'auto'")
    return impl


def frame_gdn(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: GDNMemory | None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    chunk_starts: Sequence[int] = (0,),
    eps: float = 1e-8,
    every_chunk: bool = False,
    impl: str = "chunk",
) -> tuple[Tensor, GDNMemory]:
    """Return (out, memory) of the frame-wise gated delta rule; `naive.py` states the equations.

    q, k: `(B,H,T,N,D)`, rotated queries and keys. v: `(B,H,T,N,V)`.
    beta: `(B,H,T,N)` in [0,1], write strength. g: `(B,H,T)` <= 0, LOG decay per frame (exp(g) in the paper).
    state: memory before the first frame, None for zeros.
    q_norm, k_norm: `(B,H,T,N,D)` unrotated, both or none; with them the output is divided by the normaliser.
    chunk_starts: first frame of every chunk. Frames of a chunk see each other, and all earlier chunks.
        `(0,)` makes the call one chunk; `tuple(range(T))` is causal.
    every_chunk: return the memory after every chunk, on a new axis after B, instead of the last only.
    impl: "naive", "chunk" or "triton"; never changed silently.

    out: `(B,H,T,N,V)` in v's dtype. Memory: float32 whatever the input (float64 for float64). Gradients flow
    through out and through every returned memory.
    """
    _check(q=q, k=k, v=v, beta=beta, g=g, state=state, q_norm=q_norm, k_norm=k_norm)
    return _implementation(impl)(
        q=q,
        k=k,
        v=v,
        beta=beta,
        g=g,
        state=state,
        q_norm=q_norm,
        k_norm=k_norm,
        chunk_starts=tuple(chunk_starts),
        eps=eps,
        every_chunk=every_chunk,
    )


def _implementation(impl: str) -> Callable[..., tuple[Tensor, GDNMemory]]:
    if impl == "naive":
        return frame_gdn_naive
    if impl == "chunk":
        return frame_gdn_chunk
    if impl == "triton":
        if find_spec("triton") is None:
            raise ImportError("impl='triton' needs Triton: pip install 'wm-env[gpu]'")
        from wm_env.kernels.frame_gdn.fused import frame_gdn_triton  # optional dependency

        return frame_gdn_triton
    raise ValueError(f"impl={impl!r} is unknown; choose one of {IMPLEMENTATIONS} (resolve 'auto' beforehand)")


def _check(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: GDNMemory | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
) -> None:
    if k.ndim != 5 or k.numel() == 0 or v.numel() == 0:
        raise ValueError(
            f"k must be a non-empty (B,H,T,N,D), v (B,H,T,N,V); got {tuple(k.shape)}, {tuple(v.shape)}"
        )
    b, h, frames, n, d = k.shape
    wanted = {"q": (q, k.shape), "v": (v, (*k.shape[:4], v.shape[-1])), "beta": (beta, (b, h, frames, n))}
    wanted["g"] = (g, (b, h, frames))
    if (q_norm is None) != (k_norm is None):
        raise ValueError("q_norm and k_norm come together: give both (normalised) or none (numerator only)")
    if q_norm is not None and k_norm is not None:
        wanted |= {"q_norm": (q_norm, k.shape), "k_norm": (k_norm, k.shape)}
    if state is not None:
        wanted["state.S"] = (state.S, (b, h, d, v.shape[-1]))
        if (state.z is None) != (q_norm is None):
            raise ValueError(
                "state.z belongs to the normalised form: give it exactly when q_norm, k_norm are given"
            )
        if state.z is not None:
            wanted["state.z"] = (state.z, (b, h, d))
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, needs {tuple(shape)} to match k {tuple(k.shape)}"
            )

"""Seeded inputs of the kernels and the error measure, shared by tests and benchmarks.

The distributions are those of the model: queries and keys after ReLU, keys scaled by 1/sqrt(D N), rotated by
a random angle per pair of channels, beta = sigmoid, g = -softplus.

Legend: B batch, H heads, T latent frames, N tokens per frame, D key dim, V value dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn


class GDNInputs(NamedTuple):
    """Tensor arguments of `frame_gdn`; the normaliser's are None for the numerator-only form."""

    q: Tensor  # (B, H, T, N, D)
    k: Tensor  # (B, H, T, N, D)
    v: Tensor  # (B, H, T, N, V)
    beta: Tensor  # (B, H, T, N)
    g: Tensor  # (B, H, T)
    q_norm: Tensor | None  # (B, H, T, N, D)
    k_norm: Tensor | None  # (B, H, T, N, D)
    S: Tensor | None  # (B, H, D, V), initial memory
    z: Tensor | None  # (B, H, D)


def gdn_inputs(
    *,
    seed: int,
    batch: int = 1,
    heads: int = 2,
    frames: int = 3,
    tokens: int = 5,
    key_dim: int = 4,
    value_dim: int = 4,
    normalised: bool = True,
    with_state: bool = True,
    key_scale: float | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> GDNInputs:
    """Return random inputs; the same for a seed on every device, up to rounding to dtype.

    beta, g and the memory are float32 at least, as in the model. key_scale: default 1/sqrt(D N).
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    tokens_shape = (batch, heads, frames, tokens)
    scale = (key_dim * tokens) ** -0.5 if key_scale is None else key_scale
    q_norm = F.relu(normal(*tokens_shape, key_dim)) + 0.05  # keeps the denominator away from zero
    k_norm = F.relu(normal(*tokens_shape, key_dim)) * scale
    angle = normal(1, 1, frames, tokens, key_dim // 2) * 3
    wide = torch.promote_types(dtype, torch.float32)
    S = normal(batch, heads, key_dim, value_dim) if with_state else None
    z = normal(batch, heads, key_dim).abs() if with_state and normalised else None
    return GDNInputs(
        q=_turned(q_norm, angle).to(device, dtype),
        k=_turned(k_norm, angle).to(device, dtype),
        v=normal(*tokens_shape, value_dim).to(device, dtype),
        beta=torch.sigmoid(normal(*tokens_shape)).to(device, wide),
        g=-F.softplus(normal(batch, heads, frames) - 2).to(device, wide),
        q_norm=q_norm.to(device, dtype) if normalised else None,
        k_norm=k_norm.to(device, dtype) if normalised else None,
        S=None if S is None else S.to(device, wide),
        z=None if z is None else z.to(device, wide),
    )


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Return x with channel pairs (j, j + D//2) turned by `angle` (..., D//2); an odd last channel stays."""
    half = angle.shape[-1]
    a, b = x[..., :half], x[..., half : 2 * half]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]], -1)


def run_gdn(
    inputs: GDNInputs,
    impl: str,
    *,
    chunk_starts: Sequence[int] = (0,),
    every_chunk: bool = False,
    gradients: bool = False,
    function: Callable[..., tuple[Tensor, GDNMemory]] = frame_gdn,
) -> dict[str, Tensor]:
    """Return out, S and z (where present) of one implementation, with `gradients` also those of every input.

    The gradients belong to fixed random weights on every output, so that each output reaches each input.
    function: called like `frame_gdn`, in its place.
    """
    leaves = {
        name: x.detach().requires_grad_(gradients) for name, x in inputs._asdict().items() if x is not None
    }
    arguments = {name: x for name, x in leaves.items() if name not in ("S", "z")}
    state = GDNMemory(leaves["S"], leaves.get("z")) if "S" in leaves else None
    out, memory = function(
        **arguments, state=state, chunk_starts=chunk_starts, every_chunk=every_chunk, impl=impl
    )
    results = {"out": out, "S": memory.S} | ({} if memory.z is None else {"z": memory.z})
    if not gradients:
        return results
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=random, dtype=torch.float64).to(x) for x in results.values()]
    found = torch.autograd.grad(
        list(results.values()), list(leaves.values()), weights, allow_unused=True, materialize_grads=True
    )
    return {name: x.detach() for name, x in results.items()} | {
        f"d_{name}": grad for name, grad in zip(leaves, found, strict=True)
    }


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return max |actual - expected| / max |expected|, in float64; NaN where either holds one."""
    difference = (actual.detach().cpu().double() - expected.detach().cpu().double()).abs().max()
    return float(difference / expected.detach().cpu().double().abs().max().clamp_min(1e-30))


def worst_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[str, float]:
    """Return the result that differs most and its relative error; both must hold the same results."""
    if actual.keys() != expected.keys():
        raise ValueError(f"results differ: {sorted(actual)} and {sorted(expected)}")
    errors = {name: relative_error(actual[name], expected[name]) for name in expected}
    return max(errors.items(), key=lambda item: item[1] if item[1] == item[1] else float("inf"))

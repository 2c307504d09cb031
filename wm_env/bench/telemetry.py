"""What the Gated DeltaNet states of a world do over a long rollout.

Quantities: docs/reference/evaluation.md#state-telemetry.

With one latent frame a chunk, every head obeys

    S_t = M_t S_{t-1} + K^T diag(beta) V,      M_t = exp(g) (I - K^T diag(beta) K),

rows of S are keys, columns values. `record` looks at the committed chunk of every step through hooks on the
attention modules, which it removes again; the world itself keeps nothing. State norms are evidence about
mechanism, never a quality score. Legend: `B` walks, `L` GDN layers, `H` heads, `N` tokens, `D` head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.kernels.temporal_conv import short_conv
from wm_env.model.attention import GDNAttention, Geometry, heads_first
from wm_env.model.layers import rotate
from wm_env.model.rollout import LearnedWorld
from wm_env.model.state import GDNState

QUANTITIES = {
    "norm": "Frobenius norm of S",
    "stable_rank": "|S|_F^2 / |S|_2^2",
    "effective_rank": "exp of the entropy of the singular values",
    "decay": "decay gate exp(g)",
    "half_life": "ln 0.5 / g, latent frames",
    "retention": "product of the decay gates since the start",
    "contraction": "trace of K^T beta K, at most 1 for a contraction",
    "recall": "|product of M applied to fixed random probes| / |probes|: what is left of frame 0",
    "write_ratio": "|K^T beta V|_F / |S_{t-1}|_F; 1 for the first write",
    "residual": "|V - K S_{t-1}|_F / |V|_F",
}
PERCENTILES = (5, 50, 95)
PROBES = 8
LONGEST_HALF_LIFE = 1e5  # latent frames; a gate closer to 1 than this counts as this


class Observed(NamedTuple):
    """One chunk of one layer: every quantity `(B, H)`, the new memory S and the recalled probes."""

    values: dict[str, Tensor]
    S: Tensor
    probes: Tensor


class Recording:
    """Filled by `record`: `values[name]` is a list over chunks of `(L, B, H)`; `S` of `(L, B, H, D, D)`."""

    def __init__(self, layers: int, keep_states: bool) -> None:
        self.layers, self.keep_states = layers, keep_states
        self.values: dict[str, list[Tensor]] = {name: [] for name in QUANTITIES}
        self.S: list[Tensor] = []
        self._probes: list[Tensor | None] = [None] * layers
        self._retention: list[Tensor | None] = [None] * layers
        self._row: list[Observed] = []

    def add(
        self, layer: int, attention: GDNAttention, x: Tensor, geometry: Geometry, state: GDNState
    ) -> None:
        """Take in the committed chunk of one layer: input `(B, 1, N, C)` and the state before it."""
        seen = observe(attention, x, geometry, state, self._probes[layer])
        before = self._retention[layer]
        decay = seen.values["decay"]
        # the first chunk writes frame 0; what is recalled of it starts at 1 after that
        if before is None:
            retention, recall = torch.ones_like(decay), torch.ones_like(decay)
            self._probes[layer] = _probes(decay, state.S.shape[-1])
        else:
            retention = before * decay
            self._probes[layer] = seen.probes
            recall = seen.probes.flatten(2).norm(dim=-1) / math.sqrt(state.S.shape[-1] * PROBES)
        self._retention[layer] = retention
        self._row.append(seen._replace(values=seen.values | {"retention": retention, "recall": recall}))
        if layer == self.layers - 1:
            for name in QUANTITIES:
                self.values[name].append(torch.stack([one.values[name] for one in self._row]))
            if self.keep_states:
                self.S.append(torch.stack([one.S for one in self._row]))
            self._row = []

    def quantiles(self) -> dict[str, np.ndarray]:
        """Return 5, 50 and 95 percent over walks and heads of every quantity: `(chunks, L, 3)`."""
        out = {}
        for name, chunks in self.values.items():
            table = torch.stack(chunks).flatten(2).double().numpy()  # (chunks, L, B * H)
            out[name] = np.moveaxis(np.percentile(table, PERCENTILES, axis=-1), 0, -1)
        return out

    def violations(self) -> float:
        """Return the share of (chunk, layer, walk, head) where a step is no contraction; must be 0."""
        trace = torch.stack(self.values["contraction"])
        return float((trace > 1 + 1e-4).double().mean())


@contextmanager
def record(world: LearnedWorld, keep_states: bool = False) -> Iterator[Recording]:
    """Record every chunk that `world` commits inside the block."""
    layers = [block.attn for block in world.dit.blocks if isinstance(block.attn, GDNAttention)]
    recording = Recording(len(layers), keep_states)

    def hook(layer: int) -> Any:
        def look(module: GDNAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, geometry, state = args
            if kwargs["every_chunk"]:  # the call that commits the pending chunk, the first of its two
                first = Geometry(geometry.cis[:, :1], None)
                recording.add(layer, module, x[:, :1], first, state)

        return look

    handles = [
        attention.register_forward_pre_hook(hook(layer), with_kwargs=True)
        for layer, attention in enumerate(layers)
    ]
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def observe(
    attention: GDNAttention, x: Tensor, geometry: Geometry, state: GDNState, probes: Tensor | None
) -> Observed:
    """Return what one committed latent frame `(B, 1, N, C)` does to the main memory of a layer."""
    cfg = attention.cfg
    beta, g = attention.gates(x)  # (B, H, 1, N), (B, H, 1)
    b, decay = beta[:, :, 0], torch.exp(g)[:, :, 0]
    _, k, v = attention.qkv(x).chunk(3, dim=-1)
    k, _ = short_conv(k, attention.conv_k, tail=state.conv_k, chunk_starts=(0,))
    k = F.relu(attention.k_norm(k)) * cfg.head_dim**-0.5 * x.shape[2] ** -0.5
    turned = rotate(attention.split_heads(k), geometry.cis)
    keys = heads_first(turned)[:, :, 0].float()  # (B, H, N, D)
    values = heads_first(attention.split_heads(v))[:, :, 0].float()
    weighted = keys * b[..., None]
    overlap = weighted.transpose(-1, -2) @ keys  # (B, H, D, D), K^T beta K
    written = weighted.transpose(-1, -2) @ values
    fade = decay[..., None, None]
    S = fade * (state.S - overlap @ state.S) + written
    moved = torch.zeros_like(state.S[..., :PROBES]) if probes is None else fade * (probes - overlap @ probes)
    singular = torch.linalg.svdvals(S)  # (B, H, D)
    share = singular / singular.sum(-1, keepdim=True).clamp_min(1e-12)
    norm, before = S.flatten(2).norm(dim=-1), state.S.flatten(2).norm(dim=-1)
    fresh = written.flatten(2).norm(dim=-1)
    found = {
        "norm": norm,
        "stable_rank": norm.square() / singular[..., 0].square().clamp_min(1e-12),
        "effective_rank": torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum(-1)),
        "decay": decay,
        "half_life": (math.log(0.5) / g[:, :, 0].clamp(max=-1e-9)).clamp(max=LONGEST_HALF_LIFE),
        "contraction": overlap.diagonal(dim1=-2, dim2=-1).sum(-1),
        "write_ratio": fresh / torch.where(before > 0, before, fresh).clamp_min(1e-12),
        "residual": (values - keys @ state.S).flatten(2).norm(dim=-1) / values.flatten(2).norm(dim=-1),
    }
    return Observed(found, S, moved)


def _probes(decay: Tensor, width: int) -> Tensor:
    """Return fixed random probes `(B, H, D, 8)`, one set for all."""
    draw = torch.randn(width, PROBES, generator=torch.Generator().manual_seed(0)).to(decay.device)
    draw = draw / draw.norm() * math.sqrt(width * PROBES)
    return draw.expand(*decay.shape, width, PROBES)


def state_drift(free: Recording, forced: Recording) -> dict[str, np.ndarray]:
    """Return how far the free-running memories are from those fed with the truth: `(chunks, L)` medians.

    relative: |S - S*|_F / |S*|_F. cosine: <S, S*> / |S| |S*|.
    """
    relative, cosine = [], []
    for own, true in zip(free.S, forced.S, strict=True):
        a, b = own.flatten(3), true.flatten(3)  # (L, B, H, D * D)
        relative.append(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-9)).flatten(1).median(1).values)
        cosine.append(F.cosine_similarity(a, b, dim=-1).flatten(1).median(1).values)
    return {"relative": torch.stack(relative).numpy(), "cosine": torch.stack(cosine).numpy()}

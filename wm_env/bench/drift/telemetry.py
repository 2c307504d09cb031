"""What the Gated DeltaNet states of a world do over a long rollout.

Quantities: docs/reference/evaluation.md#state-telemetry.

With one latent frame a chunk, every head obeys

    S_t = M_t S_{t-1} + K^T diag(beta) V,      M_t = exp(g) (I - K^T diag(beta) K),

rows of S are keys, columns values. `observe_commit` computes the operands of every layer for the chunk that
the next step commits; the world itself keeps nothing. State norms are evidence about mechanism, never a
quality score. Legend: `B` walks, `L` GDN layers, `H` heads, `N` tokens, `D` head width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.attention import GDNAttention, Operands
from wm_env.model.chunks import ONE
from wm_env.model.dit import Block
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import RolloutState
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


class TelemetryRecord:
    """Filled by `observe_commit`: lists over chunks, `values[name]` `(L, B, H)` and `S` `(L, B, H, D, D)`."""

    def __init__(self, layers: int, keep_states: bool) -> None:
        self.layers, self.keep_states = layers, keep_states
        self.values: dict[str, list[Tensor]] = {name: [] for name in QUANTITIES}
        self.S: list[Tensor] = []
        self._probes: list[Tensor | None] = [None] * layers
        self._retention: list[Tensor | None] = [None] * layers
        self._row: list[Observed] = []

    def add(self, layer: int, given: Operands, state: GDNState) -> None:
        """Take in the committed chunk of one layer: its operands and the state before it."""
        seen = observe(given, state, self._probes[layer])
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


def new_telemetry(world: LearnedWorld, keep_states: bool = False) -> TelemetryRecord:
    """Return an empty recording of the GDN layers of a world."""
    layers = [block for block in world.dit.blocks if isinstance(block.attn, GDNAttention)]
    return TelemetryRecord(len(layers), keep_states)


@torch.inference_mode()
def observe_commit(recording: TelemetryRecord, world: LearnedWorld, state: RolloutState) -> None:
    """Add to `recording` what committing the pending chunk of `state` does to every GDN layer."""
    pending = state.pending
    level = torch.full((len(state.seed), 1), float(world.sampler.history_timestep), device=world.device)
    with world.precision():
        x, call = world.dit.embed(
            pending.latent, level, pending.text, pending.camera, state.dit, memory=pending.memory, chunks=ONE
        )
        layer = 0
        for block, before in zip(world.dit.blocks, state.dit.blocks, strict=True):
            assert isinstance(block, Block)
            if isinstance(block.attn, GDNAttention):
                assert isinstance(before.attention, GDNState)
                given = block.attn.operands(
                    block.attention_input(x, call), call.geometry, before.attention, ONE
                )
                recording.add(layer, given, before.attention)
                layer += 1
            x, _ = block(x, call, before)


@torch.inference_mode()
def observe(given: Operands, state: GDNState, probes: Tensor | None) -> Observed:
    """Return what one committed latent frame does to the main memory of a layer."""
    g, b, decay = given.g, given.beta[:, :, 0], torch.exp(given.g)[:, :, 0]  # (B, H, 1), (B, H, N), (B, H)
    keys, values = given.k[:, :, 0].float(), given.v[:, :, 0].float()  # (B, H, N, D)
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


def state_drift(free: TelemetryRecord, forced: TelemetryRecord) -> dict[str, np.ndarray]:
    """Return how far the free-running memories are from those fed with the truth: `(chunks, L)` medians.

    relative: |S - S*|_F / |S*|_F. cosine: <S, S*> / |S| |S*|.
    """
    relative, cosine = [], []
    for own, true in zip(free.S, forced.S, strict=True):
        a, b = own.flatten(3), true.flatten(3)  # (L, B, H, D * D)
        relative.append(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-9)).flatten(1).median(1).values)
        cosine.append(F.cosine_similarity(a, b, dim=-1).flatten(1).median(1).values)
    return {"relative": torch.stack(relative).numpy(), "cosine": torch.stack(cosine).numpy()}

"""The shapes on which the frame-wise delta rule is tried: odd ones and those of the released model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wm_env.kernels.inputs import GDNInputs, gdn_inputs


@dataclass(frozen=True, kw_only=True)
class GDNCase:
    """One problem of the frame-wise delta rule."""

    frames: int
    starts: tuple[int, ...] = (0,)
    tokens: int
    key_dim: int
    value_dim: int
    heads: int = 2
    normalised: bool = True
    with_state: bool = True
    every_chunk: bool = False

    def __str__(self) -> str:
        marks = [
            f"{self.frames} frames in {len(self.starts)} chunks of {self.tokens} tokens",
            f"{self.heads} heads {self.key_dim}x{self.value_dim}",
            *(["no normaliser"] if not self.normalised else []),
            *(["no state"] if not self.with_state else []),
            *(["every chunk"] if self.every_chunk else []),
        ]
        return ", ".join(marks)

    def inputs(self, dtype: torch.dtype, device: str, seed: int = 1) -> GDNInputs:
        return gdn_inputs(
            seed=seed,
            heads=self.heads,
            frames=self.frames,
            tokens=self.tokens,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            normalised=self.normalised,
            with_state=self.with_state,
            dtype=dtype,
            device=device,
        )


ODD = (
    GDNCase(frames=1, tokens=1, key_dim=1, value_dim=1, with_state=False),
    GDNCase(frames=1, tokens=70, key_dim=16, value_dim=16),
    GDNCase(frames=3, tokens=9, key_dim=5, value_dim=17, with_state=False),
    GDNCase(frames=3, starts=(0, 1, 2), tokens=16, key_dim=32, value_dim=32, every_chunk=True),
    GDNCase(frames=4, starts=(0, 3), tokens=65, key_dim=8, value_dim=8, normalised=False, every_chunk=True),
    GDNCase(frames=5, starts=(0, 1, 4), tokens=7, key_dim=12, value_dim=6),
    GDNCase(frames=2, tokens=5, key_dim=3, value_dim=3, normalised=False, with_state=False),
)
RELEASED = (
    GDNCase(frames=3, tokens=880, key_dim=112, value_dim=112, heads=4),
    GDNCase(frames=3, tokens=880, key_dim=112, value_dim=112, heads=4, normalised=False),
    GDNCase(frames=4, tokens=880, key_dim=112, value_dim=112, heads=4, with_state=False),
    GDNCase(frames=1, tokens=33, key_dim=112, value_dim=112, heads=1),
    GDNCase(frames=41, starts=tuple(range(0, 41, 3)), tokens=65, key_dim=112, value_dim=112, heads=1),
)

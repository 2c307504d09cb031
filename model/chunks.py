"""Which frames of a call belong together, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunks:
    """How the frames of one call of the transformer are cut (docs/reference/transformer.md#chunks).

    starts: first frame of every chunk, 0 first; frames of a chunk see each other, and all chunks before.
    keep_every: the state's tensors get an axis of chunks after the batch axis, the state after each; else
    the state after the last. uniform: the short convolution's right context stops at multiples of this
    length instead, a quirk of the released code (`wm_env.kernels.temporal_conv.short_conv`).
    """

    starts: tuple[int, ...] = (0,)
    keep_every: bool = False
    uniform: int | None = None

    def __post_init__(self) -> None:
        if not self.starts or self.starts[0] != 0 or list(self.starts) != sorted(set(self.starts)):
            raise ValueError(f"chunk starts {self.starts} must begin with 0 and rise")


ONE = Chunks()


def causal(frames: int) -> Chunks:
    """Return every frame as a chunk of its own, the state kept after each."""
    return Chunks(tuple(range(frames)), keep_every=True)


def cut_at(starts: Sequence[int]) -> Chunks:
    """Return chunks that begin at `starts`, the state kept after the last."""
    return Chunks(tuple(starts))

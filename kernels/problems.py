"""Which problems of the frame-wise gated delta rule are timed, and the least that each must move and compute.

The floor of a problem is max(bytes / bandwidth, operations / rate): every input read once, every output
written once, the multiply-adds of the cheapest known form.

Legend: B batch, H heads, T latent frames, N tokens per frame, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One shape and task: one chunk, after a state with `stream`, or with `causal` every frame a chunk."""

    name: str
    batch: int
    heads: int
    frames: int
    tokens: int
    dim: int
    dtype: str
    stream: bool = False
    causal: bool = False
    backward: bool = False
    normalised: bool = True

    @property
    def title(self) -> str:
        return f"{self.name}, B{self.batch} T{self.frames} {self.dtype}"

    @property
    def chunk_starts(self) -> tuple[int, ...]:
        return tuple(range(self.frames)) if self.causal else (0,)


def problem_bytes(p: Problem) -> int:
    """Return the bytes that must move: inputs once, outputs once (gradients alike, and inputs again)."""
    frames = p.batch * p.heads * p.frames
    size = 2 if p.dtype == "bfloat16" else 4
    tensor, gates = frames * p.tokens * p.dim * size, 4 * frames * (p.tokens + 1)
    inputs = 5 if p.normalised else 3
    memory = 4 * p.batch * p.heads * p.dim * (p.dim + p.normalised) * (1 + p.stream)
    forward = (inputs + 1) * tensor + gates + memory
    backward = (2 * inputs + 2) * tensor + 2 * gates + memory  # inputs, out and d_out in, gradients out
    return forward + (backward if p.backward else 0)


def problem_operations(p: Problem) -> int:
    """Return the operations (two per multiply-add) of the cheapest known form.

    Per frame and head: P, A and read in N D^2 each, one D^3 per scan direction; or, for a single frame, the
    residual form without P. The normaliser adds its own P (or two products with a vector).
    """
    n, d = p.tokens, p.dim
    product, step = 2 * n * d * d, 2 * d * d * d
    directions = 1 if p.causal or p.frames == 1 else 2
    if p.frames == 1:
        forward = 3 * product + p.normalised * 6 * n * d
    else:
        forward = (
            3 * product + directions * step + p.normalised * (product + 4 * n * d + 2 * directions * d * d)
        )
    backward = 5 * product + 2 * directions * step + p.normalised * (16 * n * d + 4 * d * d)
    return p.batch * p.heads * p.frames * (forward + (backward if p.backward else 0))


def problems(device: str, quick: bool) -> list[Problem]:
    if quick:
        small: dict[str, Any] = {
            "batch": 1,
            "heads": 2,
            "frames": 2,
            "tokens": 4,
            "dim": 16,
            "dtype": "float32",
        }
        return [
            Problem(name="forward", **small),
            Problem(name="fwd+bwd", backward=True, **small),
        ]
    if device == "cpu":
        tiny: dict[str, Any] = {"heads": 6, "tokens": 64, "dim": 32}
        step: dict[str, Any] = {"frames": 1, "dtype": "float32", "stream": True}
        clip: dict[str, Any] = {"batch": 4, "frames": 17}
        found = []
        for batch in (1, 16):
            found.append(Problem(name="streaming step", batch=batch, **step, **tiny))
            found.append(
                Problem(name="streaming step, camera", batch=batch, normalised=False, **step, **tiny)
            )
        for dtype in ("float32", "bfloat16"):
            found.append(Problem(name="clip, one chunk", dtype=dtype, **clip, **tiny))
            found.append(
                Problem(name="clip, causal, fwd+bwd", dtype=dtype, causal=True, backward=True, **clip, **tiny)
            )
        return found
    released: dict[str, Any] = {"heads": 20, "tokens": 880, "dim": 112, "dtype": "bfloat16"}
    found = []
    for batch in (1, 8):
        found.append(Problem(name="streaming chunk", batch=batch, frames=3, stream=True, **released))
        found += [Problem(name="forward", batch=batch, frames=frames, **released) for frames in (3, 21, 121)]
        longest = 121 if batch == 1 else 43
        found += [
            Problem(name="fwd+bwd", batch=batch, frames=frames, backward=True, **released)
            for frames in (3, 21, longest)
        ]
    return found

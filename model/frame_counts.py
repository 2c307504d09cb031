"""Counting frames: pixel frames to latent frames, lengths a pipeline accepts, chunk boundaries (pure).

A video autoencoder of temporal stride s turns F = s*k + 1 pixel frames into T = k + 1 latent frames: latent 0
covers pixel frame 0 alone, latent i > 0 covers s*i-(s-1) .. s*i (docs/reference/pipeline.md#frame-counts).
Legend: `F` pixel frames, `T` latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

ChunkStrategy = Literal["uniform", "first_chunk_plus_one", "first_frame"]
STRATEGIES: tuple[ChunkStrategy, ...] = ("uniform", "first_chunk_plus_one", "first_frame")


def snap_frames(frames: int, stride: int = 8, upper_bound: int | None = None) -> int:
    """Return the length stride*k + 1 nearest to `frames` (ties up), at least 1.

    With `upper_bound` (the length of the trajectory) the largest such length within it, if that is less.
    The bidirectional and chunk-causal pipelines use the autoencoder's stride, streaming three times it.
    """
    nearest = (2 * (frames - 1) + stride) // (2 * stride) * stride + 1
    if upper_bound is not None:
        nearest = min(nearest, (upper_bound - 1) // stride * stride + 1)
    return max(nearest, 1)


def check_frames(frames: int, stride: int = 8) -> None:
    """Raise `ValueError` naming the two nearest lengths unless `frames` = stride*k + 1."""
    if frames < 1 or (frames - 1) % stride:
        low = max((frames - 1) // stride, 0) * stride + 1
        raise ValueError(
            f"frames={frames} does not fit the VAE: need {stride}*k+1; nearest are {low} and {low + stride}"
        )


def latent_frames(frames: int, stride: int = 8) -> int:
    """Return T = (F - 1) // stride + 1, the latent frames that `frames` pixel frames complete."""
    return (frames - 1) // stride + 1


def pixel_frames(latents: int, stride: int = 8) -> int:
    """Return F = stride * (T - 1) + 1, the pixel frames of `latents` latent frames."""
    return stride * (latents - 1) + 1


def chunk_starts(latents: int, size: int | None, strategy: ChunkStrategy) -> tuple[int, ...]:
    """Return the first latent frame of every chunk of a clip, 0 first (docs/reference/transformer.md#chunks).

    uniform 0, c, 2c, ...; first_chunk_plus_one 0, c+1, 2c+1, ...; first_frame 0, 1, c+1, ...
    A last chunk shorter than c is merged into the one before (for first_frame only when there are more than
    two). `size` None means no chunking.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown chunk strategy {strategy!r}; known are {', '.join(STRATEGIES)}")
    if size is None:
        return (0,)
    if size < 1:
        raise ValueError(f"chunk size {size} must be at least 1")
    first = {"uniform": size, "first_chunk_plus_one": size + 1, "first_frame": 1}[strategy]
    starts = [0, *range(first, latents, size)]
    mergeable = len(starts) > (2 if strategy == "first_frame" else 1)
    if mergeable and latents - starts[-1] < size:
        starts.pop()
    return tuple(starts)


def explicit_starts(latents: int, starts: Sequence[int]) -> tuple[int, ...]:
    """Return a caller's own chunk starts, forced to begin at 0 and cut at the clip's end; never merged."""
    inside = sorted({0, *(start for start in starts if start < latents)})
    if inside[0] < 0:
        raise ValueError(f"chunk starts {list(starts)} must not be negative")
    return tuple(inside)


def streaming_bounds(latents: int, size: int) -> tuple[int, ...]:
    """Return the chunk boundaries of a streaming rollout, ending with T: the first chunk takes the remainder.

    Chunk 0 has size + T mod size latents, the others `size` (docs/reference/pipeline.md#streaming).
    """
    if latents < size:
        raise ValueError(f"a rollout of {latents} latent frames is shorter than one chunk of {size}")
    return (0, *range(size + latents % size, latents + 1, size))

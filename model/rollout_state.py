"""The values of a rollout: how a chunk is drawn, what is known of it before, what is remembered after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from wm_env.model.camera import CameraInput
from wm_env.model.composed_view import Blocks
from wm_env.model.config import check_ranges
from wm_env.model.point_memory import MemoryState
from wm_env.model.state import DiTState, cat, select
from wm_env.model.text import TextTokens
from wm_env.model.vae.tiny import DecodeState
from wm_env.model.world import Chunk, Start

State = TypeVar("State")
Ablation = Literal["dit", "gdn_state", "memory"]
Reading = Literal["four", "composed"]
Prompts = Literal["any", "captions"]
PROMPTS: tuple[Prompts, ...] = ("any", "captions")
READINGS: tuple[Reading, ...] = ("four", "composed")
ABLATIONS: tuple[Ablation, ...] = ("dit", "gdn_state", "memory")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a chunk is drawn: noise levels from 1 down to 0, and the level the committed history claims.

    history_timestep: timestep in [0, 1000] given with a committed chunk. The released model uses 0; the
    embedded ones are trained on corrupted history and told by how much.
    """

    sigmas: tuple[float, ...] = (1.0, 0.0)
    history_timestep: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, {"history_timestep": (0, 1000)}, {"sigmas": (0, 1)})
        falling = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if len(self.sigmas) < 2 or not falling or self.sigmas[-1] != 0:
            raise ValueError(f"sigmas={self.sigmas} must fall from at most 1 to exactly 0")


class ChunkInput(NamedTuple):
    """One chunk as the transformer sees it: latent `(B, C, 1, h, w)`, camera, memory tokens or None, text."""

    latent: Tensor
    camera: CameraInput
    memory: Tensor | None
    text: TextTokens


class View(NamedTuple):
    """What is known of a chunk before it is drawn.

    c2w `(B, K, 4, 4)`: poses of its pixel frames. camera: their conditioning. warped `(B, K, 5, H, W)`: what
    the point memory shows from them, and tokens `(B, 1, N, M)` of its last frame; None without a memory.
    blocks: what the last frame is composed of; None where views are not composed.
    """

    c2w: Tensor
    camera: CameraInput
    tokens: Tensor | None
    warped: Tensor | None
    blocks: Blocks | None = None


class RolloutState(NamedTuple):
    """All that a rollout remembers, batch axis first.

    dit: transformer state before `pending`, the newest chunk, which is not committed yet. text: prompt of the
    coming chunks. decode, memory: state of the decoder and of the point memory (None without one).
    intrinsics `(B, 4)` in frame pixels. seed, chunk `(B,)` int64: the noise key. temperature `(B,)`.
    """

    dit: DiTState
    pending: ChunkInput
    text: TextTokens
    decode: DecodeState
    memory: MemoryState | None
    intrinsics: Tensor
    seed: Tensor
    chunk: Tensor
    temperature: Tensor


def begin_by_length(
    begin: Callable[[Sequence[Start]], tuple[Chunk, State]], starts: Sequence[Start]
) -> tuple[Chunk, State]:
    """Return `begin` of all starts, which is called once for those whose contexts are of one length."""
    lengths = [0 if start.context is None else start.context.length for start in starts]
    groups = [[slot for slot, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]
    begun = [begin([starts[slot] for slot in slots]) for slots in groups]
    if len(begun) == 1:
        return begun[0]
    order = torch.tensor([slot for slots in groups for slot in slots]).argsort().tolist()
    chunk, state = (select(cat(list(parts)), order) for parts in zip(*begun, strict=True))
    return chunk, state


def chunk_noise(seed: Tensor, chunk: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Return standard normal noise `(B, *shape)`: slot b's depends on (seed[b], chunk[b], stream) alone.

    stream: 0 for the latents, 1 for the refiner.
    """
    pairs = zip(seed.tolist(), chunk.tolist(), strict=True)
    own = stream * 0x94D049BB133111EB
    keys = [(s * 0x9E3779B97F4A7C15 + c * 0xBF58476D1CE4E5B9 + own) % 2**63 for s, c in pairs]
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(key)) for key in keys])

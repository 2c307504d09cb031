"""Sizes of the stage-1 transformer as frozen values, with named presets and a JSON round trip."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Range = tuple[float, float]


def check_ranges(config: Any, whole: Mapping[str, Range], real: Mapping[str, Range]) -> None:
    """Raise `ValueError` naming the first entry of a config that is no number of its range, ends included.

    whole: of integers. real: of finite numbers. An entry that is a tuple is checked number by number.
    """
    for ranges, kinds, called in ((whole, (int,), "an integer"), (real, (int, float), "a number")):
        for name, (low, high) in ranges.items():
            value = getattr(config, name)
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, bool) or not isinstance(one, kinds) or not low <= one <= high:
                    raise ValueError(f"{name}={value!r:.80} must be {called} in {low:g} .. {high:g}")


_WHOLE: dict[str, Range] = {
    "latent_channels": (1, 4096),
    "hidden": (1, 2**16),
    "heads": (1, 1024),
    "depth": (1, 512),
    "caption_channels": (1, 2**16),
    "softmax_every": (1, 2**31),
    "temporal_stride": (1, 64),
    "chunk_frames": (1, 1024),
    "memory_channels": (0, 2**16),
    "short_conv_kernel": (1, 64),
}
_REAL: dict[str, Range] = {
    "ffn_ratio": (0.01, 64),
    "rope_theta": (1, 1e12),
    "rope_time_scale": (1e-6, 1e6),
    **dict.fromkeys(("gdn_eps", "qk_norm_eps", "cross_norm_eps", "layer_norm_eps"), (0, 1)),
    "caption_norm_eps": (0, 1),
    "caption_norm_init": (-1e6, 1e6),
    "gate_init": (-1e6, 1e6),
}


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The shape of a SANA-WM transformer (docs/reference/transformer.md#configuration).

    latent_channels: channels of the video latent, in and out.
    hidden, heads, depth: width C, number of self-, camera- and cross-attention heads, blocks.
    softmax_every: block i is a softmax block when (i + 1) is a multiple of it, else a GDN block.
    ffn_ratio: hidden channels of the feed-forward over `hidden`.
    caption_channels: width of the text features.
    temporal_stride: pixel frames per latent frame; a Plücker map packs 6 channels for each.
    window_chunks: committed chunks a softmax block attends to, None for all of them, 0 for none.
    sink: the first chunk always stays in that window.
    chunk_frames: latent frames of a chunk after the first (shape of an empty window slot).
    memory_channels: channels of an extra per-token conditioning map, 0 for none (the released model).
    rope_time_scale: latent frames are counted in this unit by the temporal rotary embedding.
    gate_init: residual gates start this much above the released initialisation; with it the head starts at
        zero, so that short trainings lose no time.
    """

    latent_channels: int
    hidden: int
    heads: int
    depth: int
    caption_channels: int
    softmax_every: int = 4
    ffn_ratio: float = 3.0
    temporal_stride: int = 8
    window_chunks: int | None = 2
    sink: bool = True
    chunk_frames: int = 3
    memory_channels: int = 0
    short_conv_kernel: int = 4
    rope_theta: float = 10_000.0
    rope_time_scale: float = 1.0
    gdn_eps: float = 1e-8
    qk_norm_eps: float = 1e-5
    cross_norm_eps: float = 1e-6
    layer_norm_eps: float = 1e-6
    caption_norm_eps: float = 1e-5
    caption_norm_init: float = 0.01
    gate_init: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, _WHOLE, _REAL)
        if not isinstance(self.sink, bool):
            raise ValueError(f"sink={self.sink!r:.80} must be true or false")
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.head_dim % 8:
            raise ValueError(
                f"head dim {self.head_dim} is not a multiple of 8: the camera branch needs 4-vectors and "
                "rotary pairs"
            )
        if self.ffn_hidden < 1:
            raise ValueError(f"ffn_ratio={self.ffn_ratio} leaves no channel of hidden={self.hidden}")
        least = 1 if self.sink else 0
        if self.window_chunks is not None:
            check_ranges(self, {"window_chunks": (0, 2**16)}, {})
        if self.window_chunks is not None and self.window_chunks < least:
            raise ValueError(
                f"window_chunks={self.window_chunks} must be at least {least} with sink={self.sink}, "
                "or None for no limit"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def ffn_hidden(self) -> int:
        return int(self.hidden * self.ffn_ratio)

    @property
    def plucker_channels(self) -> int:
        return 6 * self.temporal_stride

    def is_softmax(self, block: int) -> bool:
        return (block + 1) % self.softmax_every == 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DiTConfig:
        values = json.loads(text)
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown DiT settings {unknown}; known are {sorted(known)}")
        return cls(**values)


def sana_wm() -> DiTConfig:
    """The released 2.66 B transformer; the three variants share it."""
    return DiTConfig(latent_channels=128, hidden=2240, heads=20, depth=20, caption_channels=2304)


def tiny(memory_channels: int = 0, window_chunks: int = 1) -> DiTConfig:
    """The embedded world: one latent frame a chunk, 64 tokens a frame, every part of the released block.

    Its softmax blocks have no sink and see the previous chunk, or (`window_chunks=0`) the current one alone:
    all older memory is the GDN state's. With a sink the network learned to ignore that state.
    """
    return DiTConfig(
        latent_channels=32,
        hidden=160,
        heads=5,
        depth=8,
        caption_channels=64,
        ffn_ratio=2.0,
        temporal_stride=4,
        window_chunks=window_chunks,
        sink=False,
        chunk_frames=1,
        memory_channels=memory_channels,
        rope_time_scale=0.25,
        caption_norm_init=1.0,
        gate_init=0.3,
    )

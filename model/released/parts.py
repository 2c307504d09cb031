"""The networks of a released pipeline, where they compute, and what each is told."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from wm_env.model.dit import DiT
from wm_env.model.refiner.ltx2 import LTX2Refiner
from wm_env.model.state import tree_map
from wm_env.model.text import TextEncoder, TextTokens
from wm_env.model.vae.ltx2 import LTX2VAE
from wm_env.model.visiting import Visitor

Offload = Literal["text", "text-blocks", "vae", "refiner", "refiner-blocks", "stage1-blocks"]
OFFLOADS: tuple[Offload, ...] = get_args(Offload)
Part = Literal["encoder", "decoder", "refiner"]  # what at_work brings; the autoencoder's halves by themselves
NEGATIVE_PROMPT = ""


def check_offload(offload: Sequence[str]) -> None:
    """Raise `ValueError` for a part that there is not, and for one that is named whole and in blocks."""
    unknown = sorted(set(offload) - set(OFFLOADS))
    if unknown:
        raise ValueError(f"unknown offload {unknown}; valid are {', '.join(OFFLOADS)}")
    twice = [part for part in ("text", "refiner") if {part, f"{part}-blocks"} <= set(offload)]
    if twice:
        raise ValueError(f"offload names {twice[0]} and {twice[0]}-blocks; choose one of them")


@dataclass(frozen=True, kw_only=True)
class ReleasedParts:
    """The networks of a released pipeline. refiner and refiner_text: both or neither.

    negative: encoder of the negative prompt, which has no preamble; only guidance needs one.
    device: where the networks compute. offload: parts that stay on the CPU and visit it for their turn
    ("text" is the business of the encoders given, "-blocks" that of the networks: `visiting.in_turn`).
    camera_dtype: of poses, intrinsics and Plücker maps that the transformer is given.
    """

    dit: DiT
    vae: LTX2VAE
    text: TextEncoder
    negative: TextEncoder | None = None
    refiner: LTX2Refiner | None = None
    refiner_text: TextEncoder | None = None
    device: str = "cpu"
    offload: tuple[Offload, ...] = ()
    camera_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if (self.refiner is None) != (self.refiner_text is None):
            raise ValueError("a refiner and its text encoder go together; give both or neither")
        check_offload(self.offload)
        if self.vae.channels != self.dit.cfg.latent_channels:
            raise ValueError(
                f"the autoencoder has {self.vae.channels} latent channels, the transformer "
                f"{self.dit.cfg.latent_channels}"
            )
        if self.vae.temporal_ratio != self.dit.cfg.temporal_stride:
            raise ValueError(
                f"the autoencoder packs {self.vae.temporal_ratio} frames into a latent, the transformer "
                f"expects {self.dit.cfg.temporal_stride}"
            )

    @contextmanager
    def at_work(self, part: Part) -> Iterator[None]:
        """Bring an offloaded part to the device for the duration; nothing otherwise."""
        visitor = self._visitors.get(part)
        if visitor is None:
            yield
            return
        visitor.arrive(visitor.copies())
        try:
            yield
        finally:
            visitor.leave()

    @functools.cached_property
    def _visitors(self) -> dict[Part, Visitor]:
        found: dict[Part, Visitor] = {}
        if "vae" in self.offload:
            halves: dict[Part, nn.Module] = {
                "encoder": self.vae.module.encoder,
                "decoder": self.vae.module.decoder,
            }
            found |= {part: Visitor(module, self.device) for part, module in halves.items()}
        if "refiner" in self.offload and self.refiner is not None:
            found["refiner"] = Visitor(self.refiner, self.device)
        return found

    @property
    def dtype(self) -> torch.dtype:
        return self.dit.latent_in.weight.dtype

    def encode_text(self, prompts: Sequence[str]) -> TextTokens:
        """Return stage-1 features on the device, in the transformer's dtype."""
        return _on(self.text.encode(prompts), self.device, self.dtype)

    def encode_negative(self, batch: int) -> TextTokens:
        """Return the features of the negative prompt for every slot."""
        if self.negative is None:
            raise ValueError("guidance needs an encoder of the negative prompt (negative=)")
        said = _on(self.negative.encode([NEGATIVE_PROMPT]), self.device, self.dtype)
        return tree_map(lambda leaf: leaf.expand(batch, *leaf.shape[1:]), said)

    def encode_refiner_text(self, prompts: Sequence[str]) -> TextTokens | None:
        if self.refiner_text is None:
            return None
        return _on(self.refiner_text.encode(prompts), self.device, self.dtype)


def _on(text: TextTokens, device: str, dtype: torch.dtype) -> TextTokens:
    return TextTokens(text.tokens.to(device, dtype), text.mask.to(device, dtype))

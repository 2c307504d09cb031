"""Prompt features for the LTX-2 refiner: Gemma-3 hidden states through LTX-2's text connectors.

Both are used as their libraries ship them (transformers, diffusers). A prompt is encoded without preamble,
left-padded to 1024 tokens; the hidden states of every layer go to the connectors, whose video half gives
`(B, L, E)` (docs/reference/pipeline.md#refiner-prompt-features).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wm_env.model.gemma import INSTALL, CachedEncoder, Placement, tokenizer_folder
from wm_env.model.storage.folder import Component
from wm_env.model.storage.tensor_files import list_tensors, load_tensorwise
from wm_env.model.text import TextTokens

REFINER_TOKENS = 1024


class Gemma3Encoder:
    """Gemma-3 and connectors; `key` names both in a cache."""

    def __init__(
        self, model: Any, tokenizer: Any, connectors: Any, *, key: str, length: int = REFINER_TOKENS
    ) -> None:
        self.model, self.tokenizer, self.connectors, self.length = model, tokenizer, connectors, length
        self.key = f"{key}-{length}"

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> TextTokens:
        """Return the refiner's text features `(B, L, E)` and their mask `(B, L)`."""
        batch = self.tokenizer(
            list(prompts), padding="max_length", padding_side="left", truncation=True, max_length=self.length,
            return_tensors="pt",
        )  # fmt: skip
        ids, mask = (batch[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        stacked = torch.stack(states, dim=-1)  # (B, L, E, layers + 1)
        video, _, video_mask = self.connectors(stacked, mask, padding_side="left")
        return TextTokens(video, video_mask.reshape(video.shape[:2]).float())


def load_gemma3(
    gemma: Component,
    connectors: Component,
    *,
    place: Placement,
    device: str,
    dtype: torch.dtype,
    length: int = REFINER_TOKENS,
) -> Gemma3Encoder:
    """Return the encoder of a Gemma-3 folder (weights and tokenizer) and a connectors folder.

    place: puts Gemma where it computes; the connectors go to `device`.
    """
    try:
        from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"the refiner's text encoder needs transformers and diffusers; {INSTALL}"
        ) from error
    model = AutoModel.from_pretrained(gemma.path, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(gemma), local_files_only=True)
    config = {key: value for key, value in connectors.config.items() if not key.startswith("_")}
    with torch.device("meta"):
        module = LTX2TextConnectors(**config)
    weights = connectors.weights()
    load_tensorwise(module, list_tensors(weights), source=str(weights), device=device, dtype=dtype)
    place(model.eval().requires_grad_(False))
    return Gemma3Encoder(model, tokenizer, module.eval(), key=gemma3_key(gemma, connectors), length=length)


def gemma3_key(gemma: Component, connectors: Component) -> str:
    """Return what names the weights in a cache: configs and the sizes of the files."""
    sizes = [
        sorted((p.name, p.stat().st_size) for p in c.path.glob("*.safetensors")) for c in (gemma, connectors)
    ]
    facts = json.dumps([gemma.config, connectors.config, sizes], sort_keys=True)
    return "gemma3-" + hashlib.sha256(facts.encode()).hexdigest()[:16]


def cached_gemma3(
    gemma: Component,
    connectors: Component,
    *,
    folder: Path,
    place: Placement,
    device: str,
    dtype: torch.dtype,
    keep: bool,
    length: int = REFINER_TOKENS,
    variant: str = "",
) -> CachedEncoder:
    """Return the cached encoder of the two folders; nothing is loaded yet. variant: as of Gemma-2's."""

    def load() -> Gemma3Encoder:
        return load_gemma3(gemma, connectors, place=place, device=device, dtype=dtype, length=length)

    key = f"{gemma3_key(gemma, connectors)}-{length}"
    return CachedEncoder(load, key, folder, keep=keep, variant=variant)

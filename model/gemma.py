"""Prompt features for the released models: Gemma-2, and a cache on disk so that it need not stay loaded.

A prompt is encoded behind the preamble that ships in the checkpoint's YAML: pad and cut to (preamble tokens +
length - 2), then keep token 0 and the last length - 1 positions (docs/reference/pipeline.md#prompt-features).
The negative prompt is encoded alone. Legend: `B` prompts, `L` tokens (300), `E` width (2304).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from wm_env.model.storage.atomic import write_atomic
from wm_env.model.storage.folder import Component
from wm_env.model.text import TextTokens

PROMPT_TOKENS = 300
INSTALL = "install it with `pip install 'wm-env[released]'`"


class PromptEncoder(Protocol):
    """Turns prompts into features; `key` names everything the result depends on besides the prompt."""

    @property
    def key(self) -> str: ...

    def encode(self, prompts: Sequence[str]) -> TextTokens: ...


class Gemma2Encoder:
    """The decoder stack of Gemma-2 as feature extractor; `preamble` "" encodes prompts alone."""

    def __init__(
        self, model: Any, tokenizer: Any, *, preamble: str, key: str, length: int = PROMPT_TOKENS
    ) -> None:
        self.model, self.tokenizer, self.preamble, self.length = model, tokenizer, preamble, length
        self.key = f"{key}-{hashlib.sha256(preamble.encode()).hexdigest()[:16]}-{length}"

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> TextTokens:
        """Return features `(B, L, E)` of the last hidden state and their mask `(B, L)`, 1 = a real token."""
        before = len(self.tokenizer(self.preamble).input_ids) if self.preamble else 0
        length = before + self.length - 2 if self.preamble else self.length
        batch = self.tokenizer(
            [self.preamble + prompt for prompt in prompts],
            padding="max_length", padding_side="right", truncation=True, max_length=length,
            return_tensors="pt",
        )  # fmt: skip
        ids, mask = (batch[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, length, E)
        kept = [0, *range(length - self.length + 1, length)]
        return TextTokens(hidden[:, kept], mask[:, kept].float())


class CachedEncoder:
    """An encoder behind a folder of files, one per prompt; the encoder is loaded on the first miss.

    load: returns the encoder. key: its `key`, known without loading it. keep: hold on to it after a miss, or
    load it again for the next one. variant: what features depend on besides the key, "" for nothing.
    """

    def __init__(
        self, load: Callable[[], PromptEncoder], key: str, folder: Path, *, keep: bool, variant: str = ""
    ) -> None:
        self._load, self.key, self.folder, self._keep, self._variant = load, key, folder, keep, variant
        self._encoder: PromptEncoder | None = None

    def encode(self, prompts: Sequence[str]) -> TextTokens:
        """Return features and mask, from the cache where it has them; only missing prompts are encoded."""
        missing = sorted({prompt for prompt in prompts if not self.path(prompt).is_file()})
        if missing:
            encoder = self._load() if self._encoder is None else self._encoder
            self._encoder = encoder if self._keep else None
            if encoder.key != self.key:
                raise ValueError(f"the text encoder is {encoder.key}, the cache is for {self.key}")
            self.folder.mkdir(parents=True, exist_ok=True)
            for prompt in missing:  # one by one: the features must not depend on the company
                tokens, mask = encoder.encode([prompt])
                stored = {"tokens": tokens[0].cpu().contiguous(), "mask": mask[0].cpu().contiguous()}
                write_atomic(self.path(prompt), save_bytes(stored))
        stored_all = [self._read(self.path(prompt)) for prompt in prompts]
        return TextTokens(
            torch.stack([stored["tokens"] for stored in stored_all]),
            torch.stack([stored["mask"] for stored in stored_all]),
        )

    def path(self, prompt: str) -> Path:
        """Return the file of a prompt."""
        named = [self.key, prompt, *([self._variant] if self._variant else [])]
        digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    @staticmethod
    def _read(path: Path) -> dict[str, Tensor]:
        try:
            return load_bytes(path.read_bytes())
        except SafetensorError as error:
            raise ValueError(f"the cached prompt {path} is corrupted ({error}); delete it") from error


def tokenizer_folder(component: Component) -> Path:
    """Return where the tokenizer of a text model lies: in its own folder or in `tokenizer` beside it."""
    for folder in (component.path, component.path.parent / "tokenizer"):
        if (folder / "tokenizer_config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"there is no tokenizer_config.json in {component.path} nor in 'tokenizer' beside it"
    )


def gemma2_key(component: Component) -> str:
    """Return what names the weights of a Gemma folder in a cache: its config and the sizes of its files."""
    facts = [
        component.config,
        sorted((p.name, p.stat().st_size) for p in component.path.glob("*.safetensors")),
    ]
    return "gemma2-" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


Placement = Callable[[Any], None]
"""Puts a network that is loaded and frozen on the CPU where it computes."""


def load_gemma2(
    component: Component,
    *,
    preamble: str,
    place: Placement,
    dtype: torch.dtype,
    length: int = PROMPT_TOKENS,
) -> Gemma2Encoder:
    """Return the encoder of a Gemma-2 folder (weights and tokenizer)."""
    try:
        from transformers import AutoTokenizer, Gemma2Model
    except ImportError as error:
        raise ImportError(f"the text encoder needs transformers; {INSTALL}") from error
    model = Gemma2Model.from_pretrained(component.path, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(component), local_files_only=True)
    place(model.eval().requires_grad_(False))
    return Gemma2Encoder(model, tokenizer, preamble=preamble, key=gemma2_key(component), length=length)


def cached_gemma2(
    component: Component,
    *,
    preamble: str,
    folder: Path,
    place: Placement,
    dtype: torch.dtype,
    keep: bool,
    length: int = PROMPT_TOKENS,
    variant: str = "",
) -> CachedEncoder:
    """Return the cached encoder of a Gemma-2 folder; nothing is loaded yet.

    variant: what else its features depend on, such as a precision.
    """
    key = Gemma2Encoder(None, None, preamble=preamble, key=gemma2_key(component), length=length).key

    def load() -> Gemma2Encoder:
        return load_gemma2(component, preamble=preamble, place=place, dtype=dtype, length=length)

    return CachedEncoder(load, key, folder, keep=keep, variant=variant)

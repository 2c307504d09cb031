"""Text features: the encoder protocol and a seeded hash encoder that needs no weights."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class TextTokens(NamedTuple):
    """Caption features `(B, L, E)`, or `(B, T, L, E)` for a prompt per frame, and their mask, 1 = keep."""

    tokens: Tensor
    mask: Tensor


class TextEncoder(Protocol):
    def encode(self, prompts: Sequence[str]) -> TextTokens: ...


@functools.lru_cache(maxsize=4096)
def _word_vector(word: str, width: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "big")
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


class HashTextEncoder:
    """Every word is a fixed random vector drawn from a hash of its spelling; order does not matter.

    Good enough for a closed vocabulary ("two rooms, dim light, red beacon"): unknown words become vectors
    the model has never seen and carry no meaning.
    """

    def __init__(
        self, width: int = 64, length: int = 16, complete: Callable[[str], str] | None = None
    ) -> None:
        self.width, self.length, self.complete = width, length, complete

    def encode(self, prompts: Sequence[str]) -> TextTokens:
        """Return features `(B, length, width)` float32 and mask; longer prompts are cut at `length` words.

        Prompts are read as `complete` returns them, where there is one.
        """
        tokens = torch.zeros(len(prompts), self.length, self.width)
        mask = torch.zeros(len(prompts), self.length)
        for i, prompt in enumerate(prompts):
            told = prompt if self.complete is None else self.complete(prompt)
            words = re.findall(r"[a-z0-9]+", told.lower())[: self.length]
            for j, word in enumerate(words):
                tokens[i, j] = _word_vector(word, self.width)
                mask[i, j] = 1.0
        return TextTokens(tokens, mask)

"""Trained autoencoders as files: `vae.safetensors` with the settings on its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wm_env.model.storage.checkpoint import Card, build_network, load_checkpoint
from wm_env.model.vae.tiny import TinyVAE, TinyVAEConfig


def vae_config(values: Mapping[str, Any]) -> TinyVAEConfig:
    """Return the config of its JSON values (lists become tuples)."""
    return TinyVAEConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})  # type: ignore[arg-type]


def load_vae(path: Path) -> tuple[TinyVAE, Card]:
    """Return the autoencoder of a `vae.safetensors` written by `train_vae`, in eval mode, and its card."""
    tensors, card = load_checkpoint(path)
    config = vae_config(card["settings"]["vae"])
    vae = build_network(lambda: TinyVAE(config), tensors, str(path))
    return vae.to(memory_format=torch.channels_last).eval(), card  # type: ignore[call-overload]


def same_latents(card: Card) -> list[str]:
    """Return the SHA-256 of all weights whose latents are those of `card`'s autoencoder.

    These are its own and, where only its depth network was trained further, the original's.
    """
    return [card["sha256"], *([card["codec"]["sha256"]] if "codec" in card else [])]

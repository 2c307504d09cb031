"""World folders, put together of trained parts: what every training leaves as `OUT/world`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_env.model.config import DiTConfig, tiny
from wm_env.model.dit import DiT
from wm_env.model.embedded import EmbeddedConfig, latents_of, load_embedded, write_parts
from wm_env.model.point_memory import MEMORY_CHANNELS
from wm_env.model.refiner.tiny import TinyRefinerConfig
from wm_env.model.rollout_state import Prompts, Reading, SamplerConfig
from wm_env.model.storage.atomic import scratch_folder
from wm_env.model.storage.checkpoint import Card, load_checkpoint, save_checkpoint
from wm_env.model.training.autoencoder import same_latents, vae_config
from wm_env.model.training.card import git_commit

BASE = "tiny"  # the embedded world whose parts stand beside a part that is trained alone


def export_world(
    *,
    name: str,
    dit: Path,
    vae: Path,
    refiner: Path | None,
    out: Path,
    sampler: SamplerConfig,
    trained_steps: int,
    metrics: Mapping[str, Any] | None = None,
    memory_reading: Reading = "composed",
    prompts: Prompts = "any",
    stages: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Write `out/NAME.safetensors` (bfloat16) and its card from trained parts; return the SHA-256.

    stages: what the transformer was trained in, one after the other: name, kind, steps, seconds, metrics.
    """
    parts = {"dit": dit, "vae": vae} | ({} if refiner is None else {"refiner": refiner})
    tensors: dict[str, Tensor] = {}
    cards: dict[str, Any] = {}
    for part, path in parts.items():
        loaded, cards[part] = load_checkpoint(path)
        tensors |= {f"{part}.{key}": tensor for key, tensor in loaded.items()}
    settings = {part: card["settings"] for part, card in cards.items()}
    refiner_settings = settings.get("refiner", {}).get("refiner")
    world = EmbeddedConfig(
        dit=DiTConfig(**settings["dit"]["dit"]),
        vae=vae_config(settings["vae"]["vae"]),
        refiner=None if refiner_settings is None else TinyRefinerConfig(**refiner_settings),
        sampler=sampler,
        trained_steps=trained_steps,
        memory_reading=memory_reading,
        prompts=prompts,
    )
    card: dict[str, Any] = {
        "name": name, "world": world.to_dict(), "parts": cards, "metrics": dict(metrics or {}),
    }  # fmt: skip
    card |= {"stages": [dict(stage) for stage in stages]} if stages else {}
    return save_checkpoint(out / f"{name}.safetensors", tensors, card, dtype=torch.bfloat16)


def export_changed(
    world: str | Path,
    parts: Mapping[str, Path],
    *,
    name: str,
    out: Path,
    sampler: SamplerConfig | None = None,
    trained_steps: int | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Write the world folder `out`: `world` with some of its parts replaced; return the SHA-256.

    parts: safetensors by "dit", "vae" or "refiner". sampler, trained_steps: None for those of `world`.
    """
    loaded = load_embedded(world)
    with scratch_folder(out.parent, "parts") as folder:
        whole = write_parts(world, folder) | dict(parts)
        return export_world(
            name=name, dit=whole["dit"], vae=whole["vae"], refiner=whole.get("refiner"), out=out,
            sampler=sampler or loaded.sampler,
            trained_steps=loaded.spec.trained_steps if trained_steps is None else trained_steps,
            metrics=metrics, memory_reading=loaded.memory_reading, prompts=loaded.prompts,
        )  # fmt: skip


def base_of(vae: Card) -> str | None:
    """Return the embedded world that speaks the latents of an autoencoder, by its card; None for none."""
    return BASE if set(same_latents(vae)) & set(latents_of(BASE)) else None


def export_beside_base(
    vae: Card, parts: Mapping[str, Path], *, name: str, out: Path, metrics: Mapping[str, Any]
) -> str:
    """Write the world folder `out` of parts that no transformer was trained for; return the SHA-256.

    vae: card of the autoencoder whose latents they are for. Where the embedded world speaks them, it has the
    other parts. Otherwise there is no transformer yet: the folder holds an untrained one (its card says so,
    and `trained_steps` is 0), good for measuring the autoencoder alone.
    """
    base = base_of(vae)
    if base is not None:
        return export_changed(base, parts, name=name, out=out, metrics=metrics)
    with scratch_folder(out.parent, "parts") as folder:
        refiner = parts.get("refiner")
        dit = untrained(folder / "dit.safetensors", memory=refiner is not None)
        return export_world(
            name=name, dit=dit, vae=parts["vae"], refiner=refiner, out=out, sampler=SamplerConfig(),
            trained_steps=0, metrics=metrics,
        )  # fmt: skip


def untrained(path: Path, memory: bool) -> Path:
    """Write a small transformer with its seeded initialisation as `path`, and return it."""
    shape = dataclasses.replace(tiny(MEMORY_CHANNELS if memory else 0), hidden=32, heads=2, depth=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiT(shape)
    card = {
        "part": "dit", "untrained": True, "steps": 0, "seed": 0, "wall_seconds": 0.0, "hardware": "none",
        "commit": git_commit(), "torch": torch.__version__, "settings": {"dit": dataclasses.asdict(shape)},
        "metrics": {},
    }  # fmt: skip
    save_checkpoint(path, model.state_dict(), card)
    return path

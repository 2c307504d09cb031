"""Embedded worlds on disk: one safetensors file with every part, one card that says how to assemble them.

    NAME.safetensors   dit.*, vae.*, and refiner.* where the world has a memory; bfloat16
    NAME.json          card: "world" (the settings below), provenance of every part, sha256

`load_embedded` takes a preset (`tiny`, `tiny-pure`: package data) or a folder holding one such pair.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_env.kernels.frame_gdn import resolve_impl
from wm_env.model.config import DiTConfig, check_ranges
from wm_env.model.dit import DiT
from wm_env.model.placement import check_device
from wm_env.model.point_memory import MEMORY_CHANNELS
from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import Ablation, Prompts, Reading, SamplerConfig
from wm_env.model.scenes.captions import completed
from wm_env.model.storage.atomic import expanded
from wm_env.model.storage.checkpoint import (
    Card,
    Network,
    build_network,
    file_sha256,
    load_checkpoint,
    save_checkpoint,
    with_prefix,
)
from wm_env.model.storage.facts import check_fact
from wm_env.model.storage.weight_names import some
from wm_env.model.text import HashTextEncoder
from wm_env.model.vae.tiny import GROUP, TinyVAE, TinyVAEConfig
from wm_env.model.world import WorldSpec

EMBEDDED = ("tiny", "tiny-pure")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REFINERS = ("default", "tiny", "none")  # what a world comes with; its own, or an error; without
MAX_TRANSLATION, MAX_ROTATION_DEG = 0.0625, 3.6  # metres and degrees per pixel frame


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedConfig:
    """What it takes to rebuild an embedded world around its weights.

    trained_steps: latent frames of the longest training clip, less the start. refiner: None for a world
    without memory. memory_reading: how views of the memory are made (`LearnedWorld`); cards that do not say
    it are of worlds that read four frames. prompts: "captions" for a world that was told captions of rendered
    scenes alone, so that others are completed (`wm_env.model.scenes.captions`), "any" for another.
    """

    dit: DiTConfig
    vae: TinyVAEConfig
    refiner: TinyRefinerConfig | None
    sampler: SamplerConfig
    trained_steps: int
    memory_reading: Reading = "composed"
    prompts: Prompts = "any"

    def __post_init__(self) -> None:
        check_ranges(self, {"trained_steps": (0, 2**31)}, {})
        dit = self.dit
        equal = {
            "dit.latent_channels": (dit.latent_channels, self.vae.channels, "vae.channels"),
            "dit.temporal_stride": (dit.temporal_stride, GROUP, "the frames of a latent"),
            "dit.chunk_frames": (dit.chunk_frames, 1, "the latents of a step"),
        }
        for name, (value, wanted, what) in equal.items():
            if value != wanted:
                raise ValueError(f"{name}={value} must be {wanted}, {what}")
        if dit.memory_channels not in (0, MEMORY_CHANNELS):
            raise ValueError(f"dit.memory_channels={dit.memory_channels} must be 0 or {MEMORY_CHANNELS}")
        if dit.window_chunks is None:
            raise ValueError("dit.window_chunks is None; a world that is stepped forgets, give a number")

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EmbeddedConfig:
        """Return the settings of a card; unknown or missing entries raise `ValueError`."""
        try:
            refiner = values["refiner"]
            return cls(
                dit=DiTConfig(**values["dit"]),
                vae=TinyVAEConfig(**_tuples(values["vae"])),
                refiner=None if refiner is None else TinyRefinerConfig(**refiner),
                sampler=SamplerConfig(**_tuples(values["sampler"])),
                trained_steps=values["trained_steps"],
                memory_reading=values.get("memory_reading", "four"),
                prompts=values.get("prompts", "any"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(
                f"the card's world settings do not describe an embedded world: {error}"
            ) from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def world_path(world: str | Path) -> Path:
    """Return the weight file of a preset name or of a folder holding exactly one `.safetensors`."""
    if str(world) in EMBEDDED:
        return Path(__file__).resolve().parent / "weights" / f"{world}.safetensors"
    found = sorted(p for p in expanded(world).glob("*.safetensors") if not p.name.startswith("."))
    if len(found) != 1:
        names = [path.name for path in found]
        raise FileNotFoundError(
            f"{world} holds {len(found)} weight files {names}; a world folder holds exactly one"
        )
    return found[0]


def build_world(
    tensors: dict[str, Tensor],
    config: EmbeddedConfig,
    *,
    name: str,
    sha256: str | None,
    device: str = "cpu",
    ablate: Ablation | None = None,
    impl: str = "auto",
    dtype: str = "float32",
    refiner: str = "default",
) -> LearnedWorld:
    """Return the world of these tensors, float32, on `device`; strict about every key.

    dtype: "float32", or "bfloat16" to compute its products in that (`LearnedWorld`). refiner: "default",
    "tiny" for a world that must have one, or "none": frames, and the memory, as they were decoded.
    """
    check_device(device)
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; valid are {', '.join(DTYPES)}")
    if refiner not in REFINERS:
        raise ValueError(f"unknown refiner {refiner!r} of an embedded world; valid are {', '.join(REFINERS)}")
    if refiner == "tiny" and config.refiner is None:
        raise ValueError(f"world {name!r} has no refiner (it has no 3D memory); leave refiner out")
    known = ("dit", "vae") if config.refiner is None else ("dit", "vae", "refiner")
    unknown = sorted(key for key in tensors if key.split(".")[0] not in known)
    if unknown:
        raise ValueError(f"world {name} holds tensors of no part of it: {some(unknown)}")
    implementation = resolve_impl(impl, device)

    def part(prefix: str, make: Callable[[], Network]) -> Network:
        module = build_network(make, with_prefix(tensors, prefix), f"world {name}, part {prefix}")
        # convolutions run in this layout anyway: 6% of a decode less
        return module.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload,no-any-return]

    dit = part("dit", lambda: DiT(config.dit, impl=implementation))
    vae = part("vae", lambda: TinyVAE(config.vae))
    of_refiner = config.refiner
    own = None if of_refiner is None else part("refiner", lambda: TinyRefiner(of_refiner))
    channels, height, width = vae.latent_shape
    options = {} if ablate is None else {"ablate": str(ablate)}
    options |= {"refiner": "none"} if own is not None and refiner == "none" else {}
    options |= {} if dtype == "float32" else {"dtype": dtype}
    spec = WorldSpec(
        name=name,
        options=options,
        frames_per_step=config.dit.temporal_stride,
        frame_size=(config.vae.size, config.vae.size),
        max_translation=MAX_TRANSLATION,
        max_rotation_deg=MAX_ROTATION_DEG,
        trained_steps=config.trained_steps,
        latent_shape=(channels, height, width),
        weights_sha256=sha256,
        takes_context=True,
        gives_depth=True,
    )
    complete = completed if config.prompts == "captions" else None
    text = HashTextEncoder(width=config.dit.caption_channels, complete=complete)
    return LearnedWorld(
        spec=spec,
        dit=dit,
        vae=vae,
        refiner=None if refiner == "none" else own,
        text=text,
        sampler=config.sampler,
        memory_reading=config.memory_reading,
        prompts=config.prompts,
        ablate=ablate,
        dtype=DTYPES[dtype],
    )


def _load(world: str | Path) -> tuple[Path, dict[str, Tensor], Card]:
    """Return the weight file of a world, its tensors and its card."""
    path = world_path(world)
    tensors, card = load_checkpoint(path)
    if not isinstance(card.get("world"), dict):
        raise ValueError(f"{path} is a part of a world, not a world: its card has no 'world' settings")
    return path, tensors, card


def load_embedded(
    world: str | Path,
    *,
    device: str = "cpu",
    ablate: Ablation | None = None,
    impl: str = "auto",
    dtype: str = "float32",
    refiner: str = "default",
) -> LearnedWorld:
    """Return the embedded world of a preset name or a checkpoint folder; see `build_world` for the settings.

    Raises `FileNotFoundError` for missing weights, `ValueError` for corrupted or misfitting ones.
    """
    path, tensors, card = _load(world)
    config = EmbeddedConfig.from_dict(card["world"])
    return build_world(
        tensors,
        config,
        name=path.stem,
        sha256=card["sha256"],
        device=device,
        ablate=ablate,
        impl=impl,
        dtype=dtype,
        refiner=refiner,
    )


def embedded_vae(world: str | Path) -> tuple[TinyVAE, str]:
    """Return the autoencoder of an embedded world, float32 in eval mode, and the world's SHA-256."""
    path, tensors, card = _load(world)
    config = EmbeddedConfig.from_dict(card["world"]).vae
    vae = build_network(lambda: TinyVAE(config), with_prefix(tensors, "vae"), f"world {path.stem}, part vae")
    return vae.to(memory_format=torch.channels_last).eval().requires_grad_(False), card["sha256"]  # type: ignore[call-overload]


def _parts(card: Card) -> dict[str, Card]:
    """Return the cards of a world's parts, or raise `ValueError` naming one that is none."""
    parts = check_fact(card, "parts", lambda value: isinstance(value, dict), "the card of every part")
    for name in ("dit", "vae"):
        own = check_fact(parts, name, lambda value: isinstance(value, dict), "the card of that part")
        check_fact(own, "sha256", lambda value: isinstance(value, str), "the SHA-256 of that part")
    return parts  # type: ignore[no-any-return]


def latents_of(world: str | Path) -> tuple[str, ...]:
    """Return the SHA-256 of the weights whose latents a world speaks: its autoencoder as it was trained, and
    as `write_parts` takes it out of the world."""
    _, tensors, card = _load(world)
    return _parts(card)["vae"]["sha256"], file_sha256(with_prefix(tensors, "vae"), torch.float32)


def write_parts(world: str | Path, out: Path) -> dict[str, Path]:
    """Write every part of an embedded world as `OUT/PART.safetensors` with its own card; return the paths.

    `train world --init` and the trainings that take a `vae.safetensors` start from such files.
    """
    path, tensors, card = _load(world)
    written = {}
    for part, own in _parts(card).items():
        written[part] = out / f"{part}.safetensors"
        kept = {key: value for key, value in own.items() if key not in ("sha256", "bytes", "values")}
        facts = {**kept, "part": part, "taken_from": {"world": path.stem, "sha256": card["sha256"]}}
        save_checkpoint(written[part], with_prefix(tensors, part), facts, dtype=torch.float32)
    return written

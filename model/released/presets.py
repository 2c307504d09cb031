"""From a preset name and a folder of released weights to a world, with placement and precision."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_env.kernels.frame_gdn import resolve_impl
from wm_env.model.gemma import cached_gemma2
from wm_env.model.refiner.ltx2_text import cached_gemma3
from wm_env.model.refiner.ltx2_weights import config_of as refiner_config
from wm_env.model.refiner.ltx2_weights import load_refiner
from wm_env.model.released.parts import Offload, ReleasedParts, check_offload
from wm_env.model.released.plan import Shapes
from wm_env.model.released.precision import PLAIN, precisions
from wm_env.model.released.quantise import check_precision, quantise, settler
from wm_env.model.released.rollout import ReleasedWorld
from wm_env.model.released.room import check_room, room
from wm_env.model.released.stage1 import config_of, load_stage1
from wm_env.model.released.variants import FRAME_SIZE, RELEASED, STEPPABLE, sampler_of, transformer_config
from wm_env.model.storage.atomic import expanded
from wm_env.model.storage.folder import (
    Component,
    ReleasedFolder,
    choose_stage1,
    look_into,
    only,
    stage1_files,
)
from wm_env.model.storage.tensor_files import files_of, sha256_of_files
from wm_env.model.text import TextEncoder
from wm_env.model.vae.ltx2 import load_ltx2_vae
from wm_env.model.visiting import blocks_of, in_turn
from wm_env.model.world import WorldSpec

REFINERS = ("none", "ltx2")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_TRANSLATION, MAX_ROTATION_DEG = 0.025, 0.6  # metres and degrees per pixel frame
TRAINED_STEPS = 40  # 961 frames, 121 latents
MAX_WINDOW = 42  # chunks; more than there are in the longest trained clip
TEXT_CACHE = "text_cache"


@dataclass(frozen=True, kw_only=True)
class ReleasedSettings:
    """Where a released world's weights lie and how they are placed.

    weights: its folder; None is `default_folder`.
    refiner: "none" or "ltx2".
    dtype: "float32" or "bfloat16"; None is float32 on a CPU and bfloat16 elsewhere.
    offload: parts that stay on the CPU and visit the device for their turn; "text" drops the encoder after
        each new prompt, "-blocks" brings a network block by block.
    frame_size: (height, width), multiples of 32; None is the trained 704x1280.
    precision: of the larger weights, for all parts or some, see `precision.precisions`.
    refiner_history: latent frames that the refiner remembers besides the start, 1 to 10.
    window: chunks in the softmax blocks' window, the first and the latest; None is 2 for the streaming model
        and 10 for the chunk-causal one, which was trained with all, 40 in a minute.
    camera_dtype: "float32", or "bfloat16" to round cameras as the published pipeline does.
    """

    weights: str | None = None
    refiner: str = "none"
    dtype: str | None = None
    offload: tuple[Offload, ...] = ("text",)
    frame_size: tuple[int, int] | None = None
    precision: str = PLAIN
    refiner_history: int = 10
    window: int | None = None
    camera_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.refiner not in REFINERS:
            raise ValueError(f"unknown refiner {self.refiner!r}; valid are {', '.join(REFINERS)}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; valid are None, {', '.join(DTYPES)}")
        check_offload(self.offload)
        precisions(self.precision)
        if self.camera_dtype not in DTYPES:
            raise ValueError(f"unknown camera_dtype {self.camera_dtype!r}; valid are {', '.join(DTYPES)}")
        if self.window is not None and not 1 <= self.window <= MAX_WINDOW:
            raise ValueError(f"window={self.window} must be 1 to {MAX_WINDOW} chunks")
        if not 1 <= self.refiner_history <= 10:
            raise ValueError(f"refiner_history={self.refiner_history} must be 1 to 10 latent frames")
        size = self.frame_size
        if size is not None and (len(size) != 2 or min(size) < 1 or any(n % 32 for n in size)):
            raise ValueError(f"frame_size={self.frame_size} must be (height, width), multiples of 32 pixels")


def default_folder(name: str) -> Path:
    """Return where `wm-env download NAME` puts the weights and a preset looks for them."""
    try:
        return expanded("~/.cache/wm_env") / name
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no home folder that would hold {name!r}; set HOME, or name a folder with weights= "
            "(--to of a download)"
        ) from error


def folder_of(name: str, settings: ReleasedSettings) -> Path:
    """Return the folder a preset loads from; raise `FileNotFoundError` with the command that fills it."""
    folder = default_folder(name) if settings.weights is None else expanded(settings.weights)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"world {name!r} has no weights: the folder {folder} does not exist; get them with "
            f"`wm-env download {name} --to {folder}`, or name their folder with weights="
        )
    return folder


def released_name(folder: Path) -> str | None:
    """Return which released world a folder holds, None unless its stage-1 weights tell exactly one."""
    variants = {file.variant for file in stage1_files(folder)}
    return next((name for name, variant in RELEASED.items() if variants == {variant}), None)


def load_parts(
    name: str,
    settings: ReleasedSettings,
    *,
    device: str = "cpu",
    impl: str = "auto",
    whole_path: bool = False,
) -> ReleasedParts:
    """Return the networks of a released world; files are chosen and checked before anything large is read.

    whole_path: for `draw_clip` instead of steps (no softmax window, a whole-clip autoencoder preferred).
    """
    variant = RELEASED[name]
    folder = folder_of(name, settings)
    found = look_into(folder)
    stage1 = choose_stage1(found, variant)
    default = transformer_config("bidirectional" if whole_path else variant)
    if settings.window is not None and not whole_path:
        default = dataclasses.replace(default, window_chunks=settings.window)
    cfg = config_of(stage1, default)
    vae = _choose_vae(found, causal=not whole_path)
    dtype = DTYPES[settings.dtype or ("float32" if device == "cpu" else "bfloat16")]
    kinds, offload = precisions(settings.precision), settings.offload
    refiner_parts, refiner_cfg = None, None
    if settings.refiner == "ltx2":
        refiner_parts = _refiner_files(found)
        refiner_cfg = refiner_config(refiner_parts[0], history_frames=settings.refiner_history)
    for precision in sorted(set(kinds.values())):
        check_precision(precision, device)
    shapes = Shapes(
        variant=variant,
        dit=cfg,
        refiner=refiner_cfg,
        frame_size=settings.frame_size or FRAME_SIZE,
        width=dtype.itemsize,
    )
    check_room(name, shapes, precision=settings.precision, offload=offload, room=room(device))
    text, negative = _text_encoders(found, settings, device=device, dtype=dtype)

    refiner, refiner_text = None, None
    dit = load_stage1(
        stage1,
        cfg,
        device="cpu" if "stage1-blocks" in offload else device,
        dtype=dtype,
        impl=resolve_impl(impl, device),
        precision=kinds["stage1"],
    )
    if "stage1-blocks" in offload:
        in_turn(dit, list(dit.blocks), device)
    vae_device = "cpu" if "vae" in offload else device
    if refiner_parts is not None:
        network, lora, gemma, connectors = refiner_parts
        waits = {"refiner", "refiner-blocks"} & set(offload)
        refiner = load_refiner(
            network,
            lora=lora,
            history_frames=settings.refiner_history,
            device="cpu" if waits else device,
            dtype=dtype,
            settler=lambda refiner: settler("refiner", refiner, kinds["refiner"]),
        )
        if "refiner-blocks" in offload:
            in_turn(refiner, list(refiner.layers), device)
        refiner_text = cached_gemma3(
            gemma, connectors, folder=folder / TEXT_CACHE, device=device, dtype=dtype,
            **_text_settings(settings, device),
        )  # fmt: skip
    return ReleasedParts(
        dit=dit,
        vae=load_ltx2_vae(vae, device=vae_device, dtype=dtype, tiled=whole_path),
        text=text,
        negative=negative,
        refiner=refiner,
        refiner_text=refiner_text,
        device=device,
        offload=settings.offload,
        camera_dtype=DTYPES[settings.camera_dtype],
    )


def load_released_world(
    name: str, settings: ReleasedSettings, *, device: str = "cpu", impl: str = "auto"
) -> ReleasedWorld:
    """Return the world of a preset name; raise `FileNotFoundError` or `ValueError` before any compute."""
    if name not in STEPPABLE:
        raise ValueError(f"world {name!r} cannot be stepped; {', '.join(STEPPABLE)} can")
    parts = load_parts(name, settings, device=device, impl=impl)
    cfg = parts.dit.cfg
    frame_size = settings.frame_size or FRAME_SIZE
    stage1 = choose_stage1(look_into(folder_of(name, settings)), RELEASED[name])
    spec = WorldSpec(
        name=name,
        options={} if settings.refiner == "none" else {"refiner": settings.refiner},
        frames_per_step=cfg.chunk_frames * cfg.temporal_stride,
        frame_size=frame_size,
        max_translation=MAX_TRANSLATION,
        max_rotation_deg=MAX_ROTATION_DEG,
        trained_steps=TRAINED_STEPS,
        latent_shape=(
            cfg.latent_channels,
            frame_size[0] // parts.vae.spatial_ratio,
            frame_size[1] // parts.vae.spatial_ratio,
        ),
        takes_context=True,
        weights_sha256=sha256_of_files(files_of(stage1.path)),
    )
    return ReleasedWorld(spec=spec, parts=parts, sampler=sampler_of(RELEASED[name]))


def _text_settings(settings: ReleasedSettings, device: str) -> dict[str, Any]:
    """Return what the text encoders are told of their place and precision."""
    precision = precisions(settings.precision)["text"]

    def place(network: Any) -> None:
        quantise("text", network, precision)
        if "text-blocks" in settings.offload:
            in_turn(network, blocks_of(network), device)
        else:
            network.to(device)

    keep = not {"text", "text-blocks"} & set(settings.offload)
    return {"place": place, "keep": keep, "variant": "" if precision == PLAIN else precision}


def _choose_vae(found: ReleasedFolder, *, causal: bool) -> Component:
    """Return the autoencoder of the wanted kind where there are two, else the only one."""
    wanted = tuple(c for c in found.vaes if bool(c.config.get("decoder_causal", True)) == causal)
    return only(wanted or found.vaes, "LTX-2 autoencoder (config.json of AutoencoderKLLTX2Video)", found.path)


def _text_encoders(
    found: ReleasedFolder, settings: ReleasedSettings, *, device: str, dtype: torch.dtype
) -> tuple[TextEncoder, TextEncoder]:
    """Return the encoder of prompts, behind the preamble, and that of the negative prompt, without it."""
    if found.preamble is None:
        raise FileNotFoundError(
            f"{found.path} holds no YAML file with text_encoder.chi_prompt, the preamble of every prompt; it "
            "ships with the checkpoint"
        )
    gemma = only(found.gemma2, "Gemma-2 text encoder (config.json with model_type gemma2)", found.path)
    cache = found.path / TEXT_CACHE
    positive, negative = (
        cached_gemma2(gemma, preamble=preamble, folder=cache, dtype=dtype, **_text_settings(settings, device))
        for preamble in (found.preamble, "")
    )
    return positive, negative


def _refiner_files(found: ReleasedFolder) -> tuple[Component, Path | None, Component, Component]:
    """Return the refiner's network, its LoRA if any, Gemma-3 and the connectors."""
    if len(found.loras) > 1:
        raise ValueError(f"{found.path} holds several LoRA files {[p.name for p in found.loras]}; keep one")
    return (
        only(found.refiners, "LTX-2 refiner (config.json of LTX2VideoTransformer3DModel)", found.path),
        found.loras[0] if found.loras else None,
        only(found.gemma3, "Gemma-3 text encoder (config.json with model_type gemma3)", found.path),
        only(found.connectors, "LTX-2 text connectors (config.json of LTX2TextConnectors)", found.path),
    )

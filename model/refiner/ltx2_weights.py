"""From LTX-2 checkpoints (diffusers layout) to the video-path refiner; audio tensors are named, never read.

A distilled few-step LoRA can be merged while loading, in float32: W + (alpha / rank) B A.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wm_env.model.refiner.ltx2 import LTX2Config, LTX2Refiner
from wm_env.model.storage.folder import Component
from wm_env.model.storage.tensor_files import (
    Entries,
    TensorEntry,
    list_tensors,
    load_tensorwise,
    read,
)
from wm_env.model.storage.weight_names import report_misfit, some

_GLOBAL = {
    "latent_in": "proj_in",
    "caption_in": "caption_projection.linear_1",
    "caption_out": "caption_projection.linear_2",
    "time_in": "time_embed.emb.timestep_embedder.linear_1",
    "time_out": "time_embed.emb.timestep_embedder.linear_2",
    "time_modulation": "time_embed.linear",
    "head": "proj_out",
}
_ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "out": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
_AUDIO = re.compile(r"(^|\.)(audio_|av_cross_attn_|video_to_audio_|video_a2v_)")
_LORA_PREFIXES = ("diffusion_model.", "transformer.", "base_model.model.", "model.")
_LORA_RENAMED = {"patchify_proj.": "proj_in.", "adaln_single.": "time_embed."}
_FIXED = {
    "patch_size": 1,
    "patch_size_t": 1,
    "gated_attn": False,
    "cross_attn_mod": False,
    "rope_type": "split",
    "qk_norm": "rms_norm_across_heads",
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "causal_offset": 1,
    "timestep_scale_multiplier": 1000,
    "use_keyframes_abs_pos_embedding": False,
}


class LoRA(NamedTuple):
    """A low-rank change of one weight: down `(r, in)`, up `(out, r)`, and alpha (r where not stored)."""

    down: TensorEntry
    up: TensorEntry
    alpha: TensorEntry | None


def is_audio(key: str) -> bool:
    """Whether a released key belongs to the audio side or to the exchange with it."""
    return _AUDIO.search(key) is not None


def names(cfg: LTX2Config) -> dict[str, str]:
    """Return our key of every released key of the video path."""
    table = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in _GLOBAL.items() for part in _PARTS}
    table["head_modulation"] = "scale_shift_table"
    for i in range(cfg.layers):
        mine, theirs = f"layers.{i}", f"transformer_blocks.{i}"
        table[f"{mine}.modulation"] = f"{theirs}.scale_shift_table"
        for attn, released in (("attn", "attn1"), ("cross", "attn2")):
            for ours, part in _ATTENTION.items():
                for kind in ("weight",) if ours.endswith("norm") else _PARTS:
                    table[f"{mine}.{attn}.{ours}.{kind}"] = f"{theirs}.{released}.{part}.{kind}"
        for ours, part in (("expand", "ff.net.0.proj"), ("contract", "ff.net.2")):
            for kind in _PARTS:
                table[f"{mine}.{ours}.{kind}"] = f"{theirs}.{part}.{kind}"
    return {theirs: ours for ours, theirs in table.items()}


_PARTS = ("weight", "bias")


def config_of(component: Component, *, history_frames: int = 10) -> LTX2Config:
    """Return the refiner's sizes from a config.json; raise `ValueError` where it asks for something else."""
    config: dict[str, Any] = component.config
    odd = {key: config[key] for key, value in _FIXED.items() if config.get(key, value) != value}
    if odd:
        raise ValueError(f"{component.path / 'config.json'} asks for {odd}; this refiner needs {_FIXED}")
    base = LTX2Config()
    heads = config.get("num_attention_heads", base.heads)
    head_dim = config.get("attention_head_dim", base.head_dim)
    if config.get("cross_attention_dim", heads * head_dim) != heads * head_dim:
        raise ValueError(f"{component.path / 'config.json'}: cross_attention_dim must be {heads * head_dim}")
    return LTX2Config(
        latent_channels=config.get("in_channels", base.latent_channels),
        heads=heads,
        head_dim=head_dim,
        layers=config.get("num_layers", base.layers),
        caption_channels=config.get("caption_channels", base.caption_channels),
        rope_theta=config.get("rope_theta", base.rope_theta),
        max_positions=(
            float(config.get("pos_embed_max_pos", 20)),
            float(config.get("base_height", 2048)),
            float(config.get("base_width", 2048)),
        ),
        strides=tuple(config.get("vae_scale_factors", base.strides)),
        history_frames=history_frames,
        eps=config.get("norm_eps", base.eps),
    )


def merge(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return W + scale * up @ down, computed in float32."""
    return weight.float() + scale * (up.float() @ down.float())


def list_loras(path: Path) -> dict[str, LoRA]:
    """Return the low-rank changes of a LoRA file by the released weight they change, without the audio."""
    found: dict[str, dict[str, TensorEntry]] = {}
    for key, entry in list_tensors(path).items():
        name = key
        for prefix in _LORA_PREFIXES:
            name = name.removeprefix(prefix)
        for theirs, released in _LORA_RENAMED.items():
            name = released + name.removeprefix(theirs) if name.startswith(theirs) else name
        if is_audio(name):
            continue
        match = re.fullmatch(
            r"(.+?)\.(lora_A|lora_B|lora_down|lora_up|alpha)(?:\.default)?(?:\.weight)?", name
        )
        if match is None:
            raise ValueError(f"{path}: {key!r} is no LoRA tensor (lora_A, lora_B or alpha of a weight)")
        part = {"lora_down": "lora_A", "lora_up": "lora_B"}.get(match[2], match[2])
        found.setdefault(f"{match[1]}.weight", {})[part] = entry
    incomplete = sorted(name for name, parts in found.items() if not {"lora_A", "lora_B"} <= set(parts))
    if incomplete:
        raise ValueError(f"{path}: {some(incomplete)} have only one of lora_A and lora_B")
    return {name: LoRA(p["lora_A"], p["lora_B"], p.get("alpha")) for name, p in found.items()}


def load_refiner(
    component: Component,
    *,
    lora: Path | None = None,
    history_frames: int = 10,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    settler: Callable[[LTX2Refiner], Callable[[str, Tensor], Tensor] | None] = lambda _: None,
) -> LTX2Refiner:
    """Return the refiner of a folder, loaded strictly and tensor by tensor; audio weights are never read.

    lora: a LoRA file to merge. settler: returns `load_tensorwise`'s `settle` for the network. Raises
    `ValueError` listing everything that does not fit.
    """
    cfg = config_of(component, history_frames=history_frames)
    weights = component.weights()
    stored = {key: entry for key, entry in list_tensors(weights).items() if not is_audio(key)}
    table = names(cfg)
    report_misfit(
        str(weights),
        unexpected=[key for key in stored if key not in table],
        missing=[key for key in table if key not in stored],
        misshapen=[],
    )
    changes = {} if lora is None else list_loras(lora)
    _check_loras(changes, stored, lora)
    with torch.device("meta"):
        model = LTX2Refiner(cfg)
    released = {ours: theirs for theirs, ours in table.items()}

    def merged(name: str, weight: Tensor) -> Tensor:
        change = changes.get(released[name])
        if change is None:
            return weight
        scale = 1.0 if change.alpha is None else float(read(change.alpha)) / change.down.shape[0]
        return merge(weight, read(change.down), read(change.up), scale)

    entries = {table[key]: entry for key, entry in stored.items()}
    load_tensorwise(
        model, entries, source=str(weights), device=device, dtype=dtype, change=merged, settle=settler(model)
    )
    return model.eval().requires_grad_(False)


def _check_loras(changes: dict[str, LoRA], stored: Entries, path: Path | None) -> None:
    wrong = [
        f"{name}: {lora.up.shape} x {lora.down.shape}"
        for name, lora in changes.items()
        if name not in stored or stored[name].shape != (lora.up.shape[0], lora.down.shape[1])
    ]
    if wrong:
        raise ValueError(f"{path} does not fit the refiner: {'; '.join(wrong)}")

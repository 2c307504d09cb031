"""Building the stage-1 transformer from released weights, tensor by tensor.

See docs/reference/transformer.md#loading.

The released layouts (safetensors, `model.pt`) and the diffusers layout hold the same tensors; the latter
renames the timestep embedder and has no position and null-caption tables.
"""

from __future__ import annotations

import warnings

import torch

from wm_env.model.config import DiTConfig
from wm_env.model.dit import DiT
from wm_env.model.released.names import Row, check_shapes, table
from wm_env.model.released.precision import PLAIN, Precision
from wm_env.model.released.quantise import settler
from wm_env.model.storage.folder import Stage1File
from wm_env.model.storage.tensor_files import Entries, list_tensors, load_tensorwise, without_unit_axes

_DIFFUSERS_NAMES = {
    "t_embedder.linear_1.": "t_embedder.mlp.0.",
    "t_embedder.linear_2.": "t_embedder.mlp.2.",
}
_NOT_IN_DIFFUSERS = ("pos_embed", "y_embedder.y_embedding")
_DIFFUSERS_FIXED = {
    "patch_size": [1, 1, 1],
    "t_kernel_size": 3,
    "k_conv_only": True,
    "qk_norm": True,
    "cross_norm": True,
    "y_norm": True,
    "cam_attn_compress": 1,
    "use_chunk_plucker_post_attn": True,
}


def config_of(stage1: Stage1File, default: DiTConfig) -> DiTConfig:
    """Return the sizes that the file's config states, or `default` where its layout has no config.

    Window and chunk length are settings of the pipeline and always come from `default`.
    """
    if stage1.config is None:
        return default
    config = dict(stage1.config)
    odd = {key: config[key] for key, value in _DIFFUSERS_FIXED.items() if config.get(key, value) != value}
    if odd:
        raise ValueError(f"{stage1.path.parent / 'config.json'} asks for {odd}; known is {_DIFFUSERS_FIXED}")
    try:
        return DiTConfig(
            latent_channels=config["in_channels"],
            hidden=config["hidden_size"],
            heads=config["hidden_size"] // config["linear_head_dim"],
            depth=config["num_layers"],
            caption_channels=config["caption_channels"],
            softmax_every=config["softmax_every_n"],
            ffn_ratio=config["mlp_ratio"],
            temporal_stride=config["chunk_plucker_channels"] // 6,
            short_conv_kernel=config["conv_kernel_size"],
            window_chunks=default.window_chunks,
            sink=default.sink,
            chunk_frames=default.chunk_frames,
        )
    except KeyError as error:
        raise ValueError(f"{stage1.path.parent / 'config.json'} lacks {error}") from error


def released_entries(stage1: Stage1File) -> Entries:
    """Return the tensors of a stage-1 file under their released names."""
    stored = list_tensors(stage1.path)
    entries: Entries = {}
    for key, entry in stored.items():
        name = key.removeprefix("model.")
        name = name_from_diffusers(name) if stage1.is_diffusers else name
        if name in entries:
            raise ValueError(f"{stage1.path} holds {name!r} twice, with and without the prefix 'model.'")
        entries[name] = entry
    return entries


def rows_of(stage1: Stage1File, cfg: DiTConfig) -> list[Row]:
    """Return the table of the file's layout."""
    return rows_in_diffusers(cfg) if stage1.is_diffusers else table(cfg)


def name_from_diffusers(key: str) -> str:
    """Return the released name of a key in the diffusers layout."""
    for theirs, released in _DIFFUSERS_NAMES.items():
        if key.startswith(theirs):
            return released + key.removeprefix(theirs)
    return key


def rows_in_diffusers(cfg: DiTConfig) -> list[Row]:
    """Return the part of the table that the diffusers layout holds."""
    return [row for row in table(cfg) if row.released not in _NOT_IN_DIFFUSERS]


def check_stage1(stage1: Stage1File, cfg: DiTConfig) -> Entries:
    """Return the tensors of a file; raise `ValueError` listing all names and shapes that do not fit `cfg`.

    A missing key that no forward pass reads is a warning that names it.
    """
    entries = released_entries(stage1)
    try:
        absent = check_shapes({name: entry.shape for name, entry in entries.items()}, rows_of(stage1, cfg))
    except ValueError as error:
        raise ValueError(f"{stage1.path}: {error}") from error
    if absent:
        warnings.warn(f"{stage1.path} lacks {', '.join(absent)}; no forward pass reads them", stacklevel=2)
    return entries


def load_stage1(
    stage1: Stage1File,
    cfg: DiTConfig,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    impl: str = "chunk",
    precision: Precision = PLAIN,
) -> DiT:
    """Return the transformer of a file, in `dtype` on `device`, frozen, its larger weights in `precision`.

    Host memory: the weights themselves where `device` is the CPU, and one tensor. Raises `ValueError`.
    """
    entries = check_stage1(stage1, cfg)
    with torch.device("meta"):
        dit = DiT(cfg, impl=impl)
    ours = {
        row.ours: without_unit_axes(entries[row.released], row.shape)
        for row in rows_of(stage1, cfg)
        if row.ours is not None
    }
    settle = settler("stage1", dit, precision)
    load_tensorwise(dit, ours, source=str(stage1.path), device=device, dtype=dtype, settle=settle)
    return dit.eval().requires_grad_(False)

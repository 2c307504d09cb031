"""The table from released SANA-WM checkpoint keys to ours: every released key is used once, or dead.

A row says where a released tensor goes and how it is reshaped. Dead rows are checked for presence and shape
and not stored: they exist in the files and no forward pass reads them. See
docs/reference/transformer.md#released-tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from wm_env.model.config import DiTConfig
from wm_env.model.storage.weight_names import report_misfit


@dataclass(frozen=True, kw_only=True)
class Row:
    """released: key and shape in the file. ours: our key, None where dead. shape: ours, a plain reshape of
    the released one. reason: why a row is dead. exempt: a file may lack it."""

    released: str
    released_shape: tuple[int, ...]
    ours: str | None
    shape: tuple[int, ...]
    reason: str = ""
    exempt: bool = False


CAPTION_TOKENS = 300
RELEASED_POSITION_ROWS = 484  # (720 // 32)^2, a table of an older resolution


def table(cfg: DiTConfig, *, caption_tokens: int = CAPTION_TOKENS) -> list[Row]:
    """Return the whole table for a configuration, in file order by part."""
    return [
        *_global_rows(cfg, caption_tokens),
        *(row for i in range(cfg.depth) for row in _block_rows(cfg, i)),
    ]


def _linear(
    released: str, ours: str, out: int, inp: int, *, kernel: tuple[int, ...] = (), bias: bool = True
) -> Iterator[Row]:
    yield Row(
        released=f"{released}.weight",
        released_shape=(out, inp, *kernel),
        ours=f"{ours}.weight",
        shape=(out, inp),
    )
    if bias:
        yield Row(released=f"{released}.bias", released_shape=(out,), ours=f"{ours}.bias", shape=(out,))


def _same(released: str, ours: str, shape: tuple[int, ...], target: tuple[int, ...] | None = None) -> Row:
    return Row(released=released, released_shape=shape, ours=ours, shape=target or shape)


def _dead(released: str, shape: tuple[int, ...], reason: str) -> Row:
    return Row(released=released, released_shape=shape, ours=None, shape=shape, reason=reason, exempt=True)


def _global_rows(cfg: DiTConfig, caption_tokens: int) -> Iterator[Row]:
    c, point = cfg.hidden, (1, 1, 1)
    yield _dead("pos_embed", (1, RELEASED_POSITION_ROWS, c), "position table of an older model, never read")
    yield from _linear("x_embedder.proj", "latent_in", c, cfg.latent_channels, kernel=point)
    yield from _linear("t_embedder.mlp.0", "time_in", c, 256)
    yield from _linear("t_embedder.mlp.2", "time_out", c, c)
    yield from _linear("t_block.1", "time_modulation", 6 * c, c)
    yield _dead(
        "y_embedder.y_embedding", (caption_tokens, cfg.caption_channels), "null caption, training only"
    )
    yield from _linear("y_embedder.y_proj.fc1", "caption_in", c, cfg.caption_channels)
    yield from _linear("y_embedder.y_proj.fc2", "caption_out", c, c)
    yield _same("attention_y_norm.weight", "caption_norm.weight", (c,))
    yield from _linear("plucker_embedder.proj", "plucker_in", c, cfg.plucker_channels, kernel=point)
    yield _dead("raymap_embedder.proj.weight", (c, 3, *point), "absolute ray map, replaced by Plücker maps")
    yield _dead("raymap_embedder.proj.bias", (c,), "absolute ray map, replaced by Plücker maps")
    yield _same("final_layer.scale_shift_table", "head_modulation", (2, c))
    yield from _linear("final_layer.linear", "head", cfg.latent_channels, c)


def _block_rows(cfg: DiTConfig, i: int) -> Iterator[Row]:
    c, f = cfg.hidden, cfg.ffn_hidden
    theirs = ours = f"blocks.{i}"
    yield _same(f"{theirs}.scale_shift_table", f"{ours}.modulation", (6, c))
    yield from _linear(f"{theirs}.plucker_proj", f"{ours}.plucker", c, c)
    yield from attention_rows(cfg, cfg.is_softmax(i), f"{theirs}.attn.", f"{ours}.attn.")
    yield from _linear(f"{theirs}.cross_attn.q_linear", f"{ours}.cross.q", c, c)
    yield from _linear(f"{theirs}.cross_attn.kv_linear", f"{ours}.cross.kv", 2 * c, c)
    yield from _linear(f"{theirs}.cross_attn.proj", f"{ours}.cross.out", c, c)
    yield _same(f"{theirs}.cross_attn.q_norm.weight", f"{ours}.cross.q_norm.weight", (c,))
    yield _same(f"{theirs}.cross_attn.k_norm.weight", f"{ours}.cross.k_norm.weight", (c,))
    yield from _linear(f"{theirs}.mlp.inverted_conv.conv", f"{ours}.ffn.expand", 2 * f, c, kernel=(1, 1))
    yield _same(f"{theirs}.mlp.depth_conv.conv.weight", f"{ours}.ffn.depthwise.weight", (2 * f, 1, 3, 3))
    yield _same(f"{theirs}.mlp.depth_conv.conv.bias", f"{ours}.ffn.depthwise.bias", (2 * f,))
    yield from _linear(
        f"{theirs}.mlp.point_conv.conv", f"{ours}.ffn.contract", c, f, kernel=(1, 1), bias=False
    )
    yield _same(f"{theirs}.mlp.t_conv.weight", f"{ours}.ffn.temporal", (c, c, 3, 1), (c, c, 3))


def attention_rows(cfg: DiTConfig, softmax: bool, theirs: str, ours: str) -> Iterator[Row]:
    """Yield the rows of one self-attention; `theirs` and `ours` are key prefixes (also of a lone module)."""
    c, h, taps = cfg.hidden, cfg.heads, cfg.short_conv_kernel
    yield from _linear(f"{theirs}qkv", f"{ours}qkv", 3 * c, c, bias=False)
    yield from _linear(f"{theirs}proj", f"{ours}out", c, c)
    yield _same(f"{theirs}q_norm.weight", f"{ours}q_norm.weight", (c,))
    yield _same(f"{theirs}k_norm.weight", f"{ours}k_norm.weight", (c,))
    gates = [
        *_linear(f"{theirs}beta_proj", f"{ours}beta", h, c),
        *_linear(f"{theirs}gate_proj", f"{ours}decay", h, c),
        _same(f"{theirs}A_log", f"{ours}A_log", (h,)),
        _same(f"{theirs}dt_bias", f"{ours}dt_bias", (h,)),
    ]
    if softmax:
        yield from (_dead(row.released, row.released_shape, "a softmax block has no gates") for row in gates)
    else:
        yield from gates
    yield _dead(f"{theirs}recall_gate", (1,), "never read, kept in the files for compatibility")
    yield from _linear(f"{theirs}output_gate", f"{ours}gate", c, c)
    for letter in "qkv":
        yield from _linear(f"{theirs}{letter}_proj_cam", f"{ours}camera.{letter}", c, c)
    yield from _linear(f"{theirs}out_proj_cam", f"{ours}camera.out", c, c)
    yield _same(f"{theirs}q_norm_cam.weight", f"{ours}camera.q_norm.weight", (c,))
    yield _same(f"{theirs}k_norm_cam.weight", f"{ours}camera.k_norm.weight", (c,))
    if not softmax:
        yield _same(f"{theirs}conv_k.weight", f"{ours}conv_k", (c, 1, taps), (c, taps))
        yield _same(f"{theirs}conv_k_cam.weight", f"{ours}camera.conv_k", (c, 1, taps), (c, taps))


def check_shapes(shapes: Mapping[str, tuple[int, ...]], rows: list[Row]) -> list[str]:
    """Return the exempt keys that a file lacks; unexpected, misshapen and missing keys in one `ValueError`.

    shapes: released key -> shape in the file. Rows marked exempt may be missing
    (docs/reference/transformer.md#loading).
    """
    by_key = {row.released: row for row in rows}
    unexpected = sorted(set(shapes) - set(by_key))
    absent = sorted(key for key in by_key if key not in shapes)
    missing = [key for key in absent if not by_key[key].exempt]
    misshapen = [
        f"{key}: {tuple(shapes[key])} instead of {row.released_shape}"
        for key, row in by_key.items()
        if key in shapes and tuple(shapes[key]) != row.released_shape and not _free_length(row)
    ]
    report_misfit("the checkpoint", missing=missing, unexpected=unexpected, misshapen=misshapen)
    return [key for key in absent if by_key[key].exempt]


def convert(released: Mapping[str, Tensor], rows: list[Row]) -> dict[str, Tensor]:
    """Return our state dict from released tensors; raises `ValueError` as `check_shapes` does."""
    check_shapes({key: tuple(tensor.shape) for key, tensor in released.items()}, rows)
    return {
        row.ours: released[row.released].reshape(row.shape)
        for row in rows
        if row.ours is not None and row.released in released
    }


def _free_length(row: Row) -> bool:
    """Position and null-caption tables follow a resolution and a text length that nothing else depends on."""
    return row.released in ("pos_embed", "y_embedder.y_embedding")


def parameter_count(rows: list[Row]) -> int:
    """Return the trainable parameters of the released layout: everything but the three buffers."""
    buffers = ("pos_embed", "y_embedder.y_embedding", "recall_gate")
    return sum(math.prod(row.released_shape) for row in rows if not row.released.endswith(buffers))

"""Which weights of a released pipeline may be quantised, and how large they are then.

Weights alone are quantised, products stay in the activations' dtype: what is gained is memory, not time. The
camera reaches the pictures through small differences, so what carries it, and what all tokens share, stays as
it is: embedders, camera branch, gates, norms, Plücker maps, head. `TABLE` names every module once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from torch import nn

Precision = Literal["bf16", "int8", "fp8", "nvfp4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Part = Literal["stage1", "refiner", "text"]
PARTS: tuple[Part, ...] = get_args(Part)
PLAIN: Precision = "bf16"  # as `dtype` says


class Row(NamedTuple):
    """Modules by the end of their name: whether they may be quantised, and why (not)."""

    modules: str
    quantised: bool
    why: str


TABLE: dict[Part, tuple[Row, ...]] = {
    "stage1": (
        Row(r"latent_in|time_in|time_out|time_modulation|caption_in|caption_out", False, "embedders"),
        Row(r"caption_norm|.+\.(q_norm|k_norm)", False, "norms"),
        Row(r"plucker_in|blocks\.\d+\.plucker", False, "Plücker maps: the camera"),
        Row(r"memory_in\.\d+", False, "an embedder of the embedded worlds"),
        Row(r"|blocks\.\d+", False, "modulation tables"),
        Row(r"blocks\.\d+\.attn", False, "taps of the short convolution, decay rates"),
        Row(r"blocks\.\d+\.attn\.camera(\.(q|k|v|out))?", False, "the camera branch, its residual is small"),
        Row(r"blocks\.\d+\.attn\.(gate|beta|decay)", False, "gates"),
        Row(r"blocks\.\d+\.attn\.(qkv|out)", True, "self-attention"),
        Row(r"blocks\.\d+\.cross\.(q|kv|out)", True, "attention to the prompt"),
        Row(r"blocks\.\d+\.ffn\.(expand|contract)", True, "feed-forward, three fifths of a block"),
        Row(r"blocks\.\d+\.ffn(\.depthwise)?", False, "convolutions, which weight-only kernels do not take"),
        Row(r"head", False, "the head"),
    ),
    "refiner": (
        Row(r"latent_in|caption_in|caption_out|time_in|time_out|time_modulation", False, "embedders"),
        Row(r"|layers\.\d+", False, "modulation tables"),
        Row(r".+\.(q_norm|k_norm)", False, "norms"),
        Row(r"layers\.\d+\.(attn|cross)\.(q|k|v|out)", True, "attention"),
        Row(r"layers\.\d+\.(expand|contract)", True, "feed-forward"),
        Row(r"head", False, "the head"),
    ),
    "text": (
        Row(
            r"(.*\.)?layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.\w+_proj)", True, "attention and feed-forward"
        ),
        Row(r".*norm", False, "norms"),
        Row(r".*embed_tokens", False, "the vocabulary"),
        Row(r"(.*vision.*|.*multi_modal.*)", False, "eyes, which no prompt uses"),
    ),
}


def may_quantise(part: Part, module: str) -> bool:
    """Return whether a module of a part may be quantised; raise `ValueError` unless one row names it."""
    rows = [row for row in TABLE[part] if re.fullmatch(row.modules, module)]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows of the table of {part} name {module!r}; one is expected")
    return rows[0].quantised


def quantised_modules(part: Part, network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the modules of a network that are quantised, by name; all are `nn.Linear`."""
    for name, module in network.named_modules():
        if list(module.parameters(recurse=False)) and may_quantise(part, name):
            assert isinstance(module, nn.Linear), f"{name} is no Linear"
            yield name, module


def precisions(asked: str) -> dict[Part, Precision]:
    """Return the precision of every part, of a word for all ("int8") or some ("refiner=int8,text=int8").

    Raises `ValueError` naming what is unknown.
    """
    if asked in PRECISIONS:
        return dict.fromkeys(PARTS, asked)
    out: dict[Part, Precision] = dict.fromkeys(PARTS, PLAIN)
    for word in asked.split(","):
        part, _, precision = word.strip().partition("=")
        if part not in PARTS or precision not in PRECISIONS:
            raise ValueError(
                f"precision={asked!r}: {word!r} is none of {', '.join(PRECISIONS)}, nor one of them for "
                f"{', '.join(PARTS)} as in 'refiner=int8,text=int8'"
            )
        out[part] = precision
    return out


def quantised_bytes(out: int, inp: int, precision: Precision) -> float:
    """Return the bytes of a quantised weight `(out, inp)` with its scales, as torchao lays them out.

    int8: a float32 scale and an int8 zero per output. fp8: a float32 scale per output. nvfp4: an fp8 scale
    for 16 inputs, in tiles of 128 outputs and 4 such groups, and one float32 scale.
    """
    if precision == "int8":
        return out * inp + 5 * out
    if precision == "fp8":
        return out * inp + 4 * out
    if precision == "nvfp4":
        return out * inp / 2 + 128 * math.ceil(out / 128) * 4 * math.ceil(inp / 64) + 4
    raise ValueError(f"{precision!r} is no precision of quantised weights")

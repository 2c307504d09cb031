"""How many bytes and operations the parts of a released pipeline take, counted from shapes alone.

    weights     parameters in their precision: what is outside of the blocks, the largest block, all blocks
    state       what a slot remembers, and what of it a step makes anew beside it
    operations  2 M P for the matrices P that M tokens meet, and attention

Nothing is allocated: networks are built on torch's "meta" device.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import torch
from torch import nn

from wm_env.model.config import DiTConfig
from wm_env.model.dit import DiT
from wm_env.model.refiner.ltx2 import LTX2Config, LTX2Refiner
from wm_env.model.released.precision import PLAIN, Part, Precision, quantised_bytes, quantised_modules
from wm_env.model.state import WindowState, leaves
from wm_env.model.visiting import AT_ONCE


class Weights(NamedTuple):
    """Bytes of a network: outside of its blocks, its largest block, all blocks; and how many there are."""

    rest: float
    block: float
    blocks: float
    number: int

    @property
    def total(self) -> float:
        return self.rest + self.blocks

    @property
    def in_turn(self) -> float:
        """Bytes on the device where the blocks visit it one after the other."""
        return self.rest + min(AT_ONCE, self.number) * self.block


@functools.cache
def stage1_weights(cfg: DiTConfig, precision: Precision = PLAIN, width: int = 2) -> Weights:
    """Return the bytes of the transformer; width: of a weight that is not quantised."""
    with torch.device("meta"):
        dit = DiT(cfg)
    return _weights("stage1", dit, list(dit.blocks), precision, width)


def refiner_weights(cfg: LTX2Config, precision: Precision = PLAIN, width: int = 2) -> Weights:
    """Return the bytes of the refiner, whatever its memory."""
    return _refiner_weights(dataclasses.replace(cfg, history_frames=1), precision, width)


@functools.cache
def _refiner_weights(cfg: LTX2Config, precision: Precision, width: int) -> Weights:
    with torch.device("meta"):
        refiner = LTX2Refiner(cfg)
    return _weights("refiner", refiner, list(refiner.layers), precision, width)


def _weights(
    part: Part, network: nn.Module, blocks: list[nn.Module], precision: Precision, width: int
) -> Weights:
    quantised = set() if precision == PLAIN else {id(m) for _, m in quantised_modules(part, network)}

    def size(module: nn.Module) -> float:
        total = 0.0
        for owner in module.modules():
            for name, value in owner.named_parameters(recurse=False):
                if id(owner) in quantised and name == "weight":
                    out, inp = value.shape
                    total += quantised_bytes(out, inp, precision)
                else:
                    total += value.numel() * width
        return total

    each = [size(block) for block in blocks]
    return Weights(size(network) - sum(each), max(each), sum(each), len(each))


@functools.cache
def stage1_state(cfg: DiTConfig, grid: tuple[int, int], width: int = 2) -> tuple[int, int]:
    """Return the bytes of a slot's state, and of what a step adds while the old one is still there.

    Of a softmax window only the newest chunk is new; the others are shared with the state before.
    """
    with torch.device("meta"):
        dit = DiT(cfg).to({2: torch.bfloat16, 4: torch.float32}[width])
        state = dit.empty_state(1, grid, cfg.chunk_frames + 1)
    whole, new = 0, 0
    for block in state.blocks:
        whole += _bytes(block)
        attention = block.attention
        kept = attention.chunks[-1] if isinstance(attention, WindowState) else attention
        new += _bytes((kept, block.ffn_tail))
    return whole, new


def _bytes(tree: object) -> int:
    return sum(leaf.numel() * leaf.element_size() for _, leaf in leaves(tree))


def refiner_memory(cfg: LTX2Config, grid: tuple[int, int], width: int = 2) -> tuple[int, int]:
    """Return the bytes of a slot's refiner memory, and of what a step adds: all but the sink."""
    frame = cfg.layers * 2 * math.prod(grid) * cfg.width * width  # keys and values
    return (1 + cfg.history_frames) * frame, cfg.history_frames * frame


@functools.cache
def stage1_operations(cfg: DiTConfig, grid: tuple[int, int], text: int) -> float:
    """Return the floating-point operations of one call on a chunk, its softmax window full."""
    tokens, width, per_frame = cfg.chunk_frames * math.prod(grid), cfg.hidden, math.prod(grid)
    with torch.device("meta"):
        dit = DiT(cfg)
    matrices = sum(p.numel() for p in dit.blocks.parameters() if p.ndim > 1) - cfg.depth * 6 * width
    to_text = cfg.depth * 2 * width**2  # keys and values of the prompt
    total = 2.0 * tokens * (matrices - to_text) + 2.0 * text * to_text
    total += cfg.depth * 4.0 * tokens * text * width
    softmax = sum(cfg.is_softmax(i) for i in range(cfg.depth))
    window = cfg.chunk_frames * (cfg.window_chunks or 0) + bool(cfg.sink)
    keys = tokens + window * per_frame
    total += softmax * 2 * 4.0 * tokens * keys * width  # main and camera branch
    memory = 2.0 * tokens * width * cfg.head_dim  # one product of all heads with a memory, or into one
    return total + (cfg.depth - softmax) * 2 * 4 * memory


def refiner_operations(cfg: LTX2Config, grid: tuple[int, int], frames: int, text: int) -> float:
    """Return the floating-point operations of one call on `frames` latents, its memory full."""
    per_frame, width = math.prod(grid), cfg.width
    tokens = frames * per_frame
    keys = (1 + cfg.history_frames + frames) * per_frame
    own, to_text = 14 * width**2, 2 * width**2  # q k v out, cross q out, 8 of the feed-forward; cross k v
    attention = 4.0 * tokens * (keys + text) * width
    return cfg.layers * (2.0 * tokens * own + 2.0 * text * to_text + attention)

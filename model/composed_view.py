"""A view of the point memory composed from all kept frames, the best parts of each.

Kept frames are cut into blocks of 4x4 pixels. A block is projected into the asked view by the depth of its
centre. Every cell of 4x4 pixels of the view takes blocks, best first, until they cover it `COVER` times,

    score = min(1, z / z_k)^2 / (1 + 3 |t_k - t| / z) * (1/4 if the world drew the frame) * feather

with z the block's depth in the view, z_k in its own frame k (where it was seen from closer it is better
resolved), |t_k - t| / z the parallax by which errors of depth show, and feather falling to 1/4 at the border
of frame k. Blocks that lie far behind others in their cell come later. The `BLOCKS` best are splatted as
`wm_env.model.point_memory` does, nearest surface first, their points weighed by the score. Cells reach beyond
the view, since a chunk's earlier frames look there. Nothing here is learned.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.geometry import invert_rigid, pixel_rays
from wm_env.model.pixels import metric_depth
from wm_env.model.point_memory import (
    NEAR,
    SUBPIXELS,
    MemoryState,
    draw_points,
    intrinsic_matrix,
    projected,
)

BLOCK = 4  # pixels on a side
CELL = 4  # pixels on a side
BLOCKS = 896  # splatted for a view; four whole frames of 64x64 are 1024
PER_CELL = 8
COVER = 3.0
BEYOND = 4  # cells around the view that are filled too
LATER = 2  # places that a block beyond the view stands back in its cell
PARALLAX = 3.0
DRAWN = 0.25  # weight of the world's own frames
BORDER = 4.0  # pixels over which a frame's weight falls to 1/4
STEPS = 1024  # in which scores and areas are compared, per unit
BEHIND, HIDDEN = 1.5, 0.25  # blocks this much farther than their cell's nearest weigh so much less


class Blocks(NamedTuple):
    """What a view is composed of: numbers of blocks `(B, N)` int64, their score `(B, N)`: `choose_blocks`."""

    number: Tensor
    score: Tensor


def read_composed(state: MemoryState, c2w: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the views `(B, F, 5, H, W)` (r, g, b, d, mask) from poses `(B, F, 4, 4)`, the last decides."""
    return compose(state, c2w, intrinsics)[0]


def compose(state: MemoryState, c2w: Tensor, intrinsics: Tensor) -> tuple[Tensor, Blocks]:
    """Return the same views, and the blocks that they are made of."""
    blocks, score = choose_blocks(state, c2w[:, -1], intrinsics)
    return splat_blocks(state, blocks, score, c2w, intrinsics), Blocks(blocks, score)


def choose_blocks(state: MemoryState, target: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Return the blocks to splat `(B, BLOCKS)` int64, numbered over slots, rows and columns of blocks, and
    their score `(B, BLOCKS)` float32, without the feather, 0 for those that do not count.

    target `(B, 4, 4)`; intrinsics `(B, 4)` pixels.
    """
    inverse = state.pixels[:, :, 3]
    height, width = inverse.shape[-2:]
    lines, columns = height // CELL + 2 * BEYOND, width // CELL + 2 * BEYOND
    centres = slice(BLOCK // 2, None, BLOCK)
    x, y, z = projected(inverse, state.c2w, target[:, None], intrinsics, centres)[:, 0].unbind(2)  # (B, S, P)
    u, v = (((part / z * SUBPIXELS).round() / (SUBPIXELS * CELL)).floor() + BEYOND for part in (x, y))
    drawn = (z > NEAR) & (u >= 0) & (u < columns) & (v >= 0) & (v < lines) & state.valid[:, :, None]
    nowhere = lines * columns
    cell = torch.where(drawn, v * columns + u, nowhere).long().flatten(1)  # (B, N) with N = S P
    own = metric_depth(inverse[:, :, centres, centres].float()).flatten(2)
    away = (state.c2w[:, :, :3, 3].double() - target[:, None, :3, 3].double()).norm(dim=-1).float()  # (B, S)
    far = z.clamp_min(NEAR)
    score = (far / own).clamp(max=1).square() / (1 + PARALLAX * away[:, :, None] / far)
    score = (score * torch.where(state.drawn, DRAWN, 1.0)[:, :, None]).flatten(1)
    covers = (BLOCK * own / z.clamp_min(NEAR)).square().flatten(1)  # pixels of the view
    z = z.flatten(1)
    nearest = torch.full((len(z), nowhere + 1), torch.inf, device=z.device)
    nearest.scatter_reduce_(1, cell, z, "amin")
    score = torch.where(z > BEHIND * nearest.gather(1, cell), HIDDEN * score, score)
    # what another batch size changes in the last digit must not choose
    score, covers = (score.double() * STEPS).round() / STEPS, (covers.double() * STEPS).round() / STEPS
    order = (cell - score / 2).argsort(dim=1, stable=True)  # scores are at most 1
    cell, covers = cell.gather(1, order), covers.gather(1, order)
    before = covers.cumsum(1) - covers
    every = torch.arange(nowhere + 1, device=cell.device).expand(len(cell), -1).contiguous()
    first = torch.searchsorted(cell.contiguous(), every).clamp(max=cell.shape[1] - 1).gather(1, cell)
    place = torch.arange(cell.shape[1], device=cell.device) - first  # in its cell
    full = before - before.gather(1, first) >= COVER * CELL**2
    keep = (cell < nowhere) & (place < PER_CELL) & ~full
    line, column = cell // columns, cell % columns
    outer = (line < BEYOND) | (line >= lines - BEYOND) | (column < BEYOND) | (column >= columns - BEYOND)
    turn = torch.where(keep, place + LATER * outer, cell.shape[1])
    chosen = turn.argsort(dim=1, stable=True)[:, :BLOCKS]
    blocks, kept = order.gather(1, chosen), keep.gather(1, chosen)
    return blocks, torch.where(kept, score.gather(1, blocks), 0.0).float()


def splat_blocks(
    state: MemoryState, blocks: Tensor, score: Tensor, target: Tensor, intrinsics: Tensor
) -> Tensor:
    """Return blocks seen from poses `(B, F, 4, 4)`: `(B, F, 5, H, W)`; blocks, score `(B, N)` as chosen."""
    height, width = state.pixels.shape[-2:]
    frames, number = target.shape[1], blocks.shape[1]
    wide = width // BLOCK
    slot, place = blocks // (wide * (height // BLOCK)), blocks % (wide * (height // BLOCK))
    inside = torch.arange(BLOCK**2, device=blocks.device)
    row = (place // wide * BLOCK)[:, :, None] + inside // BLOCK  # (B, N, 16)
    column = (place % wide * BLOCK)[:, :, None] + inside % BLOCK
    pixel = (row * width + column).flatten(1)  # (B, P) with P = 16 N
    channel = torch.arange(4, device=blocks.device)[:, None] * (height * width)
    start = slot.repeat_interleave(BLOCK**2, dim=1) * (4 * height * width)
    index = (start + pixel)[:, None] + channel  # (B, 4, P)
    values = state.pixels.flatten(1).gather(1, index.flatten(1)).unflatten(1, (4, -1)).float()
    own = metric_depth(values[:, 3])  # (B, P)

    pair = invert_rigid(target)[:, :, None] @ state.c2w.to(target.dtype)[:, None]  # (B, F, S, 4, 4)
    project = (
        intrinsic_matrix(intrinsics.float())[:, None, None] @ pair.float()[..., :3, :]
    )  # (B, F, S, 3, 4)
    of_block = slot[:, None, :, None, None].expand(-1, frames, -1, 3, 4)
    project = project.gather(2, of_block)  # (B, F, N, 3, 4)
    rays = pixel_rays(intrinsics.float(), height, width, 0.5).flatten(1, 2)  # (B, HW, 3)
    points = rays.gather(1, pixel[:, :, None].expand(-1, -1, 3)) * own[:, :, None]
    points = points.unflatten(1, (number, -1))[:, None].mT  # (B, 1, N, 3, 16)
    q = project[..., :3] @ points + project[..., 3:]
    q = q.movedim(3, 2).flatten(3)  # (B, F, 3, P)

    line, column = torch.arange(height, device=own.device), torch.arange(width, device=own.device)
    border = torch.minimum(
        torch.minimum(line, height - 1 - line)[:, None], torch.minimum(column, width - 1 - column)
    )
    feather = ((border.flatten() + 1) / BORDER).clamp(max=1)[pixel]  # (B, P)
    weight = score.repeat_interleave(BLOCK**2, dim=1) * feather
    weight = weight[:, None].expand(-1, frames, -1)
    return draw_points(q, values[:, :3], weight > 0, (height, width), weight)

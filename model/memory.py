"""3D scene memory: RGB-D keyframes splatted as points into the next views.

The memory holds a few past frames with their poses. To look at it from a new pose, every keyframe pixel
becomes a point, moves into the new camera and is written to the 2x2 pixels around its projection:

    X = c2w_k (z K^-1 (u + 1/2, v + 1/2, 1)),    pixel = K (c2w^-1 X),

weighed bilinearly, among the points within 6% of the nearest one at that pixel (z-buffer). What no point
reaches is zero in every channel, the mask included.

Projections are rounded to 1/1024 pixel. A camera that stands or steps aside sends whole rows of points onto
pixel centres, where an error of 1e-7 (another batch size) would choose the pixels that they are written to,
and what they hide: without the rounding 3 to 9% of a slot's values left the solo episode's within 16 steps.

Kept are frame 0 and the last frames of the latest 16 chunks. A view reads four of them: frame 0, the newest,
and the two whose view overlaps most with the asked one: cos(angle between optical axes) - 0.1 |t_k - t| / m.
Nothing here is learned.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.geometry import invert_rigid, pixel_rays
from wm_env.model.vae.tiny import DEPTH_SCALE, MAX_INVERSE, metric_depth

SLOTS = 17  # frame 0, and the last frames of the latest 16 chunks, oldest first
READ_BEST = 2  # slots read by overlap, beside frame 0 and the newest
FAR_PENALTY = 0.1  # overlap lost per metre between two cameras
NEAR = 0.12  # metres; points nearer than this are not drawn
SURFACE = 1.06  # points up to this factor behind the nearest one belong to the same surface
MIN_WEIGHT = 0.05
SUBPIXELS = 1024  # steps of a projection per pixel
TOKEN_STRIDE = 8  # pixels of a view that one transformer token sees
MEMORY_CHANNELS = 5 * TOKEN_STRIDE**2


class MemoryState(NamedTuple):
    """Keyframes: pixels `(B, S, 4, H, W)` float32 (r, g, b, d), c2w `(B, S, 4, 4)` float32, and valid
    `(B, S)` bool, S = 17; slots are frame 0 and the last frames of the latest 16 chunks, oldest first."""

    pixels: Tensor
    c2w: Tensor
    valid: Tensor


def start_memory(pixels: Tensor, c2w: Tensor) -> MemoryState:
    """Return the memory of a start frame: pixels `(B, 4, H, W)`, c2w `(B, 4, 4)`."""
    slots = pixels[:, None].float().repeat(1, SLOTS, 1, 1, 1)
    valid = torch.zeros(pixels.shape[0], SLOTS, dtype=torch.bool, device=pixels.device)
    valid[:, 0] = True
    return MemoryState(slots, c2w[:, None].float().repeat(1, SLOTS, 1, 1), valid)


def write_memory(state: MemoryState, pixels: Tensor, c2w: Tensor) -> MemoryState:
    """Return the memory with a new last frame: pixels `(B, 4, H, W)`, c2w `(B, 4, 4)`; the oldest recent
    frame is dropped, frame 0 stays."""

    def push(slots: Tensor, new: Tensor) -> Tensor:
        return torch.cat([slots[:, :1], slots[:, 2:], new[:, None].to(slots.dtype)], dim=1)

    return MemoryState(
        push(state.pixels, pixels),
        push(state.c2w, c2w),
        push(state.valid, torch.ones_like(state.valid[:, 0])),
    )


def choose_slots(c2w: Tensor, valid: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return which slots to read, `(B, 4)` int64, and whether each counts, `(B, 4)` bool.

    c2w `(B, S, 4, 4)` and valid `(B, S)` of the slots, frame 0 first and the newest last; target `(B, 4, 4)`.
    """
    batch, slots = valid.shape
    target = target.to(c2w.dtype)
    facing = (c2w[..., :3, 2] * target[:, None, :3, 2]).sum(-1)  # (B, S) cosine between optical axes
    away = (c2w[..., :3, 3] - target[:, None, :3, 3]).norm(dim=-1)  # (B, S) metres
    candidate = valid.clone()
    candidate[:, 0] = candidate[:, -1] = False
    overlap = (facing - FAR_PENALTY * away).masked_fill(~candidate, -torch.inf)
    best = overlap.topk(min(READ_BEST, slots), dim=1).indices  # (B, 2)
    ends = torch.tensor([0, slots - 1], device=best.device).expand(batch, 2)
    counts = torch.cat([candidate.gather(1, best), valid[:, :1], valid[:, -1:] & (slots > 1)], dim=1)
    return torch.cat([best, ends], dim=1), counts


def read_memory(state: MemoryState, c2w: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the views `(B, F, 5, H, W)` (r, g, b, d, mask) of the memory from poses `(B, F, 4, 4)`."""
    chosen, counts = choose_slots(state.c2w, state.valid, c2w[:, -1])
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    return splat(state.pixels[rows, chosen], state.c2w[rows, chosen], counts, c2w, intrinsics)


def splat(pixels: Tensor, source: Tensor, valid: Tensor, target: Tensor, intrinsics: Tensor) -> Tensor:
    """Return keyframes seen from other poses: `(B, F, 5, H, W)` float32, channels r, g, b, d, mask.

    pixels `(B, S, 4, H, W)` keyframes; source `(B, S, 4, 4)` their poses; valid `(B, S)` which count;
    target `(B, F, 4, 4)` poses; intrinsics `(B, 4)` pixels, the same for all.
    """
    batch, _, _, height, width = pixels.shape
    frames, area, pitch = target.shape[1], height * width, width + 2
    # one transform per (target, keyframe) pair, composed in the dtype of the poses, then in pixel units:
    # pixel (u, v, 1) at depth z  ->  q = (K R K^-1 (u, v, 1)) z + K t,  projected to (q_x, q_y) / q_z - 1/2
    pair = (invert_rigid(target)[:, :, None] @ source.to(target.dtype)[:, None]).float()  # (B, F, S, 4, 4)
    project = intrinsic_matrix(intrinsics.float())[:, None, None]  # (B, 1, 1, 3, 3)
    rays = pixel_rays(intrinsics.float(), height, width, 0.5).flatten(1, 2).mT  # (B, 3, HW)
    depth = metric_depth(pixels[:, :, 3].float()).flatten(2)[:, None, :, None]  # (B, 1, S, 1, HW)
    q = (project @ pair[..., :3, :3] @ rays[:, None, None]) * depth + project @ pair[..., :3, 3:]
    x, y, z = (part.flatten(2) for part in q.unbind(3))  # (B, F, P) with P = S HW
    u, v = (((part / z - 0.5) * SUBPIXELS).round() / SUBPIXELS for part in (x, y))
    left, top = u.floor(), v.floor()
    fu, fv = u - left, v - top
    drawn = (z > NEAR) & (left >= -1) & (left < width) & (top >= -1) & (top < height)
    drawn &= valid[:, None, :, None].expand(-1, frames, -1, area).flatten(2)
    # cells of one view: (H+2) rows of W+2 (a border of one pixel), then room for what is not drawn
    outside = (height + 2) * pitch
    cells = outside + pitch + 2
    base = torch.where(drawn, (top + 1) * pitch + (left + 1), outside).long()
    base = base + torch.arange(batch * frames, device=base.device).view(batch, frames, 1) * cells
    base, z = base.flatten(), z.flatten()  # (B F P,)
    offsets = (0, 1, pitch, pitch + 1)
    nearest = torch.full((batch * frames * cells,), torch.inf, device=z.device)
    for offset in offsets:
        nearest.scatter_reduce_(0, base + offset, z, "amin")
    colour = pixels[:, :, :3].float().movedim(2, 0).flatten(2)[:, :, None]  # (3, B, 1, P)
    red, green, blue = colour.expand(-1, -1, frames, -1).flatten(1)  # (B F P,) each
    weights = ((1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv)
    total = torch.zeros(5, batch * frames * cells, device=z.device)
    front = z / SURFACE
    for offset, weight in zip(offsets, weights, strict=True):
        index = base + offset
        kept = (weight.flatten() + 0.02) * (front <= nearest[index])
        for plane, value in zip(total[:4], (red, green, blue, z), strict=True):  # planes: contiguous products
            plane.scatter_add_(0, index, value * kept)
        total[4].scatter_add_(0, index, kept)
    total = total.view(5, batch, frames, cells)[..., :outside].unflatten(3, (height + 2, pitch))
    total = total[..., 1:-1, 1:-1].movedim(0, 2)  # (B, F, 5, H, W)
    mask = (total[:, :, 4:] > MIN_WEIGHT).float()
    mean = total[:, :, :4] / total[:, :, 4:].clamp_min(MIN_WEIGHT)
    inverse = (DEPTH_SCALE / mean[:, :, 3:].clamp_min(NEAR)).clamp(max=MAX_INVERSE) - 1
    return torch.cat([mean[:, :, :3] * mask, inverse * mask, mask], dim=2)


def intrinsic_matrix(intrinsics: Tensor) -> Tensor:
    """Return K `(..., 3, 3)` of `(..., 4)` intrinsics (fx, fy, cx, cy)."""
    fx, fy, cx, cy = intrinsics.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def memory_tokens(view: Tensor) -> Tensor:
    """Return per-token channels `(B, F, N, MEMORY_CHANNELS)` of views `(B, F, 5, H, W)`."""
    cells = torch.nn.functional.pixel_unshuffle(view, TOKEN_STRIDE)  # (B, F, 320, H/8, W/8)
    return cells.flatten(-2).transpose(-1, -2)

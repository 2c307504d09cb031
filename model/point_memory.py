"""3D scene memory: RGB-D keyframes splatted as points into the next views.

The memory holds a few past frames with their poses. To look at it from a new pose, every keyframe pixel
becomes a point, moves into the new camera and is written to the 2x2 pixels around its projection:

    X = c2w_k (z K^-1 (u + 1/2, v + 1/2, 1)),    pixel = K (c2w^-1 X),

weighed bilinearly, among the points within 6% of the nearest one at that pixel (z-buffer). What no point
reaches is zero in every channel, the mask included.

Projections are rounded to 1/1024 pixel. A camera that stands or steps aside sends whole rows of points onto
pixel centres, where an error of 1e-7 (another batch size) would choose the pixels that they are written to,
and what they hide: without the rounding 3 to 9% of a slot's values left the solo episode's within 16 steps.

Kept are frame 0, the last frames of the latest 8 chunks and 24 older ones: when there is no room, the one
that another kept frame resembles most is dropped (of the two, the newer), by how far apart their cameras are,

    d = 1 - cos(angle between optical axes) + 0.1 |t_i - t_k| / m,

so that what was seen once stays while something else is looked at. A view reads four of them: frame 0, the
newest, and two chosen one after the other for the cells of the asked view (8 x 8 pixels) that they have
points in and that those before them have not; the smaller d decides between equals. Nothing here is learned.
Worlds that are made now read all kept frames instead (`wm_env.model.composed_view`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.geometry import invert_rigid, pixel_rays
from wm_env.model.pixels import inverse_depth, metric_depth

SLOTS = 33  # frame 0, 24 older frames, and the last frames of the latest 8 chunks, oldest first
LATEST = 8
READ_BEST = 2  # slots read for what they add, beside frame 0 and the newest
FAR_PENALTY = 0.1  # distance between two views per metre between their cameras
SAME = 1e-4  # steps in which distances are compared: rounding errors must not choose
NEAR = 0.12  # metres; points nearer than this are not drawn
SURFACE = 1.06  # points up to this factor behind the nearest one belong to the same surface
MIN_WEIGHT = 0.05
SUBPIXELS = 1024  # steps of a projection per pixel
SAMPLED = 4  # pixels between the points that are asked which cells they fall into
TOKEN_STRIDE = 8  # pixels of a view that one transformer token sees
MEMORY_CHANNELS = 5 * TOKEN_STRIDE**2


class MemoryState(NamedTuple):
    """Keyframes: pixels `(B, S, 4, H, W)` float32 (r, g, b, d), c2w `(B, S, 4, 4)` float32, valid `(B, S)`
    bool, and drawn `(B, S)` bool, whether the world drew them, S = 33; slot 0 is frame 0, the others are kept
    last frames of chunks, oldest first."""

    pixels: Tensor
    c2w: Tensor
    valid: Tensor
    drawn: Tensor


def start_memory(pixels: Tensor, c2w: Tensor) -> MemoryState:
    """Return the memory of a start frame: pixels `(B, 4, H, W)`, c2w `(B, 4, 4)`."""
    slots = pixels[:, None].float().repeat(1, SLOTS, 1, 1, 1)
    valid = torch.zeros(pixels.shape[0], SLOTS, dtype=torch.bool, device=pixels.device)
    valid[:, 0] = True
    none = torch.zeros_like(valid)
    return MemoryState(slots, c2w[:, None].float().repeat(1, SLOTS, 1, 1), valid, none)


def write_memory(state: MemoryState, pixels: Tensor, c2w: Tensor, drawn: bool = True) -> MemoryState:
    """Return the memory with a new last frame: pixels `(B, 4, H, W)`, c2w `(B, 4, 4)`, drawn or true; frame 0
    stays, and what is dropped where nothing is free is `dispensable`."""
    dropped = dispensable(state.c2w, state.valid)
    return MemoryState(
        _replace(state.pixels, dropped, pixels),
        _replace(state.c2w, dropped, c2w),
        _replace(state.valid, dropped, torch.ones_like(state.valid[:, 0])),
        _replace(state.drawn, dropped, torch.full_like(state.drawn[:, 0], drawn)),
    )


def _replace(slots: Tensor, dropped: Tensor, new: Tensor) -> Tensor:
    """Return slots `(B, S, ...)` without slot `dropped` `(B,)`, with `new` `(B, ...)` as the last."""
    left = torch.arange(slots.shape[1] - 1, device=slots.device)
    left = left + (left >= dropped[:, None])  # (B, S - 1)
    rows = torch.arange(len(slots), device=slots.device)[:, None]
    return torch.cat([slots[rows, left], new[:, None].to(slots.dtype)], dim=1)


def dispensable(c2w: Tensor, valid: Tensor) -> Tensor:
    """Return the slot `(B,)` to drop: a free one, or, of the older frames, the one most like another slot.

    c2w `(B, S, 4, 4)` and valid `(B, S)` of the slots.
    """
    older = torch.zeros_like(valid)
    older[:, 1 : valid.shape[1] - LATEST + 1] = True
    axis, place = c2w[..., :3, 2].double(), c2w[..., :3, 3].double()  # (B, S, 3)
    apart = views_apart(axis[:, :, None], place[:, :, None], axis[:, None], place[:, None])  # (B, S, S)
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = apart.masked_fill(~valid[:, None], torch.inf).amin(2)  # (B, S)
    nearest = nearest.masked_fill(~valid, -1.0).masked_fill(~older, torch.inf)
    return valid.shape[1] - 1 - nearest.flip(1).argmin(1)  # the newest of equals


def views_apart(axis: Tensor, place: Tensor, other_axis: Tensor, other_place: Tensor) -> Tensor:
    """Return d `(...)`, in whole steps of `SAME`, of cameras by optical axis and place, all `(..., 3)`."""
    turned = 1 - (axis * other_axis).sum(-1)
    return ((turned + FAR_PENALTY * (place - other_place).norm(dim=-1)) / SAME).round() * SAME


def kept_frames(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the frames `(B, T, 4, 4)`, written one after the other, a memory keeps.

    Their numbers `(B, S)` int64, and valid `(B, S)` bool.
    """
    numbers = torch.zeros(len(c2w), SLOTS, dtype=torch.long, device=c2w.device)
    valid = torch.zeros_like(numbers, dtype=torch.bool)
    valid[:, 0] = True
    poses = c2w[:, :1].float().repeat(1, SLOTS, 1, 1)
    state = MemoryState(numbers, poses, valid, torch.zeros_like(valid))  # numbers for pixels
    for t in range(1, c2w.shape[1]):
        state = write_memory(state, torch.full_like(numbers[:, 0], t), c2w[:, t])
    return state.pixels, state.valid


def choose_slots(
    inverse: Tensor, c2w: Tensor, valid: Tensor, target: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor]:
    """Return which slots to read, `(B, 4)` int64, and whether each counts, `(B, 4)` bool.

    inverse `(B, S, H, W)` inverse depth as in frames, c2w `(B, S, 4, 4)` and valid `(B, S)` of the slots,
    frame 0 first and the newest last; target `(B, 4, 4)`; intrinsics `(B, 4)` pixels.
    """
    batch, slots = valid.shape
    rows = torch.arange(batch, device=valid.device)
    shown = cells_shown(inverse, c2w, target, intrinsics) & valid[:, :, None]  # (B, S, N)
    axis, place = target[:, None, :3, 2].double(), target[:, None, :3, 3].double()
    apart = views_apart(c2w[..., :3, 2].double(), c2w[..., :3, 3].double(), axis, place)  # (B, S)
    tie = 1 / (2 + apart)  # below a whole cell
    candidate = valid.clone()
    candidate[:, 0] = candidate[:, -1] = False
    seen = shown[:, 0] | shown[:, -1]  # (B, N)
    chosen, counts = [], []
    for _ in range(READ_BEST):
        gain = (shown & ~seen[:, None]).sum(2) + tie
        best = gain.masked_fill(~candidate, -torch.inf).argmax(1)  # (B,)
        chosen.append(best)
        counts.append(candidate[rows, best])
        seen = seen | shown[rows, best]
        candidate[rows, best] = False
    chosen += [torch.zeros_like(rows), torch.full_like(rows, slots - 1)]
    counts += [valid[:, 0], valid[:, -1] & (slots > 1)]
    return torch.stack(chosen, dim=1), torch.stack(counts, dim=1)


def cells_shown(inverse: Tensor, c2w: Tensor, target: Tensor, intrinsics: Tensor) -> Tensor:
    """Return in which cells of a view, row by row, each keyframe has points, hidden or not: `(B, S, N)` bool.

    As `choose_slots`; every fourth pixel of every fourth row is asked.
    """
    batch, slots, height, width = inverse.shape
    columns, lines = width // TOKEN_STRIDE, height // TOKEN_STRIDE
    asked = slice(SAMPLED // 2, None, SAMPLED)
    x, y, z = projected(inverse, c2w, target[:, None], intrinsics, asked)[:, 0].unbind(2)  # (B, S, P)
    u, v = ((part / z * SUBPIXELS).round().div(SUBPIXELS * TOKEN_STRIDE).floor() for part in (x, y))
    drawn = (z > NEAR) & (u >= 0) & (u < columns) & (v >= 0) & (v < lines)
    cell = torch.where(drawn, v * columns + u, columns * lines).long()
    shown = torch.zeros(batch, slots, columns * lines + 1, dtype=torch.bool, device=inverse.device)
    return shown.scatter_(2, cell, True)[..., :-1]


def read_memory(state: MemoryState, c2w: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the views `(B, F, 5, H, W)` (r, g, b, d, mask) of the memory from poses `(B, F, 4, 4)`."""
    chosen, counts = choose_slots(state.pixels[:, :, 3], state.c2w, state.valid, c2w[:, -1], intrinsics)
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    return splat(state.pixels[rows, chosen], state.c2w[rows, chosen], counts, c2w, intrinsics)


def splat(pixels: Tensor, source: Tensor, valid: Tensor, target: Tensor, intrinsics: Tensor) -> Tensor:
    """Return keyframes seen from other poses: `(B, F, 5, H, W)` float32, channels r, g, b, d, mask.

    pixels `(B, S, 4, H, W)` keyframes; source `(B, S, 4, 4)` their poses; valid `(B, S)` which count;
    target `(B, F, 4, 4)` poses; intrinsics `(B, 4)` pixels, the same for all.
    """
    frames, area = target.shape[1], pixels.shape[-2] * pixels.shape[-1]
    q = projected(pixels[:, :, 3], source, target, intrinsics)
    points = q.movedim(3, 2).flatten(3)  # (B, F, 3, S HW)
    colour = pixels[:, :, :3].float().movedim(2, 1).flatten(2)  # (B, 3, S HW)
    counts = valid[:, None, :, None].expand(-1, frames, -1, area).flatten(2)
    return draw_points(points, colour, counts, (pixels.shape[-2], pixels.shape[-1]))


def draw_points(
    points: Tensor, colour: Tensor, counts: Tensor, size: tuple[int, int], weight: Tensor | None = None
) -> Tensor:
    """Return points drawn into views as the module docstring says: `(B, F, 5, H, W)` float32.

    points q `(B, F, 3, P)`, of pixel q_xy / q_z - 1/2 at depth q_z; colour `(B, 3, P)`; counts `(B, F, P)`
    bool; size (H, W). weight `(B, F, P)`: how much a point counts in the mean of a pixel, above 0.
    """
    batch, frames = points.shape[:2]
    (height, width), pitch = size, size[1] + 2
    x, y, z = points.unbind(2)  # (B, F, P)
    u, v = (((part / z - 0.5) * SUBPIXELS).round() / SUBPIXELS for part in (x, y))
    left, top = u.floor(), v.floor()
    fu, fv = u - left, v - top
    drawn = (z > NEAR) & (left >= -1) & (left < width) & (top >= -1) & (top < height) & counts
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
    values = [*colour.movedim(1, 0)[:, :, None].expand(-1, -1, frames, -1).flatten(1), z]
    weights = ((1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv)
    total = torch.zeros(5, batch * frames * cells, device=z.device)
    covered = total[4] if weight is None else torch.zeros_like(total[4])
    front = z / SURFACE
    for offset, share in zip(offsets, weights, strict=True):
        index = base + offset
        kept = (share.flatten() + 0.02) * (front <= nearest[index])
        covered.scatter_add_(0, index, kept)
        if weight is not None:
            kept = kept * weight.flatten()
            total[4].scatter_add_(0, index, kept)
        for plane, value in zip(total[:4], values, strict=True):  # planes: contiguous products
            plane.scatter_add_(0, index, value * kept)

    def picture(flat: Tensor) -> Tensor:
        """Return planes `(..., B F cells)` as `(..., B, F, H, W)`."""
        flat = flat.unflatten(-1, (batch, frames, cells))[..., :outside]
        return flat.unflatten(-1, (height + 2, pitch))[..., 1:-1, 1:-1]

    mask = (picture(covered) > MIN_WEIGHT).float()[:, :, None]
    total = picture(total).movedim(0, 2)  # (B, F, 5, H, W)
    mean = total[:, :, :4] / total[:, :, 4:].clamp_min(MIN_WEIGHT if weight is None else 1e-9)
    return torch.cat([mean[:, :, :3] * mask, inverse_depth(mean[:, :, 3:]) * mask, mask], dim=2)


def projected(
    inverse: Tensor, source: Tensor, target: Tensor, intrinsics: Tensor, asked: slice = slice(None)
) -> Tensor:
    """Return keyframe points in the cameras of other poses, q `(B, F, S, 3, P)` with pixel q_xy / q_z - 1/2.

    inverse `(B, S, H, W)` inverse depth, source `(B, S, 4, 4)`, target `(B, F, 4, 4)`, intrinsics `(B, 4)`;
    asked: which rows and which columns of pixels, row by row P of them.
    """
    height, width = inverse.shape[-2:]
    # one transform per (target, keyframe) pair, composed in the dtype of the poses, then in pixel units:
    # pixel (u, v, 1) at depth z  ->  q = (K R K^-1 (u, v, 1)) z + K t,  projected to (q_x, q_y) / q_z - 1/2
    pair = (invert_rigid(target)[:, :, None] @ source.to(target.dtype)[:, None]).float()  # (B, F, S, 4, 4)
    project = intrinsic_matrix(intrinsics.float())[:, None, None]  # (B, 1, 1, 3, 3)
    rays = pixel_rays(intrinsics.float(), height, width, 0.5)[:, asked, asked].flatten(1, 2).mT  # (B, 3, P)
    depth = metric_depth(inverse[:, :, asked, asked].float()).flatten(2)[:, None, :, None]  # (B, 1, S, 1, P)
    return (project @ pair[..., :3, :3] @ rays[:, None, None]) * depth + project @ pair[..., :3, 3:]


def intrinsic_matrix(intrinsics: Tensor) -> Tensor:
    """Return K `(..., 3, 3)` of `(..., 4)` intrinsics (fx, fy, cx, cy)."""
    fx, fy, cx, cy = intrinsics.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def memory_tokens(view: Tensor) -> Tensor:
    """Return per-token channels `(B, F, N, MEMORY_CHANNELS)` of views `(B, F, 5, H, W)`."""
    cells = torch.nn.functional.pixel_unshuffle(view, TOKEN_STRIDE)  # (B, F, 320, H/8, W/8)
    return cells.flatten(-2).transpose(-1, -2)

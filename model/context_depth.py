"""Depth of posed frames made consistent: each frame's own prediction, corrected by the other frames.

The depth network looks at one picture at a time. Frames of one clip see the same surfaces from poses that are
known, which says more. Two corrections of log depth, delta = log z' - log z, a pixel each:

    sweep   where other frames see it from aside: of `STEPS` factors between e^-SPAN and e^SPAN the one that
            makes their colours agree,
                delta(p) = sum_k softmax_k(-C_k(p) / TEMPERATURE) delta_k,
                C_k = mean over sources of min(|I_i - I_j(projection with z e^delta_k)|, TAU), smoothed over
                      7x7 pixels, + PRIOR delta_k^2
    fuse    the mean over frames j of log z_j(q) - log z_i->j(p), where the two differ by less than AGREE,
            with q the place of p in frame j and z_i->j its depth there; twice

A clip turned on the spot has no parallax, and only the second corrects it. Nothing here is learned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.geometry import invert_rigid, pixel_rays, rotation_angle_deg
from wm_env.model.pixels import inverse_depth, metric_depth
from wm_env.model.point_memory import NEAR, intrinsic_matrix

STEPS, SPAN = 17, 0.9  # factors that are tried, and the largest log of one
TAU = 0.15  # colour difference (of -1..1) from which a pixel only counts as different
UNSEEN = 0.09  # cost of a factor that puts a pixel outside a source
PRIOR, TEMPERATURE, WINDOW = 0.05, 0.01, 7
SOURCES = 6
PARALLAX = (0.04, 0.6)  # distance of a source from the frame, in median depths of the frame
BEST_PARALLAX, TURNED = 0.2, 0.9  # radians a source may be turned away
AGREE = 0.4  # log of two depths that may be of the same surface
ROUNDS = 2


def consistent(pixels: Tensor, c2w: Tensor, intrinsics: Tensor) -> Tensor:
    """Return frames with corrected depth: `(B, S, 4, H, W)` (r, g, b, d) as given, d alone changed.

    pixels `(B, S, 4, H, W)` with predicted depth; c2w `(B, S, 4, 4)`; intrinsics `(B, 4)` pixels.
    """
    depth = metric_depth(pixels[:, :, 3].float())  # (B, S, H, W)
    poses = c2w.double()
    depth = torch.stack([_swept(pixels, depth, poses, intrinsics, i) for i in range(depth.shape[1])], dim=1)
    for _ in range(ROUNDS):
        depth = torch.stack([_fused(depth, poses, intrinsics, i) for i in range(depth.shape[1])], dim=1)
    return torch.cat([pixels[:, :, :3], inverse_depth(depth)[:, :, None].to(pixels.dtype)], dim=2)


def _swept(pixels: Tensor, depth: Tensor, c2w: Tensor, intrinsics: Tensor, i: int) -> Tensor:
    """Return the depth `(B, H, W)` of frame i after the sweep; as it was where no source has parallax."""
    batch, frames, height, width = depth.shape
    relative = invert_rigid(c2w) @ c2w[:, i : i + 1]  # (B, S, 4, 4): camera i -> camera j
    angle = rotation_angle_deg(c2w[..., :3, :3], c2w[:, i : i + 1, :3, :3]).deg2rad()
    aside = relative[..., :3, 3].norm(dim=-1) / depth[:, i].flatten(1).median(dim=1).values[:, None]
    usable = (aside > PARALLAX[0]) & (aside < PARALLAX[1]) & (angle < TURNED)
    fit = ((aside.clamp_min(1e-6) / BEST_PARALLAX).log().abs() + angle).masked_fill(~usable, torch.inf)
    fit = (fit * 1024).round()  # rounding errors must not choose
    chosen = fit.argsort(dim=1, stable=True)[:, : min(SOURCES, frames)]  # (B, J)
    used = usable.gather(1, chosen)
    if not bool(used.any()):
        return depth[:, i]
    rows = torch.arange(batch, device=depth.device)[:, None]
    pair = relative[rows, chosen].float()  # (B, J, 4, 4)
    tried = torch.linspace(-SPAN, SPAN, STEPS, device=depth.device)
    points = _points(depth[:, i], intrinsics)[:, None] * tried.exp()[None, :, None, None]  # (B, K, P, 3)
    there = points[:, None] @ pair[:, :, None, :3, :3].mT + pair[:, :, None, None, :3, 3]  # (B, J, K, P, 3)
    place, _, inside = _project(there, intrinsics[:, None, None], height, width)
    source = pixels[rows, chosen][:, :, :3].float().flatten(0, 1)  # (B J, 3, H, W)
    seen = F.grid_sample(source, place.flatten(0, 1), align_corners=False, padding_mode="border")
    own = pixels[:, i, :3].float().flatten(2)[:, None, :, None]  # (B, 1, 3, 1, P)
    unlike = (seen.unflatten(0, (batch, -1)) - own).abs().mean(2)  # (B, J, K, P)
    unlike = torch.where(inside, unlike.clamp(max=TAU), UNSEEN)
    share = used.float() / used.sum(1, keepdim=True).clamp_min(1)
    cost = (unlike * share[:, :, None, None]).sum(1).unflatten(2, (height, width))  # (B, K, H, W)
    cost = F.avg_pool2d(cost, WINDOW, 1, WINDOW // 2, count_include_pad=False)
    cost = cost + PRIOR * tried.square()[:, None, None]
    delta = ((-cost / TEMPERATURE).softmax(1) * tried[:, None, None]).sum(1)
    return depth[:, i] * torch.where(used.any(1)[:, None, None], delta, 0.0).exp()


def _fused(depth: Tensor, c2w: Tensor, intrinsics: Tensor, i: int) -> Tensor:
    """Return the depth `(B, H, W)` of frame i, averaged with what the frames that see it say."""
    height, width = depth.shape[2:]
    relative = (invert_rigid(c2w) @ c2w[:, i : i + 1]).float()  # (B, S, 4, 4)
    there = _points(depth[:, i], intrinsics)[:, None] @ relative[..., :3, :3].mT + relative[..., None, :3, 3]
    place, z, inside = _project(there, intrinsics[:, None], height, width)  # (B, S, P, 2), (B, S, P)
    column = ((place[..., 0] + 1) * (width / 2)).floor().clamp(0, width - 1).long()
    row = ((place[..., 1] + 1) * (height / 2)).floor().clamp(0, height - 1).long()
    says = depth.flatten(2).gather(2, row * width + column)  # (B, S, P)
    delta = (says / z.clamp_min(NEAR)).log()
    same = inside & (delta.abs() < AGREE)  # of frame i itself it is 0
    mean = torch.where(same, delta, 0.0).sum(1) / same.sum(1).clamp_min(1)
    return depth[:, i] * mean.exp().unflatten(1, (height, width))


def _points(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the points `(B, P, 3)` of a depth map `(B, H, W)` in its own camera."""
    rays = pixel_rays(intrinsics.float(), depth.shape[1], depth.shape[2], 0.5)
    return (rays * depth[..., None]).flatten(1, 2)


def _project(points: Tensor, intrinsics: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where points `(..., P, 3)` fall: `(..., P, 2)` from -1 to 1, depth, and whether inside."""
    q = points @ intrinsic_matrix(intrinsics.float()).mT
    z = q[..., 2]
    size = torch.tensor([width, height], device=q.device)
    place = q[..., :2] / z.clamp_min(NEAR)[..., None] * (2 / size) - 1
    return place, z, (z > NEAR) & (place.abs() < 1).all(-1)

"""Which pixels of a walk its context has shown: by true geometry, whatever a world remembers of it."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_env.bench.walks import Walks, context_frames
from wm_env.model.geometry import invert_rigid, pixel_rays
from wm_env.model.point_memory import intrinsic_matrix
from wm_env.model.scenes.raycast import render
from wm_env.model.world import WorldSpec

SAME = 0.05  # of the depth: a point this near to what a frame shows there is seen by it
LEAST = 50  # pixels of a view, below which nothing is said of them
NEAREST = 0.05  # metres


def seen_before(spec: WorldSpec, truth: Walks, kind: str, frames: Tensor) -> Tensor:
    """Return which pixels the last frames of a context's chunks have shown: `(B, N, h, w)` bool.

    kind: "none" for the start picture alone, "turn" or "walk". frames `(N,)`: numbers of the walk's frames.
    The point behind a pixel counts as seen where it falls into a context frame and is what that shows there.
    """
    return seen_from(truth, context_frames(spec, truth, kind)[:, :: spec.frames_per_step], frames)


def seen_from(truth: Walks, poses: Tensor, frames: Tensor) -> Tensor:
    """Return which pixels of the walk's `frames` `(N,)` are seen from `poses` `(B, S, 4, 4)`: `(B, N, h, w)`.

    Poses are relative to the walk's start, the camera is the walk's.
    """
    height, width = truth.depth.shape[-2:]
    _, shown = render(truth.scene, truth.start_c2w[:, None] @ poses, truth.intrinsics, height, width)
    return _seen_by(truth, poses, shown, frames)


def seen_by_walk(spec: WorldSpec, truth: Walks, frame: int) -> Tensor:
    """Return which pixels of frame `frame` of the walks earlier frames have shown: `(B, h, w)` bool.

    Earlier ones are the start and the last frames of the chunks before the one that the frame is in: what a
    world has drawn, and may remember, when it draws this one.
    """
    earlier = slice(0, max(1, frame), spec.frames_per_step)
    return _seen_by(truth, truth.c2w[:, earlier], truth.depth[:, earlier], torch.tensor([frame]))[:, 0]


def share_shown(spec: WorldSpec, truth: Walks, kind: str, frames: Tensor) -> Tensor:
    """Return the share of each of the walks' `frames` `(N,)` that the context has shown: `(B, N)` float64.

    As `seen_before`; what the walk itself has shown since a world has drawn, rightly or not.
    """
    return seen_before(spec, truth, kind, frames).double().mean((2, 3))


def _seen_by(truth: Walks, poses: Tensor, shown: Tensor, frames: Tensor) -> Tensor:
    """Return the same from poses `(B, S, 4, 4)` where the depth is `shown` `(B, S, h, w)`."""
    height, width = truth.depth.shape[-2:]
    intrinsics = truth.intrinsics
    rays = pixel_rays(intrinsics, height, width, 0.5)[:, None]  # (B, 1, h, w, 3)
    points = (rays * truth.depth[:, frames, :, :, None].double()).flatten(2, 3)  # (B, N, P, 3)
    c2w = truth.c2w[:, frames]
    points = points @ c2w[..., :3, :3].mT + c2w[..., None, :3, 3]
    seen = torch.zeros(points.shape[:3], dtype=torch.bool)
    project = intrinsic_matrix(intrinsics)[:, None]
    for index in range(poses.shape[1]):
        back = invert_rigid(poses[:, index])[:, None]
        q = (points @ back[..., :3, :3].mT + back[..., None, :3, 3]) @ project.mT
        z = q[..., 2]
        column, row = ((q[..., axis] / z.clamp_min(NEAREST)).floor().long() for axis in (0, 1))
        inside = (z > NEAREST) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        there = shown[:, index].flatten(1)[:, None].expand(-1, len(frames), -1).gather(2, place)
        seen |= inside & ((there / z - 1).abs() < SAME)
    return seen.unflatten(2, (height, width))


def psnr_where(frames: Tensor, truth: Tensor, mask: Tensor) -> list[float | None]:
    """Return PSNR (dB) over the pixels of `mask` `(B, h, w)`, None where there are fewer than `LEAST`.

    frames, truth: uint8 `(B, h, w, 3)`.
    """
    error = (frames.double() - truth.double()).square().mean(-1)  # (B, h, w)
    count = mask.flatten(1).sum(1)
    mean = (error * mask).flatten(1).sum(1) / count.clamp_min(1)
    decibel = 10 * (255.0**2 / mean.clamp_min(255.0**2 * 1e-10)).log10()  # at most 100
    return [float(value) if enough else None for value, enough in zip(decibel, count >= LEAST, strict=True)]

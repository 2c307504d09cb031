"""Photometric error of camera motions: one picture seen in another one by depth, pose and camera.

A pixel p of picture i at depth z lands in picture j at

    q = K (R K^-1 (p, 1) z + t),        (R | t) = T = c2w_j^-1 c2w_i,

and the error of T is how far the colours of j at q are from those of i at p. Legend: `P` pairs of pictures,
`M` motions, `N` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.geometry import invert_rigid, pixel_rays
from wm_env.model.pixels import from_uint8

DepthOf = Callable[[Tensor, Tensor], Tensor]
"""Depth `(B, h, w)` in metres of pictures uint8 `(B, h, w, 3)` taken with intrinsics `(4,)`."""

GAPS = (1, 2, 4, 8)  # frames at 16 frames per second between the two pictures of a pair
RATE = 16.0
PAIRS_PER_GAP = 12
NEAR = 0.05  # metres; what lands nearer than this is out of view
CAP = 0.3  # of the range [-1, 1]; a larger difference of colour says only "something else"
MIN_SEEN = 0.6  # share of the pixels that has to land in the other picture


class Pairs(NamedTuple):
    """first, second: int64 `(P,)`, numbers of the frames of each pair."""

    first: Tensor
    second: Tensor


class Views(NamedTuple):
    """Pairs of pictures, ready to be compared.

    colour: float32 `(P, 3, N)`, pixels of the first pictures in [-1, 1]. rays: `(N, 3)` with unit z. depth:
    `(P, N)` metres. other: `(P, 3, h, w)`, the second pictures. chance: `(P,)`, mean error of pixels that
    have nothing to do with each other. intrinsics: `(4,)` float32 pixels.
    """

    colour: Tensor
    rays: Tensor
    depth: Tensor
    other: Tensor
    chance: Tensor
    intrinsics: Tensor


class Landing(NamedTuple):
    """Where pixels land: points `(..., P, N, 3)` metres in the second camera, u, v `(..., P, N)` pixel
    indices there, and seen `(..., P, N)` bool, within the picture and in front of the camera."""

    points: Tensor
    u: Tensor
    v: Tensor
    seen: Tensor


def choose_pairs(frames: int, fps: float) -> Pairs:
    """Return pairs of frames spread over a clip, by turns forward and back in time, from 1/16 to 1/2 s apart.

    The choice knows nothing of the poses.
    """
    step = max(1, round(fps / RATE))
    first: list[int] = []
    second: list[int] = []
    for gap in GAPS:
        last = frames - 1 - gap * step
        if last < 0:
            continue
        starts = np.unique(np.linspace(0, last, PAIRS_PER_GAP).round().astype(int))
        for number, start in enumerate(starts.tolist()):
            ends = (start, start + gap * step)
            first.append(ends[number % 2])
            second.append(ends[1 - number % 2])
    return Pairs(torch.tensor(first), torch.tensor(second))


def relative_poses(c2w: Tensor, pairs: Pairs) -> Tensor:
    """Return T `(P, 4, 4)` float64, from the first to the second camera of each pair; c2w `(F, 4, 4)`."""
    return invert_rigid(c2w[pairs.second]) @ c2w[pairs.first]


def views(frames: Tensor, depth: Tensor, intrinsics: Tensor, pairs: Pairs, stride: int) -> Views:
    """Return the pairs of a clip: frames uint8 `(F, h, w, 3)`, depth `(F, h, w)` m, intrinsics `(4,)`.

    Every `stride`-th pixel of every `stride`-th row is compared. Colours are averaged over 3 x 3 pixels, so
    that half a pixel does not decide.
    """
    colour = F.avg_pool2d(F.pad(from_uint8(frames).movedim(-1, 1), (1, 1, 1, 1), mode="replicate"), 3, 1)
    asked = slice(stride // 2, None, stride)
    height, width = colour.shape[-2:]
    rays = pixel_rays(intrinsics.float(), height, width, 0.5)[asked, asked].reshape(-1, 3)
    own = colour[pairs.first][..., asked, asked].flatten(2)  # (P, 3, N)
    shuffled = torch.randperm(own.shape[2], generator=torch.Generator().manual_seed(0))
    chance = (own - own[..., shuffled]).abs().mean(1).clamp(max=CAP).mean(1)
    return Views(
        colour=own,
        rays=rays,
        depth=depth[pairs.first][:, asked, asked].flatten(1).float(),
        other=colour[pairs.second],
        chance=chance.clamp_min(1e-3),
        intrinsics=intrinsics.float(),
    )


def land(pairs: Views, motion: Tensor) -> Landing:
    """Return where the pixels land by motions T `(..., P, 4, 4)`."""
    motion = motion.float()
    points = (pairs.rays * pairs.depth[..., None]) @ motion[..., :3, :3].mT + motion[..., None, :3, 3]
    fx, fy, cx, cy = pairs.intrinsics.unbind()
    ahead = points[..., 2].clamp_min(NEAR)
    u, v = points[..., 0] / ahead * fx + cx - 0.5, points[..., 1] / ahead * fy + cy - 0.5
    height, width = pairs.other.shape[-2:]
    seen = (points[..., 2] > NEAR) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    return Landing(points, u, v, seen)


def sampled(pictures: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return pictures `(P, C, h, w)` at pixel indices u, v `(P, N)`, linear between pixels: `(P, C, N)`."""
    height, width = pictures.shape[-2:]
    place = torch.stack([(u + 0.5) * 2 / width - 1, (v + 0.5) * 2 / height - 1], dim=-1)  # (P, N, 2)
    found = F.grid_sample(pictures, place[:, None], padding_mode="border", align_corners=False)
    return found[:, :, 0]


def errors(pairs: Views, motions: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the photometric error `(M, P)` of motions T `(M, P, 4, 4)`; 0 is perfect, 1 is chance.

    counted: bool `(P, N)`, the pixels that are compared, by default all.

        error = mean over pixels seen of min(|colour_j(q) - colour_i(p)|, CAP) / chance

    Pixels that leave the picture are not counted, up to 40% of them; each one more counts as chance, so no
    motion wins by looking away.
    """
    landing = land(pairs, motions)
    count, total = motions.shape[0], pairs.depth.shape[1]
    u, v = (x.movedim(0, 1).flatten(1) for x in (landing.u, landing.v))  # (P, M N)
    colour = sampled(pairs.other, u, v).unflatten(2, (count, total))  # (P, 3, M, N)
    off = (colour - pairs.colour[:, :, None]).abs().mean(1).clamp(max=CAP).movedim(1, 0)  # (M, P, N)
    of = torch.ones_like(pairs.depth) if counted is None else counted.float()
    seen = landing.seen * of
    number, need = seen.sum(-1), MIN_SEEN * of.sum(-1).clamp_min(1)
    chance = pairs.chance
    mean = ((off * seen).sum(-1) + (need - number).clamp_min(0) * chance) / number.clamp_min(need)
    return mean / chance


def pixels_apart(pairs: Views, a: Tensor, b: Tensor) -> Tensor:
    """Return how far apart two motions `(P, 4, 4)` put the pixels of each pair, median over pixels `(P,)`."""
    one, two = land(pairs, a), land(pairs, b)
    apart = torch.hypot(one.u - two.u, one.v - two.v)
    width = pairs.other.shape[-1]
    apart = torch.where(one.seen | two.seen, apart.clamp(max=width), 0.0)
    return apart.median(dim=-1).values

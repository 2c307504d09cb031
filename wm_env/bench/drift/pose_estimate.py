"""Where a frame was taken from, found by rendering the true scene until it looks like the frame.

For every sampled frame: start from the previous estimate moved as commanded, and from the commanded pose
itself, try a coarse grid around each, then Gauss-Newton with a numeric Jacobian; the better view of the two
counts (docs/reference/evaluation.md#pose-estimate):

    minimise over twists x   sum_p w_p |n(frame)_p - n(render(T exp(x)))_p|^2,
    n(I) = (I - mean of each channel) / std,           w = 1 / (1 + (r / c)^2).

The first start follows a camera that went its own way; with it alone, an estimate that was once led astray by
frames that show nothing stays astray where the world shows again what is there. n compensates gain and
offset, w forgives what the world invented. A frame whose residual is not well below what the grid reaches
without fitting is `lost`: a metric, not a deletion; its estimate goes on as commanded.

Legend: `B` walks, `n` sampled frames, `P` candidate poses of one frame.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.bench.walks import Tick, no_steps
from wm_env.model.geometry import invert_rigid, rotation_angle_deg, se3_exp
from wm_env.model.intrinsics import scale_intrinsics
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene

COARSE = 32  # pixels of the coarse search
GRID_YAW_DEG = (-6.0, 0.0, 6.0)
GRID_METRES = (-0.2, 0.0, 0.2)  # forward and right
# picture width, Gauss-Newton steps, and the numeric Jacobian's steps in metres and degrees: wide ones first,
# since single pixels of textures alias
ROUNDS = ((COARSE, 3, 0.08, 1.6), (64, 3, 0.04, 0.8), (64, 2, 0.02, 0.4))
CAUCHY = 1.0  # c, in standard deviations of the picture
DAMPING = 1e-2
LOST = 0.75  # residual over the median of the grid
GATE_DEG, GATE_ROOM = 0.5, 0.01  # error allowed on damaged truth: degrees, share of the room's size


class PoseTrack(NamedTuple):
    """Estimates of sampled frames.

    frames: their indices `(n,)`. c2w: `(B, n, 4, 4)` float64 absolute, the start pose first. residual:
    `(B, n)` over the grid's median. lost: `(B, n)` bool.
    """

    frames: Tensor
    c2w: Tensor
    residual: Tensor
    lost: Tensor


def track_poses(
    scene: Scene,
    frames: Tensor,
    commanded: Tensor,
    intrinsics: Tensor,
    every: int = 8,
    tick: Tick = no_steps,
) -> PoseTrack:
    """Return the estimated poses of every `every`-th frame of `(B, 1 + F, h, w, 3)`; frame 0 is given.

    commanded: absolute poses `(B, 1 + F, 4, 4)`. intrinsics: `(B, 4)` in pixels of the frames. tick: counts
    the estimates.
    """
    sampled = torch.arange(0, frames.shape[1], every)
    batch = len(frames)
    now = commanded[:, 0].double()
    poses = [now]
    residual = [torch.zeros(batch, dtype=torch.float64)]
    lost = [torch.zeros(batch, dtype=torch.bool)]
    for before, index in itertools.pairwise(sampled.tolist()):
        tick(batch)
        asked = commanded[:, index].double()
        moved = now @ invert_rigid(commanded[:, before].double()) @ asked
        starts = (moved, asked)
        found = better(*(locate(scene, frames[:, index], start, intrinsics) for start in starts))
        gone = found.residual > LOST
        now = torch.where(gone[:, None, None], moved, found.c2w)
        poses.append(now)
        residual.append(found.residual)
        lost.append(gone)
    return PoseTrack(sampled, torch.stack(poses, 1), torch.stack(residual, 1), torch.stack(lost, 1))


class Located(NamedTuple):
    """Poses `(B, 4, 4)` found for pictures, and how well their views fit, each `(B,)`.

    cost: at full size. residual: at the coarse size, over the median of the grid around the start.
    """

    c2w: Tensor
    cost: Tensor
    residual: Tensor


def better(one: Located, other: Located) -> Located:
    """Return, picture by picture, the one of two that costs less."""
    first = one.cost <= other.cost
    return Located(
        c2w=torch.where(first[:, None, None], one.c2w, other.c2w),
        cost=torch.where(first, one.cost, other.cost),
        residual=torch.where(first, one.residual, other.residual),
    )


def locate(scene: Scene, image: Tensor, guess: Tensor, intrinsics: Tensor) -> Located:
    """Return the poses whose views match `image` `(B, h, w, 3)`, searched around `guess` `(B, 4, 4)`."""
    best, reference = _search(scene, image, guess, intrinsics)
    size = image.shape[1:3]
    for side, steps, metres, degrees in ROUNDS:
        shape = (side * size[0] // size[1], side) if side < size[1] else (size[0], size[1])
        camera = scale_intrinsics(intrinsics.double(), (size[0], size[1]), shape)
        target = _normalised(_resize(image, shape))[:, None]  # (B, 1, 3, h, w)
        for _ in range(steps):
            best = _gauss_newton(scene, target, best, camera, shape, metres, degrees)
    both = torch.stack([guess, best], dim=1)  # where the command is right, nothing beats it
    costs = _cost(_views(scene, both, camera, shape) - target)  # (B, 2), at full size
    best = both[torch.arange(len(best)), costs.argmin(1)]
    small = (COARSE * size[0] // size[1], COARSE)
    camera = scale_intrinsics(intrinsics.double(), (size[0], size[1]), small)
    view = _views(scene, best[:, None], camera, small)
    coarse = _cost(view - _normalised(_resize(image, small))[:, None])[:, 0]
    return Located(best, costs.min(1).values, coarse / reference)


def _search(scene: Scene, image: Tensor, guess: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best pose of the grid `(B, 4, 4)` and the grid's median cost `(B,)`."""
    size = image.shape[1:3]
    shape = (COARSE * size[0] // size[1], COARSE)
    camera = scale_intrinsics(intrinsics.double(), (size[0], size[1]), shape)
    offsets = torch.tensor(
        [
            [right, 0.0, forward, 0.0, math.radians(yaw), 0.0]
            for yaw in GRID_YAW_DEG
            for forward in GRID_METRES
            for right in GRID_METRES
        ],
        dtype=torch.float64,
    )
    candidates = guess[:, None] @ se3_exp(offsets)  # (B, P, 4, 4)
    target = _normalised(_resize(image, shape))[:, None]
    cost = _cost(_views(scene, candidates, camera, shape) - target)  # (B, P)
    chosen = cost.argmin(1)
    return candidates[torch.arange(len(chosen)), chosen], cost.median(1).values


def _gauss_newton(
    scene: Scene,
    target: Tensor,
    pose: Tensor,
    camera: Tensor,
    shape: tuple[int, int],
    metres: float,
    degrees: float,
) -> Tensor:
    """Return the poses after one damped, robustly weighted step; a step that does not help is halved once."""
    delta = torch.tensor([metres] * 3 + [math.radians(degrees)] * 3, dtype=torch.float64)
    around = torch.cat([torch.diag(delta), -torch.diag(delta), torch.zeros(1, 6, dtype=torch.float64)])
    views = _views(scene, pose[:, None] @ se3_exp(around), camera, shape)  # (B, 13, 3, h, w)
    jacobian = ((views[:, :6] - views[:, 6:12]) / (2 * delta[:, None, None, None])).flatten(2)  # (B, 6, p)
    residual = (target[:, 0] - views[:, 12]).flatten(1)  # (B, p)
    weight = 1 / (1 + (residual / CAUCHY).square())
    weighted = jacobian * weight[:, None]
    normal = weighted @ jacobian.transpose(1, 2)  # (B, 6, 6)
    damped = normal + DAMPING * torch.diag_embed(normal.diagonal(dim1=1, dim2=2)) + 1e-6 * torch.eye(6)
    step = torch.linalg.solve(damped, (weighted @ residual[..., None]))[..., 0]  # (B, 6)
    tries = torch.stack([step, 0.5 * step, torch.zeros_like(step)], dim=1)  # (B, 3, 6)
    candidates = pose[:, None] @ se3_exp(tries)
    cost = _cost(_views(scene, candidates[:, :2], camera, shape) - target)
    cost = torch.cat([cost, _cost(views[:, 12:] - target)], dim=1)
    return candidates[torch.arange(len(step)), cost.argmin(1)]


def _views(scene: Scene, poses: Tensor, camera: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return normalised renderings `(B, P, 3, h, w)` float64 of poses `(B, P, 4, 4)`."""
    rgb, _ = render(scene, poses, camera, *shape)
    return _normalised(rgb.movedim(-1, -3).flatten(0, 1).double()).unflatten(0, poses.shape[:2])


def _resize(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return `(B, 3, h, w)` float64 of uint8 `(B, H, W, 3)`, averaged over pixels when it shrinks."""
    x = image.movedim(-1, 1).double()
    return x if x.shape[-2:] == shape else F.adaptive_avg_pool2d(x, shape)


def _normalised(x: Tensor) -> Tensor:
    """Return `(n, 3, h, w)` with zero mean per channel and unit deviation, slightly smoothed."""
    kernel = x.new_tensor([0.25, 0.5, 0.25])
    weight = (kernel[:, None] * kernel[None, :]).expand(3, 1, 3, 3)
    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=3)
    x = x - x.mean((-2, -1), keepdim=True)
    return x / x.flatten(1).std(1).clamp_min(1e-3)[:, None, None, None]


def _cost(residual: Tensor) -> Tensor:
    """Return the robust cost `(B, P)` of residuals `(B, P, 3, h, w)`: mean of log(1 + (r / c)^2)."""
    return torch.log1p((residual / CAUCHY).square()).flatten(2).mean(-1)


class Gate(NamedTuple):
    """Whether the estimator may be believed: its errors on damaged truth (worst kind of damage)."""

    degrees: float
    share_of_room: float
    passed: bool


def gate(scene: Scene, frames: Tensor, commanded: Tensor, intrinsics: Tensor, every: int = 8) -> Gate:
    """Return the estimator's error on the truth itself after blur, noise and gain of the size of drift.

    frames: true frames `(B, 1 + F, h, w, 3)`. The estimator is told the commanded path with a false start
    for every frame, so that it has something to correct.
    """
    size = scene.cell_hi[:, 0, 0] - scene.cell_lo[:, 0, 0]
    depth = scene.cell_hi[:, 0, 2] - scene.cell_lo[:, 0, 2]
    room = float(torch.maximum(size, depth).double().mean())
    sampled = torch.arange(every, frames.shape[1], every)
    off = se3_exp(torch.tensor([0.06, 0.0, -0.06, 0.01, 0.03, 0.0], dtype=torch.float64))
    worst_deg, worst_m = 0.0, 0.0
    for damage in DAMAGES:
        degrees, metres = [], []
        for index in sampled.tolist():
            truth = commanded[:, index].double()
            found = locate(scene, damage(frames[:, index]), truth @ off, intrinsics).c2w
            degrees.append(rotation_angle_deg(truth[:, :3, :3], found[:, :3, :3]))
            metres.append((truth[:, :3, 3] - found[:, :3, 3]).norm(dim=-1))
        worst_deg = max(worst_deg, float(torch.cat(degrees).median()))
        worst_m = max(worst_m, float(torch.cat(metres).median()))
    passed = worst_deg < GATE_DEG and worst_m < GATE_ROOM * room
    return Gate(worst_deg, worst_m / room, passed)


def blurred(image: Tensor) -> Tensor:
    """Return uint8 images `(B, h, w, 3)` blurred by a 5x5 binomial kernel."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    weight = (kernel[:, None] * kernel[None, :]).expand(3, 1, 5, 5)
    x = F.pad(image.movedim(-1, 1).float(), (2, 2, 2, 2), mode="replicate")
    return F.conv2d(x, weight, groups=3).round().to(torch.uint8).movedim(1, -1)


def noisy(image: Tensor, sigma: float = 8.0) -> Tensor:
    """Return uint8 images with Gaussian noise of `sigma` grey levels, always the same."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image.float() + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def darker(image: Tensor, gain: float = 0.8) -> Tensor:
    """Return uint8 images times `gain`."""
    return (image.float() * gain).round().clamp(0, 255).to(torch.uint8)


DAMAGES = (blurred, noisy, darker)

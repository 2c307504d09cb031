"""Camera conditioning: UCPE ray transforms per token and Plücker maps packed per latent frame.

Two independent paths: every self-attention has a camera branch whose q, k, v are mapped between world and ray
frames (poses at latent rate, docs/reference/transformer.md#camera-branch), and every block adds a projection
of Plücker maps (poses at pixel-frame rate, docs/reference/transformer.md#plucker-maps).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.geometry import assemble, pixel_rays
from wm_env.model.intrinsics import scale_intrinsics
from wm_env.model.placement import placed


class CameraInput(NamedTuple):
    """What the transformer is told about the camera.

    conditions: `(B, T, 20)`: row-major 4x4 c2w relative to rollout frame 0, then fx, fy, cx, cy in latent
    pixels. plucker: `(B, 6*stride, T, h, w)` ray direction and moment of the pixel frames of each latent.
    """

    conditions: Tensor
    plucker: Tensor


class Rays(NamedTuple):
    """Ray frames of every token, `(B, T, N, 4, 4)` float32: `to_ray` maps world to ray, `to_world` back."""

    to_ray: Tensor
    to_world: Tensor


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-6)


def ray_transforms(conditions: Tensor, height: int, width: int) -> Rays:
    """Return the ray frame of every latent token (docs/reference/transformer.md#ray-transforms).

        z = unit(R d),  x = unit(R[:,1] x z),  y = unit(z x x),  Rw = rows (x, y, z)
        to_ray = [Rw | -Rw t],  to_world = [Rw^T | t]

    with `d` the pinhole ray through the integer grid point (no half-pixel offset). In float32, or in bfloat16
    where the conditions are, as the published pipeline does, whose focal lengths take a way through degrees.
    """
    with torch.autocast(conditions.device.type, enabled=False):  # geometry stays float32 under bf16 training
        batch, frames, _ = conditions.shape
        if conditions.dtype is torch.bfloat16:
            conditions = torch.cat(
                [conditions[..., :16], _through_degrees(conditions, height, width)], dim=-1
            )
        else:
            conditions = conditions.float()
        c2w = conditions[..., :16].reshape(batch, frames, 4, 4)
        rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
        rays = _unit(pixel_rays(conditions[..., 16:], height, width, offset=0.0)).flatten(
            2, 3
        )  # (B, T, N, 3)
        z = _unit(rays @ rotation.transpose(-1, -2))  # (B, T, N, 3)
        up = rotation[..., 1][..., None, :].expand_as(z)  # camera y axis in the world
        x = _unit(torch.linalg.cross(up, z))
        y = _unit(torch.linalg.cross(z, x))
        world_to_ray = torch.stack([x, y, z], dim=-2)  # (B, T, N, 3, 3)
        t = position[:, :, None].expand_as(z)
        to_ray = assemble(world_to_ray, -(world_to_ray @ t[..., None])[..., 0])
        to_world = assemble(world_to_ray.transpose(-1, -2), t)
        return Rays(to_ray.float(), to_world.float())


def _through_degrees(conditions: Tensor, height: int, width: int) -> Tensor:
    """Return intrinsics `(B, T, 4)` whose focal lengths went through a field of view in degrees, and back.

    Exact in float32; in bfloat16, with its grid of 1/4 to 1/2 degree, 35.75 becomes 36 and 19.875 becomes
    19.75 at 40 columns (docs/reference/transformer.md#ray-transforms).
    """
    focal, centre = conditions[..., 16:18], conditions[..., 18:]

    def back(x: Tensor, size: int) -> Tensor:
        degrees = 2 * torch.rad2deg(torch.atan(size / x / 2))
        return 0.5 * size / torch.tan(degrees / 180 * math.pi / 2)

    focals = [back(focal[..., i : i + 1], size) for i, size in enumerate((width, height))]
    return torch.cat([*focals, centre], dim=-1)


def apply_per_token(matrices: Tensor, x: Tensor) -> Tensor:
    """Return `x` `(B, T, N, H, E)` with every 4-vector of its last axis multiplied by `(B, T, N, 4, 4)`."""
    with torch.autocast(x.device.type, enabled=False):  # positions of metres do not survive bf16
        rows = x.unflatten(-1, (-1, 4)).flatten(3, 4)  # (B, T, N, H*E/4, 4)
        return (rows @ matrices.transpose(-1, -2)).view(x.shape)


def camera_conditions(c2w: Tensor, intrinsics: Tensor) -> Tensor:
    """Return `(B, T, 20)` float32 rows from latent-rate poses `(B, T, 4, 4)` and latent-unit intrinsics.

    `intrinsics` is `(B, 4)` or `(B, T, 4)`, in latent pixels.
    """
    if intrinsics.ndim == 2:
        intrinsics = intrinsics[:, None].expand(-1, c2w.shape[1], -1)
    return torch.cat([c2w.float().flatten(-2), intrinsics.float()], dim=-1)


def plucker_rays(c2w: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return Plücker coordinates `(B, F, 6, h, w)` float32: unit world direction d, then moment t x d.

    c2w `(B, F, 4, 4)`, intrinsics `(B, F, 4)` in latent pixels; integer grid points
    (docs/reference/transformer.md#plucker-maps).
    """
    c2w, intrinsics = c2w.float(), intrinsics.float()
    rays = pixel_rays(intrinsics, height, width, offset=0.0).flatten(2, 3)  # (B, F, N, 3)
    direction = F.normalize(rays @ c2w[..., :3, :3].transpose(-1, -2), dim=-1)
    origin = c2w[..., None, :3, 3].expand_as(direction)
    moment = torch.linalg.cross(origin, direction)
    packed = torch.cat([direction, moment], dim=-1)  # (B, F, N, 6)
    return packed.transpose(-1, -2).unflatten(-1, (height, width))


class Windows(NamedTuple):
    """Which pixel frames tell about each latent frame (docs/reference/transformer.md#plucker-maps).

    pose `(T,)` int64: the frame whose pose conditions it. rays `(T, stride)` int64: the frames whose rays its
    Plücker map packs.
    """

    pose: Tensor
    rays: Tensor


def clip_windows(frames: int, stride: int) -> Windows:
    """Return the windows of a clip whose whole path is known: latent 0 reads the first `stride` frames.

    Latent i >= 1 reads its own pixel frames, of which the last gives its pose; past the end the last frame
    repeats.
    """
    latents = (frames - 1) // stride + 1
    first = (torch.arange(latents) * stride - (stride - 1)).clamp_min(0)
    rays = (first[:, None] + torch.arange(stride)).clamp_max(frames - 1)
    return Windows(torch.arange(latents) * stride, rays)


def start_windows(frames: int, stride: int) -> Windows:
    """Return the windows of a clip as a rollout meets it: latent 0 repeats frame 0, its future is unknown."""
    latents = (frames - 1) // stride + 1
    rays = (torch.arange(latents)[:, None] * stride - (stride - 1) + torch.arange(stride)).clamp_min(0)
    return Windows(rays[:, -1], rays)


def own_windows(latents: int, stride: int) -> Windows:
    """Return the windows of a chunk of `latents` frames after the start: each its own pixel frames."""
    rays = torch.arange(latents * stride).view(latents, stride)
    return Windows(rays[:, -1], rays)


def camera_input(
    c2w: Tensor,
    intrinsics: Tensor,
    frame_size: tuple[int, int],
    grid: tuple[int, int],
    windows: Windows,
    dtype: torch.dtype = torch.float32,
) -> CameraInput:
    """Return the conditioning of latent frames from the poses of their pixel frames: the only builder of it.

    c2w `(B, F, 4, 4)` relative to the start, metres. intrinsics `(B, 4)`, or `(B, F, 4)` one per frame, in
    pixels of `frame_size` (height, width); grid: latent (rows, columns). In float32, cast to `dtype` at last.
    """
    poses = c2w.float()
    latent = scale_intrinsics(intrinsics, frame_size, grid)  # no half-pixel shift
    if latent.ndim == 2:
        latent = latent[:, None].expand(-1, poses.shape[1], -1)  # (B, F, 4)
    rays = plucker_rays(poses, latent, *grid)  # (B, F, 6, h, w)
    pose, window = (placed(frames, poses.device) for frames in windows)
    conditions = camera_conditions(poses[:, pose], latent[:, pose])
    return CameraInput(conditions.to(dtype), pack_windows(rays, window).to(dtype))


def pack_windows(rays: Tensor, windows: Tensor) -> Tensor:
    """Return maps `(B, 6*stride, T, h, w)` of per-frame rays `(B, F, 6, h, w)` and windows `(T, stride)`."""
    packed = rays[:, windows]  # (B, T, stride, 6, h, w)
    return packed.flatten(2, 3).transpose(1, 2)

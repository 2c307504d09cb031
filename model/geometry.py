"""SE(3), intrinsics and rays. OpenCV axes: x right, y down, z forward; camera-to-world; metres.

Conventions follow docs/reference/transformer.md#camera-conditions: a pose is a 4x4 camera-to-world matrix
`c2w`, intrinsics are `(fx, fy, cx, cy)` in pixels of a stated image size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RIGID_TOLERANCE = 1e-3  # float32 poses composed over thousands of frames stay well inside this


def invert_rigid(c2w: Tensor) -> Tensor:
    """Return the inverse of rigid transforms `(..., 4, 4)`: [R|t]^-1 = [R^T | -R^T t]."""
    rotation_t = c2w[..., :3, :3].transpose(-1, -2)
    translation = -(rotation_t @ c2w[..., :3, 3:])  # (..., 3, 1)
    return assemble(rotation_t, translation[..., 0])


def assemble(rotation: Tensor, translation: Tensor) -> Tensor:
    """Return `(..., 4, 4)` rigid transforms from rotations `(..., 3, 3)` and translations `(..., 3)`."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)  # (..., 3, 4)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1.0
    return torch.cat([top, bottom], dim=-2)


def relative_to_first(c2w: Tensor) -> Tensor:
    """Return poses `(..., F, 4, 4)` in the frame of pose 0, which becomes exactly the identity."""
    relative = invert_rigid(c2w[..., :1, :, :]) @ c2w
    relative[..., 0, :, :] = torch.eye(4, dtype=c2w.dtype, device=c2w.device)
    return relative


def relative_to_last(c2w: Tensor) -> Tensor:
    """Return poses `(..., F, 4, 4)` in the frame of the last pose, which becomes exactly the identity."""
    return relative_to_first(c2w.flip(-3)).flip(-3)


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Return rotations `(..., 3, 3)` of unit quaternions `(..., 4)`, x, y, z, w with the real part last.

    Normalised first. Raises `ValueError` where a norm is more than 1% off 1.
    """
    norm = quaternion.norm(dim=-1)
    if not bool(((norm - 1).abs() < 0.01).all()):
        at = int((~((norm - 1).abs() < 0.01)).flatten().nonzero()[0, 0])
        found = quaternion.reshape(-1, 4)[at].tolist()
        raise ValueError(f"quaternion {at} is {found}; expected x, y, z, w of length 1")
    x, y, z, w = (quaternion / norm[..., None]).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def se3_exp(twist: Tensor) -> Tensor:
    """Return the rigid motion exp(twist) `(..., 4, 4)` of body twists `(..., 6)`.

    `twist = (v, w)`: translation part v in metres, rotation part w in radians, both in the body frame:

        R = exp([w]x),   t = V(w) v,   V = I + (1-cos a)/a^2 [w]x + (a - sin a)/a^3 [w]x^2,   a = |w|.
    """
    linear, angular = twist[..., :3], twist[..., 3:]
    angle2 = (angular * angular).sum(-1)[..., None, None]
    angle = angle2.sqrt()
    small = angle2 < 1e-8
    safe, safe2 = torch.where(small, 1.0, angle), torch.where(small, 1.0, angle2)
    a = torch.where(small, 1 - angle2 / 6, torch.sin(safe) / safe)
    b = torch.where(small, 0.5 - angle2 / 24, (1 - torch.cos(safe)) / safe2)
    c = torch.where(small, 1 / 6 - angle2 / 120, (safe - torch.sin(safe)) / (safe2 * safe))
    x, y, z = angular.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    cross2 = cross @ cross
    eye = torch.eye(3, dtype=twist.dtype, device=twist.device)
    rotation = eye + a * cross + b * cross2
    translation = (eye + b * cross + c * cross2) @ linear[..., None]
    return assemble(rotation, translation[..., 0])


def rotation_angle_deg(a: Tensor, b: Tensor) -> Tensor:
    """Return the angle in degrees between rotations `a` and `b` `(..., 3, 3)`, accurate near zero."""
    relative = a.transpose(-1, -2) @ b
    half_chord = (relative - torch.eye(3, dtype=a.dtype, device=a.device)).flatten(-2).norm(
        dim=-1
    ) / math.sqrt(8)
    return torch.rad2deg(2 * torch.asin(half_chord.clamp(max=1.0)))


def check_rigid(c2w: Tensor) -> None:
    """Raise `ValueError` naming the first pose of `(..., 4, 4)` that is not a finite rigid transform."""
    if c2w.shape[-2:] != (4, 4):
        raise ValueError(
            f"poses have shape {tuple(c2w.shape)}; expected (..., 4, 4) camera-to-world matrices"
        )
    flat = c2w.reshape(-1, 4, 4).double()
    rotation = flat[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64, device=c2w.device)
    last_row = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64, device=c2w.device)
    bad = ~torch.isfinite(flat).flatten(1).all(1)
    bad |= (rotation.transpose(-1, -2) @ rotation - eye).abs().flatten(1).amax(1) > RIGID_TOLERANCE
    bad |= torch.linalg.det(torch.nan_to_num(rotation)) < 0.5
    bad |= (flat[:, 3] - last_row).abs().amax(1) > RIGID_TOLERANCE
    if bool(bad.any()):
        index = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"pose {index} is not a rigid camera-to-world matrix (rotation orthonormal, last row 0 0 0 1): "
            f"{_misfit(flat[index])}{flat[index].tolist()}"
        )


def _misfit(pose: Tensor) -> str:
    """Return the usual reason why a matrix `(4, 4)` float64 is no pose, "" where none of them is plain."""
    if not bool(torch.isfinite(pose).all()):
        return ""
    rotation = pose[:3, :3]
    if bool((pose[3, :3] != 0).any()) and not bool(pose[:3, 3].any()):
        return "it is transposed, its translation stands in the last row; "
    scale = float(rotation.square().sum() / 3) ** 0.5
    if scale < 1e-12:
        return ""
    unit = rotation / scale
    skewed = float((unit.T @ unit - torch.eye(3, dtype=torch.float64, device=pose.device)).abs().amax())
    if skewed > RIGID_TOLERANCE:
        return ""
    if float(torch.linalg.det(unit)) < 0:
        return "its axes are mirrored (left-handed, as those of Unity and Unreal), turn one round; "
    if abs(scale - 1) > RIGID_TOLERANCE / 4:
        return f"its rotation is scaled by {scale:.4g}, a scale belongs to the translations alone; "
    return ""


def pixel_rays(intrinsics: Tensor, height: int, width: int, offset: float) -> Tensor:
    """Return camera-frame rays `(..., height, width, 3)` with unit z of `(..., 4)` intrinsics.

    `offset` is added to the integer pixel index: 0.5 for pixel centres (renderer), 0 for SANA-WM's
    latent grid (docs/reference/transformer.md#ray-transforms).
    """
    fx, fy, cx, cy = (x[..., None, None] for x in intrinsics.unbind(-1))
    v, u = torch.meshgrid(
        torch.arange(height, dtype=intrinsics.dtype, device=intrinsics.device) + offset,
        torch.arange(width, dtype=intrinsics.dtype, device=intrinsics.device) + offset,
        indexing="ij",
    )
    x, y = (u - cx) / fx, (v - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)

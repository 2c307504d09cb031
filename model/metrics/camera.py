"""How close camera paths are to the truth, and how much of a commanded motion is made.

Formulas: docs/reference/evaluation.md#pose-accuracy. Errors are means over frames (other papers sum),
rotations in degrees, translations in the units of the ground truth. Legend: `F` frames, `m` steps.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import assemble, invert_rigid, relative_to_first, rotation_angle_deg

Alignment = Literal["upstream", "first", "umeyama"]


class PoseErrors(NamedTuple):
    """Per-frame camera errors, each `(F,)` float64: degrees, ground-truth units, Frobenius of [R|t]."""

    rotation_deg: Tensor
    translation: Tensor
    cammc: Tensor

    def means(self) -> tuple[float, float, float]:
        """Return (RotErr, TransErr, CamMC): means over frames."""
        return float(self.rotation_deg.mean()), float(self.translation.mean()), float(self.cammc.mean())


class Similarity(NamedTuple):
    """An alignment of a predicted path: rotation `(3, 3)`, scale `()`, translation `(3,)`, float64."""

    rotation: Tensor
    scale: Tensor
    translation: Tensor


def pose_errors(
    truth: Tensor,
    prediction: Tensor,
    alignment: Alignment,
    *,
    relative: bool = True,
    skip_first: bool = False,
) -> PoseErrors:
    """Return the errors of a predicted path against the true one, both absolute c2w `(F, 4, 4)`.

    Both are made relative to their first pose, then the prediction is aligned: "upstream" as the published
    script does, "first" not at all (true scale), "umeyama" by Sim(3) on the camera centres
    (docs/reference/evaluation.md#pose-alignment). relative=False feeds the paths as they are; skip_first
    drops frame 0 of both beforehand.
    """
    if truth.shape != prediction.shape or truth.shape[-2:] != (4, 4) or truth.ndim != 3:
        raise ValueError(f"paths have shapes {tuple(truth.shape)}, {tuple(prediction.shape)}; need (F, 4, 4)")
    truth, prediction = truth.double(), prediction.double()
    if skip_first:
        truth, prediction = truth[1:], prediction[1:]
    if relative:
        truth, prediction = relative_to_first(truth), relative_to_first(prediction)
    if alignment == "upstream":
        prediction = apply_upstream(prediction, fit_upstream(truth, prediction))
    elif alignment == "umeyama":
        prediction = apply_umeyama(prediction, fit_umeyama(truth, prediction))
    elif alignment != "first":
        raise ValueError(f"unknown alignment {alignment!r}; known are upstream, first, umeyama")
    return frame_errors(truth, prediction)


def frame_errors(truth: Tensor, prediction: Tensor) -> PoseErrors:
    """Return per-frame errors of paths `(F, 4, 4)` as they stand: CamMC^2 = TransErr^2 + 8 sin^2(angle/2)."""
    rotation = rotation_angle_deg(truth[:, :3, :3], prediction[:, :3, :3])
    difference = truth[:, :3] - prediction[:, :3]
    translation = torch.linalg.vector_norm(difference[..., 3], dim=-1)
    return PoseErrors(rotation, translation, torch.linalg.matrix_norm(difference))


def fit_upstream(truth: Tensor, prediction: Tensor) -> Similarity:
    """Return the published script's alignment (A, s, b) of c2w paths `(F, 4, 4)`.

    With world-to-camera [R|t], p = prediction, g = truth:
    A = nearest rotation to sum R_p^T R_g;  s, b = argmin sum |t_g - (s t_p + R_p b)|^2. s may be negative.
    """
    rotation_p, t_p = _world_to_camera(prediction)
    rotation_g, t_g = _world_to_camera(truth)
    rotation = _nearest_rotation((rotation_p.transpose(-1, -2) @ rotation_g).sum(0))
    # in the prediction's world both sides lose their rotation: |R_p^T t_g - s R_p^T t_p - b|^2
    source = torch.einsum("fji,fj->fi", rotation_p, t_p)  # (F, 3)
    target = torch.einsum("fji,fj->fi", rotation_p, t_g)  # (F, 3)
    centred = source - source.mean(0)
    scale = (centred * (target - target.mean(0))).mean() / centred.square().mean().clamp_min(1e-9)
    return Similarity(rotation, scale, target.mean(0) - scale * source.mean(0))


def apply_upstream(prediction: Tensor, fit: Similarity) -> Tensor:
    """Return the c2w path whose world-to-camera is [R_p A | s t_p + R_p b]."""
    rotation, t = _world_to_camera(prediction)
    moved = fit.scale * t + rotation @ fit.translation
    return invert_rigid(assemble(rotation @ fit.rotation, moved))


def fit_umeyama(truth: Tensor, prediction: Tensor) -> Similarity:
    """Return the Sim(3) minimising sum |c_g - (s R c_p + t)|^2 over camera centres (Umeyama 1991)."""
    source, target = prediction[:, :3, 3], truth[:, :3, 3]
    a, b = source - source.mean(0), target - target.mean(0)
    u, values, vt = torch.linalg.svd(b.T @ a / len(a))
    sign = u.new_ones(3)
    sign[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    rotation = u @ torch.diag(sign) @ vt
    scale = (values * sign).sum() / a.square().sum(-1).mean().clamp_min(1e-12)
    return Similarity(rotation, scale, target.mean(0) - scale * rotation @ source.mean(0))


def apply_umeyama(prediction: Tensor, fit: Similarity) -> Tensor:
    """Return the c2w path with rotations R R_p and centres s R c_p + t."""
    centres = fit.scale * prediction[:, :3, 3] @ fit.rotation.T + fit.translation
    return assemble(fit.rotation @ prediction[:, :3, :3], centres)


def _world_to_camera(c2w: Tensor) -> tuple[Tensor, Tensor]:
    w2c = invert_rigid(c2w)
    return w2c[:, :3, :3], w2c[:, :3, 3]


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """Return the rotation closest to a 3x3 matrix: its polar factor, with determinant +1."""
    u, _, vt = torch.linalg.svd(matrix)
    sign = u.new_ones(3)
    sign[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    return u @ torch.diag(sign) @ vt


def motion_vectors(steps: Tensor) -> Tensor:
    """Return `(m, 6)` right, down, forward (m) and pitch, yaw, roll (rad) of rigid steps `(m, 4, 4)`.

    The rotation vector is angle / (2 sin angle) times the skew part of R; angles are below 180 degrees.
    """
    rotation = steps[:, :3, :3]
    cosine = ((rotation.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1)
    angle = torch.acos(cosine)
    skew = rotation - rotation.transpose(1, 2)
    axis = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], -1)  # 2 sin(angle) times the axis
    scale = torch.where(angle < 1e-4, 0.5, angle / (2 * torch.sin(angle)).clamp_min(1e-9))
    return torch.cat([steps[:, :3, 3], scale[:, None] * axis], dim=1)


def gain_matrix(asked_asked: np.ndarray, got_asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least-squares `(6, 6)` matrix G from commanded to realised motion, and which axes were used.

    got = G asked: the diagonal is the gain (1 is right), the rest cross-talk. Arguments are sums over samples
    of the outer products asked asked^T and got asked^T. An axis that was hardly moved has no gain.
    """
    energy = np.diag(asked_asked)
    scale = np.array([1.0] * 3 + [0.5] * 3)  # metres against radians, as felt half a metre away
    used = energy * scale**2 > 1e-3 * (energy * scale**2).max(initial=0.0)
    matrix = np.full((6, 6), np.nan)
    if used.any():
        inside = np.ix_(used, used)
        matrix[:, used] = got_asked[:, used] @ np.linalg.pinv(asked_asked[inside], rcond=1e-6)
    return matrix, used

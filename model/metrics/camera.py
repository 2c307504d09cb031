"""How close images and camera paths are to the truth, with confidence intervals: numpy and torch only.

Formulas: docs/reference/evaluation.md#image-metrics, docs/reference/evaluation.md#pose-accuracy and
docs/reference/evaluation.md#aggregation. Camera errors are means over frames (other papers sum), rotations in
degrees, translations in the units of the ground truth. Legend: `F` frames, `S` scenes, `K` seeds of a scene.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.geometry import assemble, invert_rigid, relative_to_first, rotation_angle_deg

LUMA = (0.299, 0.587, 0.114)  # of R, G, B
PSNR_CAP = 100.0
_MSE_FLOOR = 1e-10
_SSIM_WINDOW = 11
Alignment = Literal["upstream", "first", "umeyama"]


# Images


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared error `(...)` float64 of images `(..., h, w, 3)`, in grey levels squared."""
    _check_images(a, b)
    return (a.double() - b.double()).square().flatten(-3).mean(-1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return 10 log10(255^2 / MSE) `(...)` in dB of uint8 images `(..., h, w, 3)`; 100 where equal."""
    error = mse(a, b)
    value = 10 * torch.log10(255.0**2 / error.clamp_min(_MSE_FLOOR))
    return torch.where(error < _MSE_FLOOR, PSNR_CAP, value)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity `(...)` of uint8 images `(..., h, w, 3)`: the uniform-window variant.

        (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2))

    Per channel, 11x11 uniform window, biased moments, C1 = (0.01*255)^2, C2 = (0.03*255)^2; mean over the
    whole map (image mirrored at its border) and over channels. Gaussian variants give other numbers.
    """
    _check_images(a, b)
    if min(a.shape[-3:-1]) < _SSIM_WINDOW:
        raise ValueError(
            f"images of {a.shape[-3]}x{a.shape[-2]} are smaller than the {_SSIM_WINDOW}x11 window"
        )
    x, y = (image.double().movedim(-1, -3).flatten(0, -4) for image in (a[None], b[None]))  # (n, 3, h, w)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x**2
    var_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.flatten(1).mean(-1).reshape(a.shape[:-3])


def _window_mean(x: Tensor) -> Tensor:
    """Return the local mean of `(n, 3, h, w)` over an 11x11 window, borders mirrored (edge repeated)."""
    half = _SSIM_WINDOW // 2
    for axis in (-2, -1):
        size = x.shape[axis]
        index = torch.arange(-half, size + half, device=x.device)
        mirrored = torch.where(index < 0, -1 - index, torch.where(index >= size, 2 * size - 1 - index, index))
        x = x.index_select(axis, mirrored)
    return F.avg_pool2d(x, _SSIM_WINDOW, stride=1)


def _check_images(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim < 3 or a.shape[-1] != 3:
        raise ValueError(
            f"images have shapes {tuple(a.shape)} and {tuple(b.shape)}; need equal (..., h, w, 3)"
        )


# Camera paths


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


# Statistics


class Interval(NamedTuple):
    """A mean with its percentile confidence bounds."""

    mean: float
    low: float
    high: float


def hierarchical_bootstrap(
    values: np.ndarray, *, resamples: int = 5000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean over scenes of means over seeds, with a percentile interval.

    values: `(S, K)` or `(S,)`, one number a scene and seed; frames are averaged beforehand, never pooled.
    Each resample draws scenes with replacement, then seeds within each drawn scene. For a comparison pass
    paired differences.
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"bootstrap needs finite values (scenes, seeds), got shape {np.shape(values)}")
    scenes, seeds = table.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows_at_once = max(1, 2_000_000 // table.size)
    for begin in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - begin)
        scene = rng.integers(scenes, size=(rows, scenes, 1))
        drawn = rng.integers(seeds, size=(rows, scenes, seeds))
        means[begin : begin + rows] = table[scene, drawn].mean((1, 2))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(table.mean()), float(low), float(high))

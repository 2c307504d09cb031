"""The camera motion that the pictures themselves ask for: direct alignment of pairs with depth.

Gauss-Newton with damping on the twist w of T <- exp(w) T, robust weights (iteratively reweighted least
squares of the absolute difference, pixels beyond `CAP` left out): Kerl, Sturm and Cremers, "Robust odometry
estimation for RGB-D cameras", ICRA 2013, section III. Nothing of the clip's poses is used but as a start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_env.model.data.pose_check.warping import CAP, NEAR, Views, errors, land, sampled
from wm_env.model.geometry import se3_exp

STEPS = 12
SOFT = 0.04  # differences below this weigh alike


def free_motion(pairs: Views, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the motion `(P, 4, 4)` float64 of least error near any of the starts `(M, P, 4, 4)`, and its
    error `(P,)` as `warping.errors` counts it."""
    found = [_refined(pairs, start) for start in starts.double()]
    error = torch.stack([one[1] for one in found])  # (M, P)
    best = error.argmin(0)
    motions = torch.stack([one[0] for one in found])
    return motions[best, torch.arange(len(best))], error.amin(0)


def _refined(pairs: Views, motion: Tensor) -> tuple[Tensor, Tensor]:
    other = pairs.other
    across, down = torch.zeros_like(other), torch.zeros_like(other)
    across[..., 1:-1] = (other[..., 2:] - other[..., :-2]) / 2
    down[..., 1:-1, :] = (other[..., 2:, :] - other[..., :-2, :]) / 2
    stack = torch.cat([other, across, down], dim=1)  # (P, 9, h, w)
    error = errors(pairs, motion[None])[0]
    damping = torch.full_like(error, 1e-3)
    for _ in range(STEPS):
        normal, gradient = _equations(pairs, stack, motion)
        scale = torch.diag_embed(normal.diagonal(dim1=1, dim2=2) * damping[:, None] + 1e-4)
        step = -torch.linalg.solve(normal + scale, gradient[..., None])[..., 0]
        tried = se3_exp(step.double()) @ motion
        after = errors(pairs, tried[None])[0]
        better = after < error
        motion = torch.where(better[:, None, None], tried, motion)
        error = torch.where(better, after, error)
        damping = torch.where(better, damping * 0.3, damping * 10).clamp(1e-6, 1e4)
    return motion, error


def _equations(pairs: Views, stack: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return J^T W J `(P, 6, 6)` and J^T W r `(P, 6)` of the twist (v, w) at a motion `(P, 4, 4)`."""
    landing = land(pairs, motion)
    colour, across, down = sampled(stack, landing.u, landing.v).split(3, dim=1)  # (P, 3, N) each
    residual = colour - pairs.colour
    off = residual.abs().mean(1)
    weight = (landing.seen & (off < CAP)).float() / (off + SOFT)  # (P, N)
    x, y, z = landing.points.unbind(-1)
    z = z.clamp_min(NEAR)
    fx, fy, _, _ = pairs.intrinsics.unbind()
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    # d(u, v)/d(point), then d(point)/d(v, w) = [I | -[point]x], multiplied out
    a, b = x / z, y / z
    du = torch.stack([one / z, zero, -a / z, -a * b, 1 + a * a, -b], dim=-1) * fx  # (P, N, 6)
    dv = torch.stack([zero, one / z, -b / z, -1 - b * b, a * b, a], dim=-1) * fy
    jacobian = across[..., None] * du[:, None] + down[..., None] * dv[:, None]  # (P, 3, N, 6)
    weighted = jacobian * weight[:, None, :, None]
    normal = torch.einsum("pcni,pcnj->pij", weighted, jacobian)
    return normal, torch.einsum("pcni,pcn->pi", weighted, residual)

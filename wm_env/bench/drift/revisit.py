"""Is a place the same when one comes back? Revisit pairs, controls, loop closure.

Definitions: docs/reference/evaluation.md#revisits-and-loop-closure.

A revisit pair (a, b) has nearly equal commanded poses. Memory is

    M = PSNR(g_a, g_b) - PSNR(control),   the control a pair of equal gap whose views differ by an angle,

and correctness PSNR(g_b, x_b) against the truth: a world may agree with itself and be wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import invert_rigid, rotation_angle_deg

MIN_GAP = 16  # frames between the two visits
SAME_METRES, SAME_DEG = 0.05, 2.0
AWAY_DEG = 60.0  # a view angle: what a control pair differs by
PAIRS = 5


class Pair(NamedTuple):
    """Frames a < b seen from one pose, and a control frame for b (None where the walk has none)."""

    a: int
    b: int
    control: int | None


def revisit_pairs(c2w: Tensor) -> list[Pair]:
    """Return up to five revisit pairs of a path `(1 + F, 4, 4)`, spread over their gaps, without frame 0.

    A pair counts only if the camera was elsewhere in between. The control of (a, b) is the frame nearest to b
    whose view differs from a's by more than 60 degrees.
    """
    frames = len(c2w)
    metres = torch.cdist(c2w[:, :3, 3], c2w[:, :3, 3])  # (F, F)
    flat = c2w[:, :3, :3].flatten(1)  # (F, 9); <R_a, R_b> = tr(R_a^T R_b) = 1 + 2 cos
    angle = torch.rad2deg(torch.acos(((flat @ flat.T - 1) / 2).clamp(-1, 1)))
    same = (metres < SAME_METRES) & (angle < SAME_DEG)
    found = []
    for a in range(1, frames - MIN_GAP):
        left = torch.cumsum(~same[a], dim=0) > int((~same[a, : a + 1]).sum())  # been elsewhere since a
        later = same[a] & left
        later[: a + MIN_GAP] = False
        found += [
            (b - a, float(metres[a, b] + angle[a, b] / 30), a, b) for b in later.nonzero()[:, 0].tolist()
        ]
    if not found:
        return []
    found.sort()
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, PAIRS).round().astype(int))]
    return [Pair(a, b, _control(angle[a], b)) for _, _, a, b in chosen]


def _control(angle: Tensor, b: int) -> int | None:
    away = (angle > AWAY_DEG).nonzero()[:, 0]
    away = away[away > 0]
    return None if len(away) == 0 else int(away[(away - b).abs().argmin()])


class Closure(NamedTuple):
    """How far a path that should have closed has not: degrees, and metres over the metres walked."""

    degrees: float
    share_of_path: float


def loop_closure(commanded: Tensor, realised: Tensor) -> Closure:
    """Return the error of the pose of the last frame relative to the first, of paths `(n, 4, 4)`.

    With an exactly closed path it is angle(R'_0^T R'_N) and |t'_N - t'_0| / path length.
    """
    wanted = invert_rigid(commanded[:1]) @ commanded[-1:]
    got = invert_rigid(realised[:1]) @ realised[-1:]
    error = (invert_rigid(wanted) @ got)[0]
    length = float((commanded[1:, :3, 3] - commanded[:-1, :3, 3]).norm(dim=-1).sum())
    turned = rotation_angle_deg(error[None, :3, :3], torch.eye(3, dtype=error.dtype)[None])
    metres = float(error[:3, 3].norm())
    return Closure(float(turned[0]), metres / length if length > 1e-3 else float("nan"))

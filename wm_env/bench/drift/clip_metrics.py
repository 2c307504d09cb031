"""What one rollout scores beside the columns: statistics, latency, revisits, poses.

Frames are averaged within a bin (`wm_env.bench.drift.bins`), never pooled over walks.
Legend: `F` frames, `n` bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.drift.bins import bin_means, bin_of
from wm_env.bench.drift.revisit import revisit_pairs
from wm_env.model.metrics.appearance import COMPONENTS, frame_statistics
from wm_env.model.metrics.camera import frame_errors, motion_vectors, pose_errors
from wm_env.model.metrics.images import psnr
from wm_env.model.metrics.motion import motion_energy, seam

STATISTICS_EVERY = 3  # frames between samples; not the chunk length, whose seams would be all one saw
ENDS = 0.15  # share of the frames at either end that start-end contrast compares
LATEST = 12  # frames, the longest latency looked for
KNOWN = 0.6  # share of a view, from which on a world that was shown it knows what to draw


def appearance_scores(frames: Tensor, bins: int, chunk: int) -> dict[str, Any]:
    """Return mean and variance of every statistic per bin, the seam, and the start-end contrast.

    drift15_STATISTIC = |mean over the first 15% of frames - mean over the last 15%|, as FramePack has it.
    """
    where = bin_of(len(frames) - 1, bins)
    some = np.arange(1, len(frames), STATISTICS_EVERY)
    found = frame_statistics(frames[some], frames[some - 1])
    inside = where[some - 1]
    means = {name: bin_means(found[name].numpy(), inside, bins) for name in COMPONENTS}
    squares = {name: bin_means(found[name].square().numpy(), inside, bins) for name in COMPONENTS}
    variances = {
        name: [max(0.0, s - m * m) for s, m in zip(squares[name], means[name], strict=True)]
        for name in COMPONENTS
    }
    ends = max(1, round(ENDS * len(some)))
    contrast = {
        f"drift15_{name}": float((values[:ends].mean() - values[-ends:].mean()).abs())
        for name, values in found.items()
    }
    return {"statistics": means, "variances": variances, "seam": seam(frames, chunk), "drift15": contrast}


def latency_scores(frames: Tensor, wanted: np.ndarray) -> dict[str, float]:
    """Return by how many frames the picture's motion follows the wanted motion `(F,)`, and how well.

    frames: the lag in 0 .. 12 at which the correlation of the two motion energies is largest; correlation:
    that correlation. NaN where either side hardly changes: a steady motion has no latency to be seen.
    """
    own = motion_energy(frames).numpy()
    nothing = {"frames": float("nan"), "correlation": float("nan")}
    if len(own) < 4 * LATEST or wanted.std() < 0.05 * max(wanted.mean(), 1e-9) or own.std() < 1e-6:
        return nothing
    length = len(own) - LATEST
    found = [np.corrcoef(own[lag : lag + length], wanted[:length])[0, 1] for lag in range(LATEST + 1)]
    best = int(np.argmax(found))
    return {"frames": float(best), "correlation": float(found[best])} if np.isfinite(found).all() else nothing


def wanted_motion(truth: Tensor | None, c2w: Tensor) -> np.ndarray:
    """Return the motion `(F,)` that a clip should show: the truth's energy, else the commanded speed.

    c2w: `(1 + F, 4, 4)`. Speed is metres a frame plus half a metre times radians a frame.
    """
    if truth is not None:
        return motion_energy(truth).numpy()
    steps = torch.linalg.inv(c2w[:-1]) @ c2w[1:]
    vector = motion_vectors(steps)  # (F, 6)
    return (vector[:, :3].norm(dim=1) + 0.5 * vector[:, 3:].norm(dim=1)).numpy()


def revisit_scores(frames: Tensor, truth: Tensor | None, c2w: Tensor, fps: int) -> list[dict[str, Any]]:
    """Return one record per revisit pair: gap (s), PSNR to itself, to the control, and to the truth."""
    records = []
    for pair in revisit_pairs(c2w):
        itself = float(psnr(frames[pair.a], frames[pair.b]))
        control = None if pair.control is None else float(psnr(frames[pair.a], frames[pair.control]))
        records.append(
            {
                "gap_s": (pair.b - pair.a) / fps,
                "itself": itself,
                "control": control,
                "memory": None if control is None else itself - control,
                "truth": None if truth is None else float(psnr(frames[pair.b], truth[pair.b])),
            }
        )
    return records


def pose_scores(
    commanded: Tensor,
    realised: Tensor,
    frames: np.ndarray,
    total: int,
    bins: int,
    lost: np.ndarray,
    shown: np.ndarray,
) -> dict[str, Any]:
    """Return RotErr, TransErr and CamMC per bin, unaligned (`first`) and aligned as published (`upstream`).

    commanded, realised: `(m, 4, 4)` poses of the sampled frames `(m,)`, frame 0 first, out of `total`.
    lost: `(m,)` bool, samples without an estimate; they count in `lost_share` alone. shown: `(m,)`, share
    of the true view that the world was shown before the walk; `known` has the unaligned errors where that is
    at least `KNOWN`.
    `relative`: error of the motion from one sample to the next, in degrees and metres.
    """
    where = bin_of(total, bins)[frames[1:] - 1]
    out: dict[str, Any] = {}
    for mode in ("first", "upstream"):
        errors = pose_errors(commanded, realised, mode)
        names = zip(("rot_err_deg", "trans_err", "cammc"), errors, strict=True)
        found = {name: _known(value, lost)[1:] for name, value in names}
        out[mode] = {name: bin_means(value, where, bins) for name, value in found.items()}
        if mode == "first":
            out["known"] = {
                name: bin_means(np.where(shown[1:] >= KNOWN, value, np.nan), where, bins)
                for name, value in found.items()
            }
    step_true = torch.linalg.inv(commanded[:-1]) @ commanded[1:]
    step_real = torch.linalg.inv(realised[:-1]) @ realised[1:]
    relative = frame_errors(step_true, step_real)
    out["relative"] = {
        "deg": bin_means(_known(relative.rotation_deg, lost[1:] | lost[:-1]), where, bins),
        "m": bin_means(_known(relative.translation, lost[1:] | lost[:-1]), where, bins),
    }
    out["lost_share"] = bin_means(lost[1:].astype(float), where, bins)
    known = torch.from_numpy(~(lost[1:] | lost[:-1]))
    asked, got = motion_vectors(step_true[known]), motion_vectors(step_real[known])  # (m', 6)
    out["motion"] = {"asked_asked": (asked.T @ asked).tolist(), "got_asked": (got.T @ asked).tolist()}
    return out


def _known(errors: Tensor, lost: np.ndarray) -> np.ndarray:
    return np.where(lost, np.nan, errors.numpy())

"""What is measured of a clip with poses before it is accepted, each number as `recipe.toml` bounds it.

Sharpness of a frame: how much of its gradients a blur of three pixels takes away,
s = min over x, y of 1 - sum |d(blur(g))| / sum |d(g)|, g grey; about 0.5 for fine texture, near 0 for blur.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from wm_env.annotation.recipe import Filters
from wm_env.annotation.structure import unit_change
from wm_env.annotation.values import Matches, Scale, Structure, Track

WINDOWS = 16
AROUND = 2  # frames on both sides of a step
STILL = 0.002  # of the median depth: a step that is smaller is none
SEEN = 12  # frames whose sharpness is measured


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Numbers of a clip; None where they cannot be told.

    share_placed: frames of the run over frames of the clip. error, error_worst: reprojection error of all
    observations over the width, the median, and that of the worst of 16 windows. agree, agree_worst: share of
    observations nearer than `Filters.within`. observations: points seen in a frame, median. parallax_deg:
    angle of the rays to a point, median. path: length over the median depth. speed: metres per second, 95th
    percentile. jump: largest step over those before and after it, and the median of all. turn_deg: largest
    turn between frames. sharp: 10th percentile over frames. fov_deg: horizontal, median. zoom: largest change
    of the focal length over its median. scale_interval: width of the scale's 95% interval over the scale.
    unit_change: largest change of the poses' unit within the run, see `structure.unit_change`.
    """

    share_placed: float
    error: float | None
    error_worst: float | None
    agree: float | None
    agree_worst: float | None
    observations: float
    parallax_deg: float | None
    path: float | None
    speed: float | None
    jump: float | None
    turn_deg: float
    sharp: float
    fov_deg: float
    zoom: float
    scale_interval: float | None
    unit_change: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return them by name."""
        return asdict(self)


def measure(
    frames: np.ndarray,
    track: Track,
    structure: Structure,
    scale: Scale | None,
    *,
    matches: Matches,
    of: int,
    fps: float,
    settings: Filters,
) -> Measures:
    """Return the measures of a run.

    frames: uint8 `(n, h, w, 3)` of the track's rows. matches: what the structure is made of. scale: metres in
    a unit, None where nobody knows. of: frames of the whole clip.
    """
    width, count = frames.shape[2], len(track.frames)
    free = track.motion == "free"
    error = structure.error / width
    near = error < settings.within
    window = structure.row * WINDOWS // count
    known = free and len(error) > 0
    parts = [window == one for one in range(WINDOWS) if (window == one).any()] if known else []
    ahead = structure.depth[np.isfinite(structure.error) & np.isfinite(structure.depth)]
    depth = float(np.median(ahead)) if free and len(ahead) else None
    step = np.linalg.norm(np.diff(track.c2w[:, :3, 3], axis=0), axis=1)
    focal = track.intrinsics[:, 0]
    usual = float(np.median(focal))
    per_frame = np.bincount(structure.row, minlength=count)
    return Measures(
        share_placed=count / of,
        error=float(np.median(error)) if known else None,
        error_worst=max(float(np.median(error[part])) for part in parts) if parts else None,
        agree=float(near.mean()) if known else None,
        agree_worst=min(float(near[part].mean()) for part in parts) if parts else None,
        observations=float(np.median(per_frame)),
        parallax_deg=float(np.median(structure.angle_deg)) if known else None,
        path=float(step.sum()) / depth if depth else None,
        speed=float(np.quantile(step, 0.95)) * scale.factor * fps if scale and len(step) else None,
        jump=_jump(step, STILL * depth) if depth and len(step) else None,
        turn_deg=_turn(track.c2w),
        sharp=sharpness(frames),
        fov_deg=math.degrees(2 * math.atan(width / 2 / usual)),
        zoom=float(np.abs(focal / usual - 1).max()),
        scale_interval=_interval(scale),
        unit_change=unit_change(matches, track, settings.within * width) if known else None,
    )


def _jump(step: np.ndarray, still: float) -> float:
    """Return the largest step over its neighbours and the median of all: who starts to walk does not jump."""
    padded = np.pad(step, AROUND)
    around = np.stack([padded[at : at + len(step)] for at in range(2 * AROUND + 1) if at != AROUND])
    usual = np.maximum(np.maximum(around.max(0), np.median(step)), still)
    return float((step / usual).max())


def _turn(c2w: np.ndarray) -> float:
    """Return the largest angle between two poses in a row, degrees."""
    if len(c2w) < 2:
        return 0.0
    chord = np.linalg.norm(c2w[1:, :3, :3] - c2w[:-1, :3, :3], axis=(1, 2)) / math.sqrt(8)
    return float(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))).max())


def sharpness(frames: np.ndarray) -> float:
    """Return the sharpness of the duller tenth of frames uint8 `(n, h, w, 3)`, in [0, 1]."""
    rows = np.unique(np.linspace(0, len(frames) - 1, SEEN).astype(int))
    return float(np.quantile([_sharp(frames[row]) for row in rows], 0.1))


def _sharp(frame: np.ndarray) -> float:
    grey = frame.astype(np.float64).mean(-1)
    shares = []
    for picture in (grey, grey.T):
        blurred = (picture[:-2] + picture[1:-1] + picture[2:]) / 3
        whole = np.abs(np.diff(picture[1:-1], axis=0)).sum()
        shares.append(1 - np.abs(np.diff(blurred, axis=0)).sum() / whole if whole > 0 else 0.0)
    return float(max(0.0, min(shares)))


def _interval(scale: Scale | None) -> float | None:
    if scale is None or scale.low is None or scale.high is None:
        return None
    return (scale.high - scale.low) / scale.factor

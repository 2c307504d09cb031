"""Recorded clips before they become training data: frames, and a pose and a camera for every one of them.

A layout lists `RecordedClip` values cheaply, without decoding a frame. `check_clip` then reads one clip to
its end and keeps its frames at the size that is trained on, or raises `ValueError` saying what is
wrong with it:

    poses         finite, rigid, without jumps
    frames        decodable, as many as poses, all of one size, none enlarged
    intrinsics    25-120 degrees of view after the crop, one camera for the whole clip (no zoom)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.geometry import check_rigid, rotation_angle_deg
from wm_env.model.intrinsics import check_intrinsics, cover_crop, crop_intrinsics

MAX_TURN_DEG = 45.0  # between two frames; more is a cut
MAX_JUMP = 10.0  # a step this many times its neighbours and the clip's median is a cut,
MIN_JUMP = 0.5  # if it is this many metres: less is a camera that stood, blocked or idle, and moved once
MAX_ZOOM = 0.02  # change of the intrinsics within a clip, in focal lengths


@dataclass(frozen=True, kw_only=True)
class RecordedClip:
    """One recorded clip of F frames.

    name: what reports call it. c2w: `(F, 4, 4)` float64, metres, any world frame. intrinsics: `(F, 4)`
    float64 fx, fy, cx, cy in pixels of the frames, or, where `normalised`, in image widths and heights.
    caption: text of the scene. frames: a function that yields the F frames uint8 `(H, W, 3)`, decoding as it
    goes; it raises `ValueError` where a frame cannot be read.
    """

    name: str
    c2w: Tensor
    intrinsics: Tensor
    normalised: bool = False
    caption: str = ""
    frames: Callable[[], Iterator[np.ndarray]]


class Problem(NamedTuple):
    """Why a clip cannot be used. filtered: it is sound but its scores are outside the bounds asked for."""

    clip: str
    what: str
    filtered: bool = False


ClipRef = RecordedClip | Problem


class CheckedClip(NamedTuple):
    """A sound clip at the size of the training data.

    rgb: path of a `.npy`, uint8 `(F, S, S, 3)`. c2w: `(F, 4, 4)` float64. intrinsics: `(4,)` float64 in
    pixels of `rgb`. source: height and width of the frames as recorded.
    """

    name: str
    rgb: Path
    c2w: Tensor
    intrinsics: Tensor
    caption: str
    source: tuple[int, int]

    @property
    def frames(self) -> int:
        return len(self.c2w)


def check_clip(clip: RecordedClip, *, size: int, every: int, scale: float, rgb: Path) -> CheckedClip:
    """Return every `every`-th frame of a clip, cropped and resized to `size`; writes them to `rgb`.

    scale: factor on the translations that makes them metres. Raises `ValueError` naming the fault.
    """
    c2w = clip.c2w.double().clone()
    c2w[..., :3, 3] *= scale
    check_poses(c2w)
    if clip.intrinsics.shape != (len(clip.c2w), 4) or not bool(torch.isfinite(clip.intrinsics).all()):
        raise ValueError(
            f"intrinsics {tuple(clip.intrinsics.shape)} are not {len(clip.c2w)} finite rows of 4"
        )
    kept, source, count = [], (0, 0), 0
    for frame in clip.frames():
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame {count} is {frame.dtype} {frame.shape}; expected uint8 (H, W, 3)")
        height, width = frame.shape[:2]
        if count == 0:
            source = (height, width)
            if min(source) < size:
                raise ValueError(f"frames of {width}x{height} would be enlarged to {size}x{size}")
        elif (height, width) != source:
            raise ValueError(f"frame {count} is {width}x{height}, those before it {source[1]}x{source[0]}")
        if count % every == 0:
            kept.append(shrink(frame, size))
        count += 1
    if count != len(clip.c2w):
        raise ValueError(f"{count} frames for {len(clip.c2w)} poses")
    intrinsics = one_camera(clip, source, size)
    np.save(rgb, np.stack(kept))
    return CheckedClip(clip.name, rgb, c2w[::every], intrinsics, clip.caption, source)


def check_poses(c2w: Tensor) -> None:
    """Raise `ValueError` unless poses `(F, 4, 4)` in metres are finite, rigid and without jumps."""
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or not len(c2w):
        raise ValueError(f"poses have shape {tuple(c2w.shape)}; expected (F, 4, 4) camera-to-world")
    finite = torch.isfinite(c2w).flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(f"pose {int((~finite).nonzero()[0, 0])} holds NaN or infinity")
    check_rigid(c2w)
    if len(c2w) < 2:
        return
    turn = rotation_angle_deg(c2w[:-1, :3, :3], c2w[1:, :3, :3])  # (F - 1,)
    if float(turn.max()) > MAX_TURN_DEG:
        at = int(turn.argmax())
        raise ValueError(
            f"the camera turns {float(turn[at]):.0f} deg between frames {at} and {at + 1} (a cut?)"
        )
    step = (c2w[1:, :3, 3] - c2w[:-1, :3, 3]).norm(dim=-1)  # (F - 1,)
    around = F.pad(step, (1, 1))
    usual = torch.maximum(torch.maximum(around[:-2], around[2:]), step.median()).clamp_min(1e-6)
    ratio = torch.where(step > MIN_JUMP, step / usual, 0.0)
    at = int(ratio.argmax())
    if float(ratio[at]) > MAX_JUMP:
        raise ValueError(
            f"the camera jumps {float(step[at]):.3g} m between frames {at} and {at + 1}, "
            f"{float(ratio[at]):.0f} times its usual step (a cut?)"
        )


def one_camera(clip: RecordedClip, source: tuple[int, int], size: int) -> Tensor:
    """Return the intrinsics `(4,)` of the cropped frames; raise `ValueError` for a zoom or an absurd view."""
    height, width = source
    rows = clip.intrinsics.double()
    if clip.normalised:
        rows = rows * rows.new_tensor([width, height, width, height])
    first = rows[0]
    if not bool((rows[:, :2] > 0).all()):
        raise ValueError(f"focal lengths must be positive; frame 0 has {first[:2].tolist()}")
    change = float(((rows - first).abs().amax(0) / first[0]).max())
    if change > MAX_ZOOM:
        raise ValueError(
            f"the intrinsics change by {100 * change:.0f}% of the focal length; a clip has one camera"
        )
    resized, corner = cover_crop(source, (size, size))
    cropped = crop_intrinsics(first, source, resized, corner)
    check_intrinsics(cropped, size, size)
    return cropped


def shrink(frame: np.ndarray, size: int) -> np.ndarray:
    """Return the centre of a frame uint8 `(H, W, 3)` as uint8 `(size, size, 3)`: resized, then cropped."""
    source = (frame.shape[0], frame.shape[1])
    resized, (top, left) = cover_crop(source, (size, size))
    if resized == source:
        return frame[top : top + size, left : left + size].copy()
    x = torch.tensor(frame).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
    x = F.interpolate(x, resized, mode="bicubic", antialias=True)[0, :, top : top + size, left : left + size]
    return x.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()

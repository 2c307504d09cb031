"""Recorded clips before they become training data: frames, and a pose and a camera for every one of them.

A layout lists `RecordedClip` values cheaply, without decoding a frame. `check_clip` then reads one clip to
its end and keeps its frames at the size that is trained on, or raises `ValueError` saying what is
wrong with it:

    poses         finite, rigid, without jumps
    frames        decodable, as many as poses, all of one size, none enlarged
    intrinsics    25-120 degrees of view after the crop, one camera for the whole clip (no zoom)
    views         a frame and the next share some of what they see
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.data.lens import check_pinhole
from wm_env.model.geometry import check_rigid, rotation_angle_deg
from wm_env.model.intrinsics import check_intrinsics, check_principal_point, cover_crop, crop_intrinsics

MAX_TURN_DEG = 45.0  # between two frames; more is a cut
MAX_JUMP = 10.0  # a step this many times its neighbours and the clip's median is a cut,
MIN_JUMP = 0.5  # if it is this many metres: less is a camera that stood, blocked or idle, and moved once
MAX_ZOOM = 0.02  # change of the intrinsics within a clip, in focal lengths
MAX_STEP = 2.0  # metres from frame to frame, median; 115 km/h at 16 frames per second
MAX_STRETCH = 0.02  # of the proportions of a picture, against the size that its camera was said for
MIN_OVERLAP = 0.1  # share of what is far away that two frames in a row have to see both


def no_rate() -> float | None:
    """Return None: the frames have no times."""
    return None


@dataclass(frozen=True, kw_only=True)
class RecordedClip:
    """One recorded clip of F frames.

    name: what reports call it. c2w: `(F, 4, 4)` float64, metres, any world frame. intrinsics: `(F, 4)`
    float64 fx, fy, cx, cy in pixels of the frames, or, where `normalised`, in image widths and heights.
    size: height and width that the camera was said for, None where nothing says them; frames may be scaled,
    but not stretched. lens: its numbers that are not yet known to be a pinhole's. metric: whether the
    layout's unit is the metre; else it is arbitrary. needs_scale: whether the clip says so itself and is
    refused until a scale is given. caption: text of the scene. rate: a function that
    returns the frames per second, None where nothing says them; it may have to read a film. frames: a
    function that yields the F frames uint8 `(H, W, 3)`, decoding as it goes; it raises `ValueError` where a
    frame cannot be read.
    """

    name: str
    c2w: Tensor
    intrinsics: Tensor
    normalised: bool = False
    size: tuple[float, float] | None = None
    lens: Mapping[str, float] = field(default_factory=dict)
    metric: bool = True
    needs_scale: bool = False
    caption: str = ""
    rate: Callable[[], float | None] = no_rate
    frames: Callable[[], Iterator[np.ndarray]]


def check_scale(clip: RecordedClip, scale: float | None) -> None:
    """Raise `ValueError` where the poses of a clip are up to scale and none is given (None)."""
    if clip.needs_scale and scale is None:
        raise ValueError(
            "its poses are up to scale: their unit is unknown; annotate the film again with something "
            "that is known about the place (docs/clips.md), or give scale=, the metres in a unit"
        )


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
    check_scale(clip, None if scale == 1.0 else scale)  # 1 is what nobody has given
    c2w = clip.c2w.double().clone()
    c2w[..., :3, 3] *= scale
    check_poses(c2w)
    if clip.intrinsics.shape != (len(clip.c2w), 4) or not bool(torch.isfinite(clip.intrinsics).all()):
        raise ValueError(
            f"intrinsics {tuple(clip.intrinsics.shape)} are not {len(clip.c2w)} finite rows of 4"
        )
    kept, source = [], (0, 0)
    for index, frame in enumerate(whole_frames(clip)):
        source = (frame.shape[0], frame.shape[1])
        if index % every == 0:
            kept.append(shrink(frame, (size, size)))
    intrinsics = one_camera(clip, source, (size, size))
    check_overlap(c2w, intrinsics, (size, size))
    np.save(rgb, np.stack(kept))
    return CheckedClip(clip.name, rgb, c2w[::every], intrinsics, clip.caption, source)


def whole_frames(clip: RecordedClip) -> Iterator[np.ndarray]:
    """Yield the frames of a clip, uint8 `(H, W, 3)`.

    Raises `ValueError` for one that cannot be read or has another size than those before, and at the end
    where there are more or fewer than poses.
    """
    source, count = (0, 0), 0
    for frame in clip.frames():
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame {count} is {frame.dtype} {frame.shape}; expected uint8 (H, W, 3)")
        height, width = frame.shape[:2]
        if count == 0:
            source = (height, width)
        elif (height, width) != source:
            raise ValueError(
                f"frame {count} is {width}x{height}, those before it {source[1]}x{source[0]}; "
                "make all frames of a clip one size"
            )
        yield frame
        count += 1
    if count != len(clip.c2w):
        raise ValueError(f"{count} frames for {len(clip.c2w)} poses; give one pose for every frame")


def rate_of(times: Sequence[float]) -> float | None:
    """Return the frames per second of frames at `times` in seconds: 1 / the median step.

    None for fewer than two frames. Raises `ValueError` where the times do not grow.
    """
    if len(times) < 2:
        return None
    steps = np.diff(np.asarray(times, np.float64))
    if not (steps > 0).all():
        at = int((~(steps > 0)).argmax())
        raise ValueError(
            f"the times of frames {at} and {at + 1} are {times[at]} s and {times[at + 1]} s; sort them"
        )
    return float(1 / np.median(steps))


def in_shares(camera: Tensor, height: float, width: float) -> Tensor:
    """Return intrinsics `(..., 4)` in pixels of pictures of this size as shares of width and height.

    Raises `ValueError` for a size that no picture has.
    """
    if not (1 <= height < 1e6 and 1 <= width < 1e6):
        raise ValueError(f"the pictures are said to be {width:g}x{height:g}; expected pixels")
    return camera / camera.new_tensor([width, height, width, height])


def one_size(sizes: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the size (height, width) that the cameras of all frames were said for; `ValueError` for two."""
    first, *others = dict.fromkeys(sizes)
    if others:
        raise ValueError(
            f"the cameras were said for pictures of {first[1]:g}x{first[0]:g} and of "
            f"{others[0][1]:g}x{others[0][0]:g}; a clip has one size"
        )
    return first


def check_overlap(c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> None:
    """Raise `ValueError` unless every frame of poses `(F, 4, 4)` shows a part of what the next one shows.

    intrinsics `(4,)` in pixels of frames of `size` (height, width). The part is counted among rays, over the
    picture, to what is far away: only the turn between two frames counts, so no depth is needed, and a step
    aside is not seen.
    """
    height, width = size
    side = 9
    across = torch.stack(
        torch.meshgrid(
            (torch.arange(side, dtype=torch.float64) + 0.5) / side,
            (torch.arange(side, dtype=torch.float64) + 0.5) / side,
            indexing="xy",
        ),
        dim=-1,
    )  # (side, side, 2), shares of width and height
    fx, fy, cx, cy = intrinsics.double().tolist()
    rays = torch.stack(
        [
            (across[..., 0] * width - cx) / fx,
            (across[..., 1] * height - cy) / fy,
            torch.ones(side, side, dtype=torch.float64),
        ],
        dim=-1,
    ).reshape(-1, 3)
    rotation = c2w[..., :3, :3].double()
    turned = rotation[1:].transpose(-1, -2) @ rotation[:-1]  # (F - 1, 3, 3), from frame i to frame i + 1
    x, y, z = (rays @ turned.transpose(-1, -2)).unbind(-1)  # (F - 1, side^2) each
    ahead = z.clamp_min(1e-9)
    u, v = fx * x / ahead + cx, fy * y / ahead + cy
    shared = ((z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)).double().mean(-1)  # (F - 1,)
    if len(shared) and float(shared.min()) < MIN_OVERLAP:
        at = int(shared.argmin())
        raise ValueError(
            f"frames {at} and {at + 1} have {100 * float(shared[at]):.0f}% of their view in common, at least "
            f"{100 * MIN_OVERLAP:.0f}% is needed; keep the frames between them, or cut the clip there"
        )


def check_poses(c2w: Tensor) -> None:
    """Raise `ValueError` unless poses `(F, 4, 4)` in metres are finite, rigid and without jumps."""
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or not len(c2w):
        raise ValueError(f"poses have shape {tuple(c2w.shape)}; expected (F, 4, 4) camera-to-world")
    finite = torch.isfinite(c2w).flatten(1).all(1)
    if not bool(finite.all()):
        at = int((~finite).nonzero()[0, 0])
        raise ValueError(f"pose {at} holds NaN or infinity; leave out frames without a pose")
    check_rigid(c2w)
    if len(c2w) < 2:
        return
    turn = rotation_angle_deg(c2w[:-1, :3, :3], c2w[1:, :3, :3])  # (F - 1,)
    if float(turn.max()) > MAX_TURN_DEG:
        at = int(turn.argmax())
        raise ValueError(
            f"the camera turns {float(turn[at]):.0f} deg between frames {at} and {at + 1} (a cut?); at most "
            f"{MAX_TURN_DEG:.0f} are expected, so cut the clip there"
        )
    step = (c2w[1:, :3, 3] - c2w[:-1, :3, 3]).norm(dim=-1)  # (F - 1,)
    usual_step = float(step.median())
    if usual_step > MAX_STEP:
        raise ValueError(
            f"the camera moves {usual_step:.3g} m a frame (median), more than {MAX_STEP:g}; poses have to be "
            "in metres: give a scale (0.001 for millimetres, 0.01 for centimetres)"
        )
    around = F.pad(step, (1, 1))
    usual = torch.maximum(torch.maximum(around[:-2], around[2:]), step.median()).clamp_min(1e-6)
    ratio = torch.where(step > MIN_JUMP, step / usual, 0.0)
    at = int(ratio.argmax())
    if float(ratio[at]) > MAX_JUMP:
        raise ValueError(
            f"the camera jumps {float(step[at]):.3g} m between frames {at} and {at + 1}, "
            f"{float(ratio[at]):.0f} times its usual step (a cut?); cut the clip there"
        )


def one_camera(clip: RecordedClip, source: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the intrinsics `(4,)` of frames of `source` cropped to `size`, both (height, width).

    Raises `ValueError` for a zoom, an absurd view, or frames that would be enlarged.
    """
    height, width = source
    if height < size[0] or width < size[1]:
        raise ValueError(f"frames of {width}x{height} would be enlarged to {size[1]}x{size[0]}; ask for less")
    if clip.size is not None and abs(height / width * clip.size[1] / clip.size[0] - 1) > MAX_STRETCH:
        raise ValueError(
            f"frames are {width}x{height}, the camera was said for {clip.size[1]:g}x{clip.size[0]:g}, of "
            "other proportions; give the camera of these pictures (turned or cropped after it was written?)"
        )
    rows = clip.intrinsics.double()
    if clip.normalised:
        rows = rows * rows.new_tensor([width, height, width, height])
    first = rows[0]
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"intrinsics hold NaN or infinity, in frame 0 {first.tolist()}; expected pixels")
    if not bool((rows[:, :2] > 0).all()):
        raise ValueError(f"focal lengths must be positive; frame 0 has {first[:2].tolist()}")
    change = float(((rows - first).abs().amax(0) / first[0]).max())
    if change > MAX_ZOOM:
        raise ValueError(
            f"the intrinsics change by {100 * change:.0f}% of the focal length; a clip has one camera; "
            "cut it where it zooms"
        )
    check_principal_point(first, height, width)
    check_pinhole(clip.lens, first, source, "undistort the pictures")
    resized, corner = cover_crop(source, size)
    cropped = crop_intrinsics(first, source, resized, corner)
    check_intrinsics(cropped, *size)
    return cropped


def shrink(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the centre of a frame uint8 `(H, W, 3)` as uint8 `(*size, 3)`: resized, then cropped."""
    source = (frame.shape[0], frame.shape[1])
    resized, (top, left) = cover_crop(source, size)
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    if resized == source:
        return frame[rows, columns].copy()
    x = torch.tensor(frame).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
    x = F.interpolate(x, resized, mode="bicubic", antialias=True)[0, :, rows, columns]
    return x.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()

"""A posed clip: real pictures in a row, each with the pose it was taken at, and the camera that took them.

`PosedClip` is checked when it is made, whoever makes it. `load` finds out what a path holds
(`model/data/layouts`), `save` writes a folder that `load` gives back bit for bit:

    CLIP/
        camera.json         c2w, intrinsics, fps, caption
        frames/000000.png   one per frame, lossless
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.layouts.detect import find_clip
from wm_env.model.data.layouts.pictures import Pictures
from wm_env.model.data.recorded import (
    RecordedClip,
    check_overlap,
    check_poses,
    check_scale,
    one_camera,
    shrink,
    whole_frames,
)
from wm_env.model.geometry import check_rigid, invert_rigid, relative_to_last
from wm_env.model.intrinsics import check_intrinsics, cover_crop, crop_intrinsics
from wm_env.model.isolation import undisturbed
from wm_env.model.plain_arrays import numbers_of
from wm_env.model.png import png_bytes
from wm_env.model.storage.atomic import atomic_folder, expanded
from wm_env.model.storage.facts import PATH, brief, number, shown

MIN_FRAMES = 5  # the start and one chunk of 4 frames; worlds with longer chunks need more (`ending`)
MIN_RATE = 0.75  # of the wanted frame rate; a slower clip is refused, since frames cannot be made up
MAX_BYTES = 4 * 2**30  # of frames in memory


@dataclass(frozen=True, eq=False, repr=False)
class PosedClip:
    """Frames of a place with the poses they were taken at; what a world can be started from.

    frames      uint8 `(F, h, w, 3)`, RGB, at least 5
    c2w         float64 `(F, 4, 4)`, camera-to-world of every frame, metres, OpenCV axes: x right, y down,
                z forward; any world frame
    intrinsics  float64 `(4,)`, fx, fy, cx, cy in pixels of the frames; one camera, so a zoom is no clip
    fps         frames per second, taken as even; a frame keeps its own pose whatever its true time was
    caption     what the place looks like, None where nobody said it

    Arrays or tensors are copied and cannot be written to. Raises `ValueError` in one sentence for more or
    fewer frames than poses, frames of another type, too few of them, poses that are NaN, not rigid or jump,
    two frames in a row with nothing in common, an impossible camera and a frame rate that is not positive.
    """

    frames: np.ndarray
    c2w: np.ndarray
    intrinsics: np.ndarray
    fps: float
    caption: str | None = None

    @undisturbed()
    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", _constant(self.frames, None))
        object.__setattr__(self, "c2w", _constant(self.c2w, np.float64))
        object.__setattr__(self, "intrinsics", _constant(self.intrinsics, np.float64))
        object.__setattr__(self, "fps", _positive("fps", self.fps))
        if self.caption is not None and not isinstance(self.caption, str):
            raise ValueError(f"caption is a {type(self.caption).__name__}; expected a text or None")
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(
                f"frames are {self.frames.dtype} {self.frames.shape}; expected uint8 (F, h, w, 3), RGB"
            )
        if self.c2w.ndim != 3:
            raise ValueError(f"poses have shape {self.c2w.shape}; expected (F, 4, 4) camera-to-world")
        if len(self.frames) != len(self.c2w):
            raise ValueError(
                f"{len(self.frames)} frames for {len(self.c2w)} poses; give one pose for every frame"
            )
        check_length(len(self.c2w), 4)
        poses, camera = torch.tensor(self.c2w), torch.tensor(self.intrinsics)
        check_poses(poses)
        if self.intrinsics.shape != (4,):
            raise ValueError(
                f"intrinsics have shape {self.intrinsics.shape}; expected (4,): fx, fy, cx, cy, one camera "
                "for the whole clip"
            )
        check_intrinsics(camera, *self.size)
        check_overlap(poses, camera, self.size)

    def __repr__(self) -> str:
        height, width = self.size
        return f"PosedClip({len(self)} frames of {width}x{height}, {self.fps:g} fps, {self.caption!r})"

    def __len__(self) -> int:
        """Return the number of frames F."""
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    @classmethod
    @undisturbed()
    def load(
        cls,
        path: str | Path,
        *,
        fps: float | None = None,
        scale: float | None = None,
        intrinsics: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> PosedClip:
        """Return the clip that a path holds: a folder that `save` wrote, or a layout of docs/clips.md.

        fps: pictures per second; overrides what is recorded, needed where nothing is (photographs, COLMAP).
        scale: factor on the translations that makes them metres. None is 1, with a warning where the layout
        has a unit of its own (COLMAP, RealEstate10K); a clip that says it is up to scale is refused.
        intrinsics: fx, fy, cx, cy in pixels of the frames as stored; overrides what is recorded.
        size: height and width; frames are resized and cropped around the centre while they are read, the
        intrinsics with them. None keeps the frames as they are.

        Raises `ValueError` in one sentence for a path that holds no clip, or several, and for a clip that
        cannot be used; `FileNotFoundError` where there is nothing; `ImportError` naming the extra that reads
        COLMAP models.
        """
        from wm_env.model.data.clip_files import ClipFiles  # here alone: values need no decoder

        pictures: Pictures = ClipFiles()
        try:
            found = find_clip(expanded(path), pictures, intrinsics)
            return _read(found, fps, scale, size)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{shown(str(path), PATH)}: {error}") from error
        except OSError as error:
            if error.filename is None:
                raise
            raise type(error)(f"{shown(str(path), PATH)} cannot be read: {error.strerror}") from error

    def save(self, path: str | Path, *, metric: bool = True) -> Path:
        """Write the clip as a folder, which appears when it is complete, and return its path.

        `load` gives the same bits back. metric: False where the unit of the poses is not the metre; `load`
        then refuses the clip until it is told the metres in a unit. Raises `FileExistsError` where something
        is there already.
        """
        with atomic_folder(path) as temporary:
            (temporary / "frames").mkdir()
            for index, frame in enumerate(self.frames):
                (temporary / "frames" / f"{index:06d}.png").write_bytes(png_bytes(frame))
            values = {
                "c2w": self.c2w.tolist(),  # JSON numbers are written so that they read back exactly
                "intrinsics": self.intrinsics.tolist(),
                "fps": self.fps,
                "caption": self.caption,
                **({} if metric else {"metric": False}),
            }
            (temporary / "camera.json").write_text(json.dumps(values) + "\n", encoding="utf-8")
        return expanded(path)

    @undisturbed()
    def from_last(self) -> np.ndarray:
        """Return the poses `(F, 4, 4)` float64 relative to the last frame, whose pose is the identity."""
        return relative_to_last(torch.tensor(self.c2w)).numpy()

    def relative_to(self, pose: np.ndarray) -> PosedClip:
        """Return the clip with poses as seen from `pose` `(4, 4)`: pose^-1 c2w, both of one world frame.

        For `observe`: pose is where the episode started, the last one of the clip it was started from.
        """
        start = torch.as_tensor(np.array(pose, np.float64))
        if start.shape != (4, 4):
            raise ValueError(f"pose has shape {tuple(start.shape)}; expected (4, 4), camera-to-world")
        check_rigid(start[None])
        return replace(self, c2w=(invert_rigid(start)[None] @ torch.tensor(self.c2w)).numpy())

    @undisturbed()
    def resampled(self, fps: float) -> PosedClip:
        """Return the clip at another frame rate: the recorded frames nearest in time, each with its own pose.

        The wanted times go back from the last frame, which stays. No frame is made, blended or repeated and
        no pose interpolated: a picture is true only at the pose it was taken at, and the world reads the
        poses, so a frame up to half a recorded interval off its time is a slightly uneven step and not an
        error. A clip up to a quarter slower than `fps` is kept frame by frame (15 for 16); a slower one
        raises `ValueError`.
        """
        wanted = _positive("fps", fps)
        if self.fps < MIN_RATE * wanted:
            raise ValueError(
                f"the clip has {self.fps:g} frames per second, {wanted:g} are wanted and frames cannot be "
                f"made up; film faster, or load it with fps={wanted:g} to take every picture as a frame (the "
                "camera then moves faster than it did)"
            )
        last = len(self) - 1
        count = math.floor(last / self.fps * wanted + 1e-6) + 1
        nearest = np.rint(last - np.arange(count) * (self.fps / wanted)).astype(int)
        return self._frames_at(np.unique(nearest), wanted)

    @undisturbed()
    def ending(self, frames_per_chunk: int) -> PosedClip:
        """Return the last 1 + k `frames_per_chunk` frames, as many as there are.

        Raises `ValueError` naming the least length where there is no whole chunk.
        """
        check_length(len(self), frames_per_chunk)
        first = (len(self) - 1) % frames_per_chunk
        return self._frames_at(np.arange(first, len(self)), self.fps)

    @undisturbed()
    def resized(self, height: int, width: int) -> PosedClip:
        """Return the clip at another size: resized, cropped around the centre, the intrinsics with it.

        Raises `ValueError` where the frames would be enlarged.
        """
        if (height, width) == self.size:
            return self
        if height > self.size[0] or width > self.size[1]:
            raise ValueError(
                f"frames of {self.size[1]}x{self.size[0]} would be enlarged to {width}x{height}; film larger"
            )
        resized, corner = cover_crop(self.size, (height, width))
        camera = crop_intrinsics(torch.tensor(self.intrinsics), self.size, resized, corner)
        frames = np.stack([shrink(frame, (height, width)) for frame in self.frames])
        return replace(self, frames=frames, intrinsics=camera.numpy())

    def _frames_at(self, chosen: np.ndarray, fps: float) -> PosedClip:
        if len(chosen) == len(self) and fps == self.fps:
            return self
        return replace(self, frames=self.frames[chosen], c2w=self.c2w[chosen], fps=fps)


def check_length(frames: int, frames_per_chunk: int) -> None:
    """Raise `ValueError` naming the least length where frames are not the start and a whole chunk."""
    least = max(MIN_FRAMES, 1 + frames_per_chunk)
    if frames < least:
        raise ValueError(f"{frames} frames are too short: at least {least} are needed; film longer")


def _read(
    found: RecordedClip, fps: float | None, scale: float | None, size: tuple[int, int] | None
) -> PosedClip:
    """Return the clip of a recording; everything that needs no picture is checked before one is decoded."""
    check_scale(found, scale)
    c2w = found.c2w.double().clone()
    if scale is None and not found.metric:
        warnings.warn(
            f"the poses of {found.name!r} have no scale and are taken as metres; measure one distance, and "
            "give scale= (1 for none)",
            stacklevel=4,  # the caller of `load`
        )
    c2w[..., :3, 3] *= 1.0 if scale is None else _positive("scale", scale)
    check_length(len(c2w), 4)
    check_poses(c2w)
    rate = _positive("fps", fps) if fps is not None else found.rate()
    if rate is None:
        raise ValueError(
            f"nothing says how many of its {len(c2w)} frames make a second; give fps=, for photographs the "
            "frame rate of the world"
        )
    kept: list[np.ndarray] = []
    source = (0, 0)
    for frame in whole_frames(found):
        if not kept:
            source = (frame.shape[0], frame.shape[1])
            camera = one_camera(found, source, size or source)
            need = len(c2w) * math.prod(size or source) * 3
            if need > MAX_BYTES:
                raise ValueError(
                    f"{len(c2w)} frames of {source[1]}x{source[0]} need {need / 2**30:.0f} GiB, at most "
                    f"{MAX_BYTES / 2**30:.0f} are read; give size=(height, width), or cut the clip"
                )
        kept.append(frame if size is None else shrink(frame, size))
    return PosedClip(np.stack(kept), c2w.numpy(), camera.numpy(), rate, found.caption or None)


def _constant(values: object, dtype: type | None) -> np.ndarray:
    """Return values as an array of their own that cannot be written to."""
    try:
        if isinstance(values, Tensor | np.ndarray):
            values = numbers_of(values, MAX_BYTES)
        array = np.array(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a {type(values).__name__} is no array of numbers: {brief(error)}") from error
    if array.dtype == object:
        raise ValueError(f"a {type(values).__name__} is no array of numbers, but of Python objects")
    array.setflags(write=False)
    return array


def _positive(name: str, value: float) -> float:
    if not number(value, 1e-9, 1e9):
        raise ValueError(f"{name} is {shown(value)}; expected a positive number")
    return float(value)

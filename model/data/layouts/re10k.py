"""RealEstate10K (https://google.github.io/realestate10k/download.html).

NAME.txt   URL; then a line per frame: timestamp in microseconds, fx fy cx cy in image sizes, 0 0, and the
           row-major 3x4 world-to-camera matrix, OpenCV axes, no metric scale
NAME/      folder of TIMESTAMP.png (or .jpg), or NAME.mp4 with either one frame per line or the whole
           video from time 0
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.layouts.pictures import IMAGES, MOVIES, Pictures, files_below, listed
from wm_env.model.data.recorded import ClipRef, RecordedClip, rate_of
from wm_env.model.geometry import assemble, invert_rigid

_COLUMNS = 19  # of a line


def re10k_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clips of a folder of RealEstate10K text files, or of its sub-folders, by name."""
    texts = files_below(folder, (".txt",))
    return [listed(str(p.relative_to(folder).with_suffix("")), re10k_clip, p, pictures) for p in texts]


def read_re10k(path: Path) -> tuple[list[int], Tensor, Tensor]:
    """Return timestamps in microseconds, c2w `(F, 4, 4)` and normalised intrinsics `(F, 4)`, float64."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()[1:]  # the first is the URL
    rows = []
    for number, line in enumerate(lines, start=2):
        words = line.split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError as error:
            raise ValueError(f"line {number} of {path.name} is not numbers: {error}") from error
        if len(words) != _COLUMNS:
            raise ValueError(f"line {number} of {path.name} has {len(words)} numbers; expected {_COLUMNS}")
        if not 0 <= rows[-1][0] < 2**53:
            raise ValueError(
                f"line {number} of {path.name} has the time {words[0]}; expected microseconds from 0"
            )
        if rows[-1][5] or rows[-1][6]:
            raise ValueError(
                f"line {number} of {path.name} has a lens that bends ({words[5]}, {words[6]}); expected "
                "0 0, so undistort the pictures"
            )
    if not rows:
        raise ValueError(f"{path.name} holds no frames: expected a URL and then {_COLUMNS} numbers a line")
    late = next((n for n, (one, other) in enumerate(pairwise(rows)) if not one[0] < other[0]), None)
    if late is not None:
        raise ValueError(
            f"the times of frames {late} and {late + 1} of {path.name} are {rows[late][0]:.0f} and "
            f"{rows[late + 1][0]:.0f} microseconds; expected them in order, each once"
        )
    table = torch.tensor(rows, dtype=torch.float64)  # (F, 19)
    matrix = table[:, 7:].unflatten(1, (3, 4))  # world to camera
    c2w = invert_rigid(assemble(matrix[..., :3], matrix[..., 3]))
    return [int(row[0]) for row in rows], c2w, table[:, 1:5]


def re10k_clip(name: str, path: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of a text; frames per second are those of its timestamps."""
    times, c2w, intrinsics = read_re10k(path)
    stem = path.with_suffix("")
    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=intrinsics,
        normalised=True,
        metric=False,
        rate=lambda: rate_of([time * 1e-6 for time in times]),
        frames=lambda: _frames_at(stem, times, pictures),
    )


def _frames_at(stem: Path, times: list[int], pictures: Pictures) -> Iterator[np.ndarray]:
    """Yield the frames of a RealEstate10K clip: pictures named by time, or frames of a video (see above)."""
    if stem.is_dir():
        for time in times:
            found = [stem / f"{time}{suffix}" for suffix in IMAGES if (stem / f"{time}{suffix}").is_file()]
            if not found:
                raise ValueError(f"no frame for time {time}: {stem.name}/{time}.png or .jpg is missing")
            yield pictures.image(found[0])
        return
    videos = [stem.with_name(stem.name + suffix) for suffix in MOVIES]
    found = [path for path in videos if path.is_file()]
    if not found:
        raise ValueError(f"no frames: {stem.name}.mp4 or a folder {stem.name} of TIMESTAMP.png is missing")
    if len(found) > 1:
        raise ValueError(f"{' and '.join(path.name for path in found)} are both there; keep one")
    moments = pictures.times(found[0])
    if len(moments) == len(times):
        yield from pictures.frames(found[0])
        return
    wanted = set(_paired([time * 1e-6 for time in times], moments))
    for index, frame in enumerate(pictures.frames(found[0])):
        if index in wanted:
            yield frame


def _paired(times: Sequence[float], moments: Sequence[float]) -> list[int]:
    """Return the frame that was shown at each of `times` in seconds; `moments` are those of the frames.

    Raises `ValueError` where a time has no frame within half a step, or two have the same.
    """
    taken = np.asarray(moments)
    if len(taken) < 2:
        raise ValueError(f"{len(times)} poses for a video of {len(taken)} frame")
    half = 0.5 * float(np.median(np.diff(taken))) * (1 + 1e-3) + 1e-6  # times are whole microseconds
    nearest = [int(np.abs(taken - time).argmin()) for time in times]
    for number, (time, index) in enumerate(zip(times, nearest, strict=True)):
        if abs(taken[index] - time) > half:
            raise ValueError(
                f"{len(times)} poses up to {times[-1]:.1f} s for a video of {len(taken)} frames up to "
                f"{taken[-1]:.1f} s: pose {number} at {time:.3f} s has no frame, the nearest is at "
                f"{taken[index]:.3f} s"
            )
    if any(a >= b for a, b in pairwise(nearest)):
        raise ValueError("two poses belong to the same frame, or they are not in order of time")
    return nearest

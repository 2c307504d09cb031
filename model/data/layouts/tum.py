"""Trajectories with pictures as the TUM RGB-D benchmark has them.

    groundtruth.txt   timestamp tx ty tz qx qy qz qw: the colour camera in the world, metres, OpenCV axes
    rgb.txt           timestamp file; without it the names of rgb/TIMESTAMP.png are the times
    camera.json       {"intrinsics": [fx, fy, cx, cy]}, or intrinsics.txt with four numbers or a 3x3 matrix

Lines that start with # are comments, times are seconds
(https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats). Every picture gets the pose nearest in time,
at most 20 ms away; pictures without one are left out: a step is longer there, no pose is wrong.

Without a camera file a folder with "freiburg3" in its name has that sequence's camera; "freiburg1" and
"freiburg2" are refused, because the lenses of those bend
(https://cvg.cit.tum.de/data/datasets/rgbd-dataset/intrinsic_calibration).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wm_env.model.data.layouts.pictures import Pictures, folder_clips, pictures_in, read_json, these_frames
from wm_env.model.data.lens import check_pinhole, lens_of
from wm_env.model.data.recorded import ClipRef, RecordedClip, rate_of
from wm_env.model.geometry import assemble, rotation_from_quaternion
from wm_env.model.intrinsics import intrinsics_per_frame
from wm_env.model.storage.facts import shown

MAX_APART = 0.02  # seconds between a picture and its pose
_SIZE = (480, 640)
_CAMERAS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # fx, fy, cx, cy; k1, k2, p1, p2, k3
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), (0.0, 0.0, 0.0, 0.0, 0.0)),
}


def is_tum(folder: Path) -> bool:
    """Return whether a folder is a sequence."""
    return (folder / "groundtruth.txt").is_file()


def tum_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clip of a sequence, or those of the folders below, by name."""
    return folder_clips(folder, is_tum, tum_clip, pictures)


def tum_clip(
    name: str, folder: Path, pictures: Pictures, intrinsics: Sequence[float] | None = None
) -> RecordedClip:
    """Return the clip of a sequence. intrinsics: instead of its camera file and of what its name says."""
    poses = torch.tensor(
        [_floats(words, 8, "groundtruth.txt") for words in _lines(folder / "groundtruth.txt")],
        dtype=torch.float64,
    )
    if not len(poses):
        raise ValueError("groundtruth.txt holds no pose; expected lines of timestamp tx ty tz qx qy qz qw")
    taken = _pictures(folder)
    if not taken:
        raise ValueError("no pictures: expected rgb.txt, or a folder rgb of TIMESTAMP.png")
    times = torch.tensor([time for time, _ in taken], dtype=torch.float64)
    poses = poses[poses[:, 0].argsort()]
    nearest = _nearest(poses[:, 0].contiguous(), times)  # (n,)
    kept = ((poses[nearest, 0] - times).abs() <= MAX_APART).nonzero()[:, 0].tolist()
    if not kept:
        raise ValueError(
            f"no picture has a pose within {1000 * MAX_APART:.0f} ms: pictures from {float(times[0]):.2f} to "
            f"{float(times[-1]):.2f} s, poses from {float(poses[0, 0]):.2f} to {float(poses[-1, 0]):.2f} s"
        )
    rows = poses[nearest[kept]]  # (F, 8)
    camera = torch.tensor(intrinsics, dtype=torch.float64) if intrinsics is not None else _camera(folder)
    return RecordedClip(
        name=name,
        c2w=assemble(rotation_from_quaternion(rows[:, 4:]), rows[:, 1:4]),
        intrinsics=camera.expand(len(rows), 4),
        lens={} if intrinsics is not None else _lens(folder),
        rate=lambda: rate_of([taken[i][0] for i in kept]),
        frames=lambda: these_frames([taken[i][1] for i in kept], pictures),
    )


def _nearest(sorted_times: Tensor, times: Tensor) -> Tensor:
    """Return, for each of `times` `(n,)`, the index `(n,)` of the nearest of `sorted_times`."""
    after = torch.searchsorted(sorted_times, times).clamp(max=len(sorted_times) - 1)
    before = (after - 1).clamp(min=0)
    to_before, to_after = (sorted_times[before] - times).abs(), (sorted_times[after] - times).abs()
    return torch.where(to_before <= to_after, before, after)


def _pictures(folder: Path) -> list[tuple[float, Path]]:
    """Return time in seconds and path of every picture, by time."""
    if (folder / "rgb.txt").is_file():
        rows = _lines(folder / "rgb.txt")
        short = [words for words in rows if len(words) < 2]
        if short:
            raise ValueError(f"a line of rgb.txt is {' '.join(short[0])!r}; expected timestamp file")
        return sorted((_floats(words[:1], 1, "rgb.txt")[0], folder / words[1]) for words in rows)
    paths = pictures_in(folder / "rgb")
    return sorted((_floats([path.stem], 1, "the names in rgb/")[0], path) for path in paths)


def _camera(folder: Path) -> Tensor:
    """Return the intrinsics `(4,)` of a sequence in pixels."""
    if (folder / "camera.json").is_file():
        values = read_json(folder / "camera.json")
        said = values.get("intrinsics")
        try:
            return intrinsics_per_frame(torch.tensor(said, dtype=torch.float64), 1)[0]
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(
                f"intrinsics of camera.json are {shown(said)}; expected [fx, fy, cx, cy]"
            ) from error
    if (folder / "intrinsics.txt").is_file():
        words = [word for line in _lines(folder / "intrinsics.txt") for word in line]
        count = 9 if len(words) == 9 else 4
        found = torch.tensor(_floats(words, count, "intrinsics.txt"), dtype=torch.float64)
        return intrinsics_per_frame(found.view(3, 3) if count == 9 else found, 1)[0]
    for known, (camera, lens) in _CAMERAS.items():
        if known in folder.resolve().name:
            found = torch.tensor(camera, dtype=torch.float64)
            numbers = dict(zip(("k1", "k2", "p1", "p2", "k3"), lens, strict=True))
            check_pinhole(numbers, found, _SIZE, "undistort the pictures and give intrinsics=")
            return found
    raise ValueError("nothing says the camera; write intrinsics.txt (fx fy cx cy), or give intrinsics=")


def _lens(folder: Path) -> dict[str, float]:
    """Return the lens that camera.json says."""
    path = folder / "camera.json"
    return lens_of(read_json(path)) if path.is_file() else {}


def _lines(path: Path) -> list[list[str]]:
    """Return the words of every line that is no comment."""
    lines = [
        line.replace(",", " ").split()
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    ]
    return [words for words in lines if words and not words[0].startswith("#")]


def _floats(words: Sequence[str], count: int, where: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{where} holds {shown(' '.join(words))}, which is not {count} numbers") from error
    if len(numbers) != count:
        raise ValueError(f"{where} holds {shown(' '.join(words))}; expected {count} numbers")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where} holds {shown(' '.join(words))}; expected {count} finite numbers")
    return numbers

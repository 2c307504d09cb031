"""Folders of recorded clips: pose-annotated videos, RealEstate10K, episodes of the environment.

    videos     NAME.mp4 (or .mov, .mkv, .webm, .avi, or a folder NAME/ of pictures in name order)
               NAME.npz or NAME.json with c2w (F, 4, 4), intrinsics (4,), (3, 3), (F, 4) or (F, 3, 3) in
               pixels and, if there is one, caption
    re10k      NAME.txt: URL; then a line per frame: timestamp in microseconds, fx fy cx cy in image sizes,
               0 0, and the row-major 3x4 world-to-camera matrix; beside it a folder NAME/ of TIMESTAMP.png
               (or .jpg), or NAME.mp4 with either one frame per line or the whole video from time 0
    episodes   episode_*/ of `wm-env record --format folder`

A reader opens pose files only. How a video or a picture is decoded is the caller's (`Pictures`): this package
needs nothing but torch and numpy.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.recorded import ClipRef, Problem, RecordedClip
from wm_env.model.geometry import assemble, invert_rigid
from wm_env.model.intrinsics import intrinsics_per_frame

MOVIES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
IMAGES = (".png", ".jpg", ".jpeg")
_COLUMNS = 19  # of a RealEstate10K line


class Pictures(Protocol):
    """Decodes files; every method raises `ValueError` for what cannot be read."""

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the frames of a video as uint8 `(H, W, 3)`."""
        ...

    def length(self, path: Path) -> tuple[int, float]:
        """Return the number of frames of a video and their rate per second."""
        ...

    def image(self, path: Path) -> np.ndarray:
        """Return a picture as uint8 `(H, W, 3)`."""
        ...


def video_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clips of a folder of videos with camera files, or of its sub-folders, by name."""
    movies = {_stem(path): path for path in _files(folder, MOVIES)}
    movies |= {str(path.parent): path.parent for path in _files(folder, IMAGES)}
    cameras = {_stem(path): path for path in _files(folder, (".npz", ".json"))}
    listed: list[ClipRef] = []
    for stem in sorted(movies.keys() | cameras.keys()):
        name = str(Path(stem).relative_to(folder))
        if stem not in cameras:
            listed.append(Problem(name, f"no poses: {Path(stem).name}.npz or .json is missing"))
        elif stem not in movies:
            listed.append(
                Problem(name, f"no frames: {Path(stem).name}.mp4 (or a folder of pictures) is missing")
            )
        else:
            listed.append(_listed(name, _video_clip, cameras[stem], movies[stem], pictures))
    return listed


def re10k_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clips of a folder of RealEstate10K text files, or of its sub-folders, by name."""
    texts = _files(folder, (".txt",))
    return [_listed(str(p.relative_to(folder).with_suffix("")), _re10k_clip, p, pictures) for p in texts]


def episode_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the recorded episodes of a folder by name."""
    return [_listed(path.name, _episode_clip, path, pictures) for path in sorted(folder.glob("episode_*"))]


def read_camera(path: Path) -> tuple[Tensor, Tensor, str]:
    """Return c2w `(F, 4, 4)` and intrinsics `(F, 4)`, float64, and the caption of an npz or JSON file."""
    values: dict[str, Any]
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text())
        else:
            with np.load(path, allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in arrays.files}
    except (json.JSONDecodeError, UnicodeDecodeError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(values, dict) or not {"c2w", "intrinsics"} <= values.keys():
        held = sorted(values) if isinstance(values, dict) else f"a {type(values).__name__}"
        raise ValueError(f"{path.name} must hold c2w and intrinsics; it holds {held}")
    try:
        c2w = torch.from_numpy(np.asarray(values["c2w"], np.float64))
        intrinsics = torch.from_numpy(np.asarray(values["intrinsics"], np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"c2w or intrinsics of {path.name} are not arrays of numbers: {error}") from error
    if c2w.ndim != 3:
        raise ValueError(f"c2w of {path.name} has shape {tuple(c2w.shape)}; expected (F, 4, 4)")
    rows = 1 if intrinsics.shape in ((4,), (3, 3)) else len(intrinsics)
    if rows not in (1, len(c2w)):
        raise ValueError(f"{rows} rows of intrinsics for {len(c2w)} poses in {path.name}")
    return c2w, intrinsics_per_frame(intrinsics, len(c2w)), str(values.get("caption", ""))


def read_re10k(path: Path) -> tuple[list[int], Tensor, Tensor]:
    """Return timestamps in microseconds, c2w `(F, 4, 4)` and normalised intrinsics `(F, 4)`, float64."""
    lines = path.read_text(errors="replace").splitlines()[1:]  # the first is the URL
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
    if not rows:
        raise ValueError(f"{path.name} holds no frames: expected a URL and then {_COLUMNS} numbers a line")
    table = torch.tensor(rows, dtype=torch.float64)  # (F, 19)
    matrix = table[:, 7:].unflatten(1, (3, 4))  # world to camera
    c2w = invert_rigid(assemble(matrix[..., :3], matrix[..., 3]))
    return [int(row[0]) for row in rows], c2w, table[:, 1:5]


def _video_clip(name: str, camera: Path, frames: Path, pictures: Pictures) -> RecordedClip:
    c2w, intrinsics, caption = read_camera(camera)
    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=intrinsics,
        caption=caption,
        frames=lambda: _all_frames(frames, pictures),
    )


def _re10k_clip(name: str, path: Path, pictures: Pictures) -> RecordedClip:
    times, c2w, intrinsics = read_re10k(path)
    stem = path.with_suffix("")
    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=intrinsics,
        normalised=True,
        frames=lambda: _frames_at(stem, times, pictures),
    )


def _episode_clip(name: str, folder: Path, pictures: Pictures) -> RecordedClip:
    facts_file, steps_file = folder / "episode.json", folder / "steps.npz"
    missing = [path.name for path in (facts_file, steps_file) if not path.is_file()]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: not a finished episode")
    try:
        facts = json.loads(facts_file.read_text())
        with np.load(steps_file) as steps:
            c2w = torch.from_numpy(steps["c2w"].astype(np.float64))
        camera, prompt = facts["intrinsics"], facts["prompt"]
    except (json.JSONDecodeError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"the episode's files cannot be read: {error}") from error
    intrinsics = torch.tensor(camera, dtype=torch.float64)
    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=intrinsics_per_frame(intrinsics, len(c2w)),
        caption=str(prompt or ""),
        frames=lambda: _all_frames(folder / "frames", pictures),
    )


def _all_frames(path: Path, pictures: Pictures) -> Iterator[np.ndarray]:
    """Yield every frame of a video, or every picture of a folder in name order."""
    if path.is_dir():
        for image in sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES):
            yield pictures.image(image)
    else:
        yield from pictures.frames(path)


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
    count, fps = pictures.length(found[0])
    if count == len(times):
        yield from pictures.frames(found[0])
        return
    wanted = [round(time * 1e-6 * fps) for time in times]
    if wanted != sorted(wanted) or wanted[-1] >= count:
        raise ValueError(
            f"{len(times)} poses up to {times[-1] * 1e-6:.1f} s for a video of {count} frames "
            f"({count / fps:.1f} s)"
        )
    needed = 0
    for index, frame in enumerate(pictures.frames(found[0])):
        while needed < len(wanted) and wanted[needed] == index:
            yield frame
            needed += 1
        if needed == len(wanted):
            return


def _listed(name: str, read: Callable[..., RecordedClip], *arguments: Any) -> ClipRef:
    """Return the clip, or the problem in its place."""
    try:
        return read(name, *arguments)
    except ValueError as error:
        return Problem(name, str(error))


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in suffixes)


def _stem(path: Path) -> str:
    return str(path.with_suffix(""))

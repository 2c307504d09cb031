"""Videos, or folders of pictures, beside a camera file.

NAME.mp4 (or .mov, .mkv, .webm, .avi, or a folder NAME/ of pictures by name)
NAME.npz or NAME.json with c2w (F, 4, 4) in metres, x right, y down, z forward; intrinsics (4,), (3, 3),
(F, 4) or (F, 3, 3) in pixels; if there are any, caption and fps; metric false where the unit is not known
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.layouts.pictures import (
    IMAGES,
    MOVIES,
    Pictures,
    all_frames,
    files_below,
    listed,
    read_json,
)
from wm_env.model.data.lens import lens_of
from wm_env.model.data.recorded import ClipRef, Problem, RecordedClip
from wm_env.model.intrinsics import intrinsics_per_frame
from wm_env.model.storage.array_files import read_arrays
from wm_env.model.storage.facts import brief, number, shown


def video_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clips of a folder of videos with camera files, or of its sub-folders, by name."""
    movies: dict[str, Path] = {}
    twice: dict[str, str] = {}
    beside = sorted({path.parent for path in files_below(folder, IMAGES)} - {folder})
    for stem, path in [
        *((_stem(path), path) for path in files_below(folder, MOVIES)),
        *((str(p), p) for p in beside),
    ]:
        if stem in movies:
            twice[stem] = f"{movies[stem].name} and {path.name} are both there; keep one"
        movies[stem] = path
    cameras = {_stem(path): path for path in files_below(folder, (".npz", ".json"))}
    found: list[ClipRef] = []
    for stem in sorted(movies.keys() | cameras.keys()):
        name = str(Path(stem).relative_to(folder))
        if stem in twice:
            found.append(Problem(name, twice[stem]))
        elif stem not in cameras:
            found.append(Problem(name, f"no poses: {Path(stem).name}.npz or .json is missing"))
        elif stem not in movies:
            found.append(
                Problem(name, f"no frames: {Path(stem).name}.mp4 (or a folder of pictures) is missing")
            )
        else:
            found.append(listed(name, video_clip, cameras[stem], movies[stem], pictures))
    return found


class CameraFile(NamedTuple):
    """What an npz or JSON file says of a clip.

    c2w: `(F, 4, 4)` float64, metres. intrinsics: `(F, 4)` float64, pixels. caption: "" where there is none.
    fps: frames per second, None where it is not said. lens: the numbers of a lens that bends, if any. metric:
    False where the file says that the unit of its poses is not the metre.
    """

    c2w: Tensor
    intrinsics: Tensor
    caption: str
    fps: float | None
    lens: dict[str, float]
    metric: bool


def read_camera(path: Path) -> CameraFile:
    """Return the content of a camera file; raises `ValueError` for one that is none."""
    values: dict[str, Any]
    if path.suffix.lower() == ".json":
        values = read_json(path)
    else:
        arrays = read_arrays(path, path.name)
        values = {name: found.item() if found.ndim == 0 else found for name, found in arrays.items()}
    if not {"c2w", "intrinsics"} <= values.keys():
        raise ValueError(f"{path.name} must hold c2w and intrinsics; it holds {sorted(values)}")
    try:
        c2w = torch.from_numpy(np.asarray(values["c2w"], np.float64))
        intrinsics = torch.from_numpy(np.asarray(values["intrinsics"], np.float64))
        fps = None if values.get("fps") is None else float(values["fps"])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"c2w, intrinsics or fps of {path.name} are not numbers: {brief(error)}") from error
    caption = "" if values.get("caption") is None else values["caption"]
    if not isinstance(caption, str):
        raise ValueError(f"caption of {path.name} is {shown(values['caption'])}; expected a text")
    if c2w.ndim != 3:
        raise ValueError(f"c2w of {path.name} has shape {tuple(c2w.shape)}; expected (F, 4, 4)")
    if intrinsics.shape[-2:] != (3, 3) and (intrinsics.ndim not in (1, 2) or intrinsics.shape[-1] != 4):
        raise ValueError(
            f"intrinsics of {path.name} are {shown(values['intrinsics'])}; expected (4,), (3, 3) or rows"
        )
    rows = 1 if intrinsics.shape in ((4,), (3, 3)) else len(intrinsics)
    if rows not in (1, len(c2w)):
        raise ValueError(f"{rows} rows of intrinsics for {len(c2w)} poses in {path.name}")
    if fps is not None and not number(fps, 0.001, 1e4):
        raise ValueError(f"fps of {path.name} is {shown(values['fps'])}; expected frames per second")
    metric = values.get("metric", True)
    if not isinstance(metric, bool):
        raise ValueError(f"metric of {path.name} is {shown(metric)}; expected true or false")
    lens = lens_of(values)
    return CameraFile(c2w, intrinsics_per_frame(intrinsics, len(c2w)), caption, fps, lens, metric)


def video_clip(name: str, camera: Path, frames: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of a film, or of a folder of pictures, with its camera file."""
    found = read_camera(camera)

    def rate() -> float | None:
        return found.fps if found.fps or frames.is_dir() else pictures.rate(frames)

    return RecordedClip(
        name=name,
        c2w=found.c2w,
        intrinsics=found.intrinsics,
        lens=found.lens,
        metric=found.metric,
        needs_scale=not found.metric,
        caption=found.caption,
        rate=rate,
        frames=lambda: all_frames(frames, pictures),
    )


def _stem(path: Path) -> str:
    return str(path.with_suffix(""))

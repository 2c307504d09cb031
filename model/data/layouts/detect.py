"""Which layout a path has: of one clip, for `PosedClip.load`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from wm_env.model.data.layouts.colmap import colmap_clip, colmap_clips, is_colmap
from wm_env.model.data.layouts.episodes import episode_clip, episode_clips, is_episode
from wm_env.model.data.layouts.phones import (
    is_polycam,
    is_record3d,
    polycam_clip,
    polycam_clips,
    record3d_clip,
    record3d_clips,
)
from wm_env.model.data.layouts.pictures import MOVIES, Pictures, pictures_in
from wm_env.model.data.layouts.re10k import re10k_clip
from wm_env.model.data.layouts.saved import is_saved, saved_clip, saved_clips
from wm_env.model.data.layouts.transforms import is_transforms, transforms_clip, transforms_clips
from wm_env.model.data.layouts.tum import is_tum, tum_clip, tum_clips
from wm_env.model.data.layouts.video import video_clip
from wm_env.model.data.recorded import ClipRef, RecordedClip
from wm_env.model.storage.facts import PATH, shown


class FolderLayout(NamedTuple):
    """A layout with a folder for each clip.

    what: how it is recognised. holds: whether a folder is one. read: the clip (name, folder, pictures). list:
    the clips of a folder of them.
    """

    what: str
    holds: Callable[[Path], bool]
    read: Callable[[str, Path, Pictures], RecordedClip]
    list: Callable[[Path, Pictures], list[ClipRef]]


FOLDERS: dict[str, FolderLayout] = {
    "clips": FolderLayout("camera.json with frames/", is_saved, saved_clip, saved_clips),
    "episodes": FolderLayout("episode.json with frames/", is_episode, episode_clip, episode_clips),
    "transforms": FolderLayout("transforms.json", is_transforms, transforms_clip, transforms_clips),
    "polycam": FolderLayout("keyframes/ of Polycam", is_polycam, polycam_clip, polycam_clips),
    "record3d": FolderLayout("metadata with rgbd/ of Record3D", is_record3d, record3d_clip, record3d_clips),
    "tum": FolderLayout("groundtruth.txt with rgb/", is_tum, tum_clip, tum_clips),
    "colmap": FolderLayout("sparse/0 of COLMAP with images/", is_colmap, colmap_clip, colmap_clips),
}
_FILES = "NAME.mp4, or NAME/ of pictures, beside NAME.npz, NAME.json or the NAME.txt of RealEstate10K"
_SHOWN = 8  # names in a message
_MOST_ENTRIES = 20_000  # below a folder in which clips are looked for


def find_clip(path: Path, pictures: Pictures, intrinsics: Sequence[float] | None = None) -> RecordedClip:
    """Return the one clip that a path holds, not yet decoded.

    path: the folder of a clip, a folder with a single clip in it, a film, a camera file, or the NAME of both.
    intrinsics: `(4,)` in pixels, instead of those recorded. Raises `ValueError` in one sentence where there
    is no clip, or several, `FileNotFoundError` where there is nothing.
    """
    if intrinsics is None:
        return _find(path, pictures, None)
    try:
        camera = torch.tensor(list(intrinsics), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        camera = torch.empty(0)
    if camera.shape != (4,):
        raise ValueError(f"intrinsics={shown(intrinsics)} are not four numbers fx, fy, cx, cy in pixels")
    clip = _find(path, pictures, intrinsics)
    rows = camera.expand(len(clip.c2w), 4)
    return replace(clip, intrinsics=rows, normalised=False, size=None, lens={})


def _find(path: Path, pictures: Pictures, intrinsics: Sequence[float] | None) -> RecordedClip:
    if path.is_dir():
        for name, layout in FOLDERS.items():
            if layout.holds(path):
                if name == "tum":  # the one layout that may not say its camera
                    return tum_clip(path.name, path, pictures, intrinsics)
                return layout.read(path.name, path, pictures)
    clip = _named(path, pictures)
    if clip is not None:
        return clip
    inside = _inside(path) if path.is_dir() else []
    if len(inside) == 1:
        return _find(inside[0], pictures, intrinsics)
    if inside:
        names = _some([str(found.relative_to(path)) for found in inside])
        raise ValueError(f"it holds {len(inside)} clips, {names}; ask for one, as in {str(inside[0])!r}")
    if not path.exists():
        raise FileNotFoundError(
            f"{shown(str(path), PATH)} does not exist; expected a clip, see docs/clips.md"
        )
    if path.suffix.lower() == ".r3d":
        raise ValueError("a .r3d is a zip file; unzip it and give the folder with metadata and rgbd/")
    held = "it holds " + _some(sorted(p.name for p in path.iterdir())) if path.is_dir() else "it is a file"
    known = "; ".join(layout.what for layout in FOLDERS.values())
    raise ValueError(f"no clip was found: {held}; known are {known}; {_FILES}; see docs/clips.md")


def _named(path: Path, pictures: Pictures) -> RecordedClip | None:
    """Return the clip of files with the same NAME, None where there is no camera file and no film."""
    suffix = path.suffix.lower()
    stem = path.with_suffix("") if suffix in (*MOVIES, ".npz", ".json", ".txt") else path
    camera = _first(stem, (".npz", ".json"))
    text = _first(stem, (".txt",))
    film = path if suffix in MOVIES and path.is_file() else _film(stem)
    if camera is None and text is None:
        if film is not None and film.is_file():
            raise ValueError(f"the film has no poses; put {stem.name}.npz or {stem.name}.json beside it")
        return None
    if film is None:
        raise ValueError(f"no frames: {stem.name}.mp4, or a folder {stem.name} of pictures, is missing")
    if camera is not None:
        return video_clip(stem.name, camera, film, pictures)
    assert text is not None
    return re10k_clip(stem.name, text, pictures)


def _inside(folder: Path) -> list[Path]:
    """Return the clips below a folder: folders, and the NAMEs of camera files that have frames.

    Raises `ValueError` for a folder with more than `_MOST_ENTRIES` in it, such as a home, before all is
    read.
    """
    entries = sorted(islice(folder.rglob("*"), _MOST_ENTRIES + 1))
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"it holds more than {_MOST_ENTRIES} files and folders; name the clip in it")
    found: list[Path] = []
    for path in entries:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or any(path.is_relative_to(clip) for clip in found):
            continue
        if path.is_dir() and any(layout.holds(path) for layout in FOLDERS.values()):
            found.append(path)
        elif path.suffix.lower() in (".npz", ".json", ".txt") and _film(path.with_suffix("")) is not None:
            found.append(path.with_suffix(""))
    return sorted(set(found))


def _film(stem: Path) -> Path | None:
    """Return the film or the folder of pictures of a NAME."""
    return stem if pictures_in(stem) else _first(stem, MOVIES)


def _first(stem: Path, suffixes: Sequence[str]) -> Path | None:
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    return next((path for path in paths if path.is_file()), None)


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

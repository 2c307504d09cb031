"""Pictures on disk, as every layout meets them: which files they are, in which order, decoded by whom.

A reader of a layout opens pose files only. How a video or a picture is decoded is the caller's (`Pictures`):
the readers need nothing but torch and numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wm_env.model.data.recorded import ClipRef, Problem, RecordedClip
from wm_env.model.storage.facts import read_json as read_object

MOVIES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
IMAGES = (".png", ".jpg", ".jpeg")


class Pictures(Protocol):
    """Decodes files; every method raises `ValueError` for what cannot be read."""

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the frames of a video as uint8 `(H, W, 3)`."""
        ...

    def times(self, path: Path) -> list[float]:
        """Return the time in seconds of every frame of a video, in order: reads all of it."""
        ...

    def rate(self, path: Path) -> float:
        """Return the frames per second of a video by its time stamps; `ValueError` where they are uneven."""
        ...

    def image(self, path: Path) -> np.ndarray:
        """Return a picture as uint8 `(H, W, 3)`."""
        ...


def by_name(path: Path) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts files by name, numbers in it by value: 2.png before 10.png."""
    pieces = re.split(r"(\d+)", path.stem)
    return tuple((int(piece), "") if piece.isdecimal() else (0, piece) for piece in pieces)


def is_visible(below: Path) -> bool:
    """Return whether a path below a folder is none that systems leave there: ._a.png, .x/a.png, __MACOSX."""
    return not any(part.startswith((".", "__MACOSX")) for part in below.parts)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures that lie in a folder, by name; none where it is no folder.

    Raises `ValueError` where two have the same place, such as 1.png and 01.png.
    """
    if not folder.is_dir():
        return []
    found = (
        path for path in folder.iterdir() if path.suffix.lower() in IMAGES and is_visible(Path(path.name))
    )
    ordered = sorted(found, key=by_name)
    for one, other in pairwise(ordered):
        if by_name(one) == by_name(other):
            raise ValueError(f"{one.name} and {other.name} have one number; keep one of them")
    return ordered


def all_frames(path: Path, pictures: Pictures) -> Iterator[np.ndarray]:
    """Yield every frame of a video, or every picture of a folder by name."""
    if path.is_dir():
        yield from these_frames(pictures_in(path), pictures)
    else:
        yield from pictures.frames(path)


def these_frames(paths: Sequence[Path], pictures: Pictures) -> Iterator[np.ndarray]:
    """Yield pictures in the order given; raises `ValueError` for one that is missing or unreadable."""
    for path in paths:
        if not path.is_file():
            raise ValueError(f"the picture {path.name} is missing; expected it in {str(path.parent)!r}")
        yield pictures.image(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; NaN may stand in it, poses and cameras are checked for themselves.

    Raises `ValueError` where there is none.
    """
    return read_object(path, path.name, finite=False)


def listed(name: str, read: Callable[..., RecordedClip], *arguments: Any) -> ClipRef:
    """Return the clip, or the problem in its place."""
    try:
        return read(name, *arguments)
    except (ValueError, OverflowError, OSError) as error:  # a number that no float holds; no right to read
        return Problem(name, str(error))


def folder_clips(
    folder: Path, holds: Callable[[Path], bool], read: Callable[..., RecordedClip], pictures: Pictures
) -> list[ClipRef]:
    """Return the clips of a layout with a folder for each: the folder itself, or its sub-folders, by name."""
    if holds(folder):
        return [listed(folder.resolve().name, read, folder, pictures)]
    inside: list[Path] = []
    for path in sorted(folder.rglob("*")):
        below = any(path.is_relative_to(clip) for clip in inside)
        if not below and path.is_dir() and holds(path):
            inside.append(path)
    return [listed(str(path.relative_to(folder)), read, path, pictures) for path in inside]


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below a folder that end so, by path, without those that `is_visible` leaves out."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in suffixes)
    return sorted(path for path in found if is_visible(path.relative_to(folder)))

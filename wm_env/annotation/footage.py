"""Where the pictures come from: films, folders of pictures, and clips that have poses already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from wm_env.annotation.values import Shot, Track
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.layouts.detect import find_clip
from wm_env.model.data.layouts.pictures import MOVIES, all_frames, is_visible, pictures_in
from wm_env.model.data.posed_clip import PosedClip


class Source(NamedTuple):
    """A film, or a folder of pictures that are one. name: what its clips are called."""

    path: Path
    name: str


def sources_of(path: Path) -> list[Source]:
    """Return the films that a path is or holds, by name.

    path: a film, a folder of pictures, or a folder of films. Raises `FileNotFoundError` where there is
    nothing, `ValueError` where it holds no film or two of one name.
    """
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist; give a film or a folder of them")
    if path.is_file():
        return [Source(path, path.stem)]
    if pictures_in(path):
        return [Source(path, path.resolve().name)]
    films = sorted(
        one for one in path.iterdir() if one.suffix.lower() in MOVIES and is_visible(Path(one.name))
    )
    if not films:
        known = ", ".join(suffix.lstrip(".") for suffix in MOVIES)
        raise ValueError(f"{str(path)!r} holds no film ({known}) and no pictures (png, jpg)")
    names = [film.stem for film in films]
    for film in films:
        if names.count(film.stem) > 1:
            same = " and ".join(other.name for other in films if other.stem == film.stem)
            raise ValueError(f"{same} have one name; rename one")
    return [Source(film, film.stem) for film in films]


def film_rate(path: Path, fps: float | None) -> float:
    """Return the frames per second of a film; fps, where it is given, instead of what the film says.

    Raises `ValueError` for a folder of pictures without `fps`, and for a film of uneven rate.
    """
    if fps is not None:
        return fps
    if path.is_dir():
        raise ValueError(f"{path.name} holds pictures, which have no times; give fps=")
    return ClipFiles().rate(path)


def count_pictures(path: Path) -> int:
    """Return how many pictures a folder holds."""
    return len(pictures_in(path))


def shot_frames(
    path: Path, shots: Sequence[Shot], longest_side: int
) -> Iterator[tuple[Shot, np.ndarray, int]]:
    """Yield the wanted shots of a film, in order, their frames uint8 `(F, h, w, 3)`, the film's own width.

    It is decoded once. Frames are shrunk to `longest_side` pixels, their sides even. Raises
    `ValueError` where the film cannot be read to the end of the last one.
    """
    waiting = list(shots)
    kept: list[np.ndarray] = []
    source: tuple[int, ...] = ()
    for index, frame in enumerate(all_frames(path, ClipFiles())):
        if not waiting:
            return
        shot = waiting[0]
        if index == shot.kept[len(kept)]:
            if kept and frame.shape != source:
                raise ValueError(f"frame {index} of {path.name} has another size than those before it")
            source = frame.shape
            kept.append(shrunk(frame, longest_side))
            if len(kept) == len(shot.kept):
                yield waiting.pop(0), np.stack(kept), source[1]
                kept = []
    if waiting:
        raise ValueError(f"{path.name} ends before its frame {waiting[0].last}")


def shrunk(frame: np.ndarray, longest_side: int) -> np.ndarray:
    """Return a frame uint8 `(H, W, 3)` with sides of at most `longest_side` pixels, even ones."""
    height, width = frame.shape[:2]
    share = min(1.0, longest_side / max(height, width))
    size = (max(2, 2 * round(width * share / 2)), max(2, 2 * round(height * share / 2)))
    if size == (width, height):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


class GivenClip(NamedTuple):
    """A clip that has poses: its frames uint8 `(F, h, w, 3)`, frames per second, and its track."""

    frames: np.ndarray
    fps: float
    track: Track
    caption: str | None


def given_sources(path: Path) -> list[Source]:
    """Return the clips with poses that a path is or holds: itself, or what lies in it, by name.

    Raises `FileNotFoundError` where there is nothing, `ValueError` where nothing in it is a clip.
    """
    pictures = ClipFiles()
    try:
        return [Source(path, find_clip(path, pictures).name.replace("/", "-") or path.stem)]
    except ValueError as error:
        found: list[Source] = []
        for inside in sorted(path.iterdir()) if path.is_dir() else []:
            if inside.is_dir() and is_visible(Path(inside.name)):
                found.append(Source(inside, inside.name))
            elif inside.suffix.lower() in MOVIES:
                found.append(Source(inside, inside.stem))
        if not found:
            raise ValueError(f"{path}: {error}") from error
        return found


def load_given(path: Path, fps: float | None) -> GivenClip:
    """Return a clip with its poses; `PosedClip.load` says what can be read and what is refused."""
    metric = find_clip(path, ClipFiles()).metric
    clip = PosedClip.load(path, fps=fps, scale=None if metric else 1.0)
    track = Track(
        frames=np.arange(len(clip)),
        c2w=clip.c2w.copy(),
        intrinsics=np.tile(clip.intrinsics, (len(clip), 1)),
        metric=metric,
    )
    return GivenClip(clip.frames, clip.fps, track, clip.caption)

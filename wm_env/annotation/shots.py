"""Shots of a film: stretches between the cuts that ffmpeg's scene score finds.

The score of a frame is min(mafd, |mafd - mafd of the frame before|) / 100, mafd the mean absolute difference
to the frame before (ffmpeg, filter `select`). A cut is a frame with at least `cut_score`; or one with at
least `cut_least` that stands out of what is around it, as a cut between rooms that look alike and a camera
that starts to turn both do: then the middle of neither of the two frames may be found in the other,

    alike = max over shifts of the normalised cross-correlation of a's middle with b,   both 64 pixels wide
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from wm_env.annotation.recipe import Frames
from wm_env.annotation.values import Shot
from wm_env.model.data.clip_files import ClipFiles, check_film
from wm_env.model.storage.film import Ffmpeg, ffmpeg_name

_SCORE = re.compile(rb"lavfi\.scene_score=([\d.]+)")
AROUND = 8  # frames before and after one; not the next, whose score a cut raises too
TOO_FAST = 1.25  # of the wanted rate; a film below that is kept frame by frame


def scene_scores(film: Path) -> np.ndarray:
    """Return ffmpeg's scene score of every frame of a film, `(F,)` in [0, 1], the first one 0.

    Raises `ValueError` with ffmpeg's reason for what is no film that can be read to its end.
    """
    check_film(film)
    strict = ["-xerror", "-err_detect", "explode"]
    source = ["-i", ffmpeg_name(film), "-map", "0:V:0", "-fps_mode", "passthrough"]
    scores = ["-vf", "select='gte(scene,0)',metadata=print:file=-", "-f", "null", "-"]
    with Ffmpeg([*strict, *source, *scores], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
        assert reader.process.stdout is not None
        found = [float(match[1]) for line in reader.process.stdout if (match := _SCORE.search(line))]
        if reader.wait() != 0:
            raise ValueError(f"{film.name} is not a film that can be read: {reader.words}")
    if not found:
        raise ValueError(f"{film.name} holds no frames")
    return np.array([0.0, *found[1:]])


def find_shots(
    frames: int, cuts: Sequence[int], *, film: str, name: str, fps: float, settings: Frames
) -> list[Shot]:
    """Return the shots of a film of so many frames, cut so that none is longer than allowed.

    cuts: frames that begin another shot. film: its path. name: what clips are called, NAME-000 and so on.
    fps: its frames per second. Shots that are too short are among them (`is_short`).
    """
    shots: list[Shot] = []
    for begin, end in pairwise([0, *cuts, frames]):
        kept = kept_frames(begin, end, fps, settings.rate)
        rate = fps if len(kept) == end - begin else settings.rate
        for at in range(0, len(kept), settings.longest):
            part = kept[at : at + settings.longest]
            shots.append(Shot(f"{name}-{len(shots):03d}", film, part[0], part[-1], part, rate))
    return shots


def cuts_of(film: Path, scores: np.ndarray, settings: Frames) -> list[int]:
    """Return the frames that begin another shot, by the scores `(F,)`; never the first one."""
    sure = {at for at in range(1, len(scores)) if scores[at] >= settings.cut_score}
    maybe = {at for at in range(1, len(scores)) if _stands_out(scores, at, settings)} - sure
    if maybe:
        before = None
        for at, frame in enumerate(ClipFiles().frames(film)):
            if at in maybe and before is not None and alike(before, frame) < settings.cut_alike:
                sure.add(at)
            before = frame
    return sorted(sure)


def _stands_out(scores: np.ndarray, at: int, settings: Frames) -> bool:
    """Return whether the score of a frame is high, the highest near it, and far above what is around it."""
    if at < 2:  # that of frame 1 is its whole difference: there is none before to compare with
        return False
    around = np.concatenate([scores[max(1, at - AROUND) : at], scores[at + 2 : at + 2 + AROUND]])
    usual = float(np.median(around)) if len(around) else 1.0
    high = scores[at] >= max(settings.cut_least, settings.cut_ratio * usual)
    return bool(high and scores[at] >= scores[at - 1 : at + 2].max())


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Return how well the middle of a frame is found in the other, in [-1, 1], the better of both ways.

    one, other: uint8 `(h, w, 3)`. The same place a frame later has above 0.9, another room below 0.7.
    """
    a, b = (
        np.asarray(Image.fromarray(frame).convert("L").resize((64, 64), Image.Resampling.BOX), np.float64)
        for frame in (one, other)
    )
    return max(_found(a[16:48, 16:48], b), _found(b[16:48, 16:48], a))


def _found(part: np.ndarray, whole: np.ndarray) -> float:
    """Return the largest normalised cross-correlation of a part with any place of a picture."""
    places = np.lib.stride_tricks.sliding_window_view(whole, part.shape)  # (33, 33, 32, 32)
    mean, spread = places.mean((2, 3), keepdims=True), places.std((2, 3), keepdims=True)
    unit = (part - part.mean()) / (part.std() + 1)
    return float(((places - mean) / (spread + 1) * unit).mean((2, 3)).max())


def kept_frames(begin: int, end: int, fps: float, rate: float) -> tuple[int, ...]:
    """Return the frames of `begin` to `end` nearest to times 1 / rate apart; all where the film is no faster.

    No frame is made, blended or repeated.
    """
    if fps < TOO_FAST * rate:
        return tuple(range(begin, end))
    count = int((end - 1 - begin) / fps * rate + 1e-6) + 1
    nearest = begin + np.rint(np.arange(count) * (fps / rate)).astype(int)
    return tuple(int(at) for at in np.unique(nearest))


def is_short(shot: Shot, settings: Frames) -> bool:
    """Return whether a shot has too few frames to be a clip."""
    return len(shot.kept) < settings.shortest

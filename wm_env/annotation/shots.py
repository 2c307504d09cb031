"""Shots of a film: stretches between the cuts that ffmpeg's scene score finds.

The score of a frame is min(mafd, |mafd - mafd of the frame before|) / 100, mafd the mean absolute difference
to the frame before (ffmpeg, filter `select`); a cut is a frame with at least `cut_score`, or one with at
least `cut_least` that stands out of what is around it, as between two rooms that look alike.
"""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np

from wm_env.annotation.recipe import Frames
from wm_env.annotation.values import Shot
from wm_env.model.data.clip_files import check_film
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


def find_shots(scores: np.ndarray, *, film: str, name: str, fps: float, settings: Frames) -> list[Shot]:
    """Return the shots of a film, by its `scene_scores` `(F,)`, cut so that none is longer than allowed.

    film: its path. name: what clips are called, NAME-000 and so on. fps: its frames per second. Shots that
    are too short are among them (`is_short`).
    """
    cuts = [0, *cuts_of(scores, settings), len(scores)]
    shots: list[Shot] = []
    for begin, end in pairwise(cuts):
        kept = kept_frames(begin, end, fps, settings.rate)
        rate = fps if len(kept) == end - begin else settings.rate
        for at in range(0, len(kept), settings.longest):
            part = kept[at : at + settings.longest]
            shots.append(Shot(f"{name}-{len(shots):03d}", film, part[0], part[-1], part, rate))
    return shots


def cuts_of(scores: np.ndarray, settings: Frames) -> list[int]:
    """Return the frames that begin another shot, by the scores `(F,)`; never the first one."""
    found = []
    for at in range(1, len(scores)):
        around = np.concatenate([scores[max(1, at - AROUND) : at], scores[at + 2 : at + 2 + AROUND]])
        usual = float(np.median(around)) if len(around) else 1.0
        # the score of frame 1 is its whole difference, there is none before to compare with
        alone = at > 1 and scores[at] >= max(settings.cut_least, settings.cut_ratio * usual)
        highest = scores[at] >= scores[max(1, at - 1) : at + 2].max()
        if scores[at] >= settings.cut_score or (alone and highest):
            found.append(at)
    return found


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

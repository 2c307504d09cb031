"""Models of one clip joined where they overlap in time, and the longest run of frames that have a pose.

Two models see the same frames F in units and axes of their own: a similarity takes one to the other,

    R = mean of R_a R_b^T over F (projected on rotations),   s, t = argmin sum |o_a - (s R o_b + t)|^2
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wm_env.annotation.recipe import Mapper
from wm_env.annotation.values import Track


def joined(models: Sequence[Track], settings: Mapper) -> Track:
    """Return one track of several models of a clip: the largest, and those that can be joined to it.

    Two are joined that share `settings.shared` frames and agree on them; what cannot be is said in
    `left_out`. A frame of both keeps the pose of the larger one.
    """
    whole, *others = sorted(models, key=lambda one: -len(one.frames))
    left_out: list[str] = []
    while others:
        shared = [len(np.intersect1d(whole.frames, other.frames)) for other in others]
        other = others.pop(int(np.argmax(shared)))
        new = np.setdiff1d(other.frames, whole.frames)
        if not len(new):
            continue
        moved = _moved(whole, other, settings)
        if moved is None:
            left_out.append(
                f"another model has frames {other.frames[0]} to {other.frames[-1]} ({len(other.frames)}) and "
                f"shares {max(shared)} with this one"
            )
            continue
        fresh = np.isin(moved.frames, new)
        order = np.argsort(np.concatenate([whole.frames, moved.frames[fresh]]))
        whole = Track(
            frames=np.concatenate([whole.frames, moved.frames[fresh]])[order],
            c2w=np.concatenate([whole.c2w, moved.c2w[fresh]])[order],
            intrinsics=np.concatenate([whole.intrinsics, moved.intrinsics[fresh]])[order],
        )
    return whole._replace(left_out=tuple(left_out))


def longest_run(track: Track, frames: int) -> tuple[int, int]:
    """Return the first and last row of the longest run of a track without a gap in its frame numbers."""
    breaks = np.nonzero(np.diff(track.frames) > 1)[0] + 1
    begin = np.concatenate([[0], breaks])
    end = np.concatenate([breaks, [len(track.frames)]])
    at = int(np.argmax(end - begin))
    return int(begin[at]), int(end[at]) - 1


def cut(track: Track, first: int, last: int) -> Track:
    """Return rows `first` to `last` of a track, and say what was left out."""
    told = list(track.left_out)
    if last - first + 1 < len(track.frames):
        others = [*track.frames[:first].tolist(), *track.frames[last + 1 :].tolist()]
        told.append(f"{len(others)} frames with a pose lie outside of the longest run: {spans(others)}")
    rows = slice(first, last + 1)
    return track._replace(
        frames=track.frames[rows],
        c2w=track.c2w[rows],
        intrinsics=track.intrinsics[rows],
        left_out=tuple(told),
    )


def spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text, such as "3 to 8, 12"."""
    parts: list[list[int]] = []
    for one in numbers:
        if parts and one == parts[-1][1] + 1:
            parts[-1][1] = one
        else:
            parts.append([one, one])
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in parts)


def similarity(rotations: np.ndarray, onto: np.ndarray, places: np.ndarray, goals: np.ndarray) -> tuple[
    float, np.ndarray, np.ndarray
]:  # fmt: skip
    """Return scale, rotation `(3, 3)` and shift `(3,)` that take poses onto others.

    rotations, onto: camera-to-world `(n, 3, 3)`. places, goals: camera centres `(n, 3)`. The rotation is that
    of the cameras, so that a path on a line is aligned as well; the scale is 1 where nothing moves.
    """
    u, _, v = np.linalg.svd(np.einsum("nab,ncb->ac", onto, rotations))
    turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v
    own = (places - places.mean(0)) @ turn.T
    wanted = goals - goals.mean(0)
    spread = float((own**2).sum())
    scale = float((own * wanted).sum()) / spread if spread > 1e-18 else 1.0
    return scale, turn, goals.mean(0) - scale * turn @ places.mean(0)


def _moved(whole: Track, other: Track, settings: Mapper) -> Track | None:
    """Return `other` in the unit and axes of `whole`, None where they do not agree or cannot be compared."""
    both, here, there = np.intersect1d(whole.frames, other.frames, return_indices=True)
    if len(both) < settings.shared:
        return None
    a, b = whole.c2w[here], other.c2w[there]
    scale, turn, shift = similarity(b[:, :3, :3], a[:, :3, :3], b[:, :3, 3], a[:, :3, 3])
    if scale <= 0:
        return None
    c2w = other.c2w.copy()
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    c2w[:, :3, 3] = scale * c2w[:, :3, 3] @ turn.T + shift
    apart = np.linalg.norm(c2w[there, :3, 3] - a[:, :3, 3], axis=1)
    path = np.linalg.norm(np.diff(whole.c2w[:, :3, 3], axis=0), axis=1).sum()
    if float(np.median(apart)) > settings.joint * path:
        return None
    return other._replace(c2w=c2w)

"""A camera that only turns: rotations and focal length from matches, and whether that explains them.

A turn maps the ray of a feature to the ray of its match whatever is seen, so with rays x of focal length f

    R_ij = argmin sum_m w_m |x_j - R x_i|^2          for every pair of frames (Kabsch 1976, weighted)
    f    = argmin of the median residual over f      in steps, then finer ones

and no translation explains more. Rotations of all frames come from those of the pairs at once: the largest
three eigenvectors of the block matrix of w_ij R_ij (Martinec and Pajdla 2007).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wm_env.annotation.recipe import Rotation
from wm_env.annotation.values import Matches, Track

LEAST = 12  # matches of a pair
MOST = 120  # of a pair that are looked at
STEPS = 4  # of reweighting
WIDE, NARROW = 2.4, 0.4  # focal lengths that are tried, in widths


class _Pairs(NamedTuple):
    """Matches by pair: i, j `(P,)` frames; pair `(M,)`; a, b `(M, 2)` pixels from the middle."""

    i: np.ndarray
    j: np.ndarray
    pair: np.ndarray
    a: np.ndarray
    b: np.ndarray


def rotation_only(matches: Matches, frames: int, settings: Rotation) -> Track | None:
    """Return the track of a camera that only turns, None where the matches show that it also moves.

    Of the pairs with motion in the picture, the median pair must be explained to `settings.residual` and
    nine of ten to `settings.worst`, shares of the width. None as well where too little moves to tell.
    """
    pairs = _pairs(matches)
    width = matches.size[1]
    if not len(pairs.i):
        return None
    motion = _median_by(pairs.pair, np.linalg.norm(pairs.b - pairs.a, axis=1), len(pairs.i))
    moving = np.nonzero(motion > settings.motion * width)[0]
    if len(moving) < max(3, frames // 8):
        return None
    chosen = _only(pairs, moving[:: max(1, len(moving) // 160)])

    def residual(focal: float) -> np.ndarray:
        return _rotations(chosen, focal)[1]

    ladder = width * np.geomspace(NARROW, WIDE, 15)
    focal = float(ladder[np.argmin([np.median(residual(one)) for one in ladder])])
    for spread in (1.08, 1.02, 1.006):
        near = focal * spread ** np.linspace(-1.5, 1.5, 7)
        focal = float(near[np.argmin([np.mean(np.minimum(residual(one), width)) for one in near])])
    left = residual(focal)
    if np.median(left) > settings.residual * width or np.quantile(left, 0.9) > settings.worst * width:
        return None
    turned, error = _rotations(pairs, focal)
    sound = error < settings.worst * width
    rotations, placed = _synchronised(_only(pairs, np.nonzero(sound)[0]), turned[sound], frames)
    c2w = np.tile(np.eye(4), (len(placed), 1, 1))
    c2w[:, :3, :3] = rotations
    height = matches.size[0]
    camera = np.array([focal, focal, width / 2, height / 2])
    return Track(placed, c2w, np.tile(camera, (len(placed), 1)), motion="rotation")


def _pairs(matches: Matches) -> _Pairs:
    """Return the matches of pairs with enough of them, at most `MOST` evenly chosen ones each."""
    frame = matches.frame_of
    i, j = frame[matches.first], frame[matches.second]
    codes, pair, count = np.unique(i * len(matches.features) + j, return_inverse=True, return_counts=True)
    order = np.argsort(pair, kind="stable")
    begin = np.cumsum([0, *count[:-1]])
    place = np.arange(len(order)) - np.repeat(begin, count)  # within its pair
    stride = np.repeat(np.maximum(1, count // MOST), count)
    kept = order[(place % stride == 0) & np.repeat(count >= LEAST, count)]
    used, within = np.unique(pair[kept], return_inverse=True)
    middle = np.array([matches.size[1], matches.size[0]]) / 2
    a = matches.uv[matches.first[kept]].astype(np.float64) - middle
    b = matches.uv[matches.second[kept]].astype(np.float64) - middle
    return _Pairs(codes[used] // len(matches.features), codes[used] % len(matches.features), within, a, b)


def _only(pairs: _Pairs, chosen: np.ndarray) -> _Pairs:
    """Return some of the pairs."""
    number = np.full(len(pairs.i), -1)
    number[chosen] = np.arange(len(chosen))
    own = number[pairs.pair] >= 0
    return _Pairs(pairs.i[chosen], pairs.j[chosen], number[pairs.pair[own]], pairs.a[own], pairs.b[own])


def _rotations(pairs: _Pairs, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotations `(P, 3, 3)`, x_j = R x_i, and the median residual `(P,)` of each in pixels."""
    x, y = _rays(pairs.a, focal), _rays(pairs.b, focal)
    weight = np.ones(len(x))
    for _ in range(STEPS):
        outer = (weight[:, None] * y)[:, :, None] * x[:, None, :]  # (M, 3, 3)
        total = np.zeros((len(pairs.i), 3, 3))
        np.add.at(total, pairs.pair, outer)
        u, _, v = np.linalg.svd(total)
        sign = np.ones((len(pairs.i), 3))
        sign[:, 2] = np.sign(np.linalg.det(u @ v))
        rotation = (u * sign[:, None, :]) @ v
        seen = np.einsum("mab,mb->ma", rotation[pairs.pair], x)
        ahead = np.maximum(seen[:, 2:], 1e-3)
        error = np.linalg.norm(focal * seen[:, :2] / ahead - pairs.b, axis=1)
        weight = 1 / (1 + (error / 2) ** 2)  # two pixels
    return rotation, _median_by(pairs.pair, error, len(pairs.i))


def _rays(pixels: np.ndarray, focal: float) -> np.ndarray:
    rays = np.concatenate([pixels / focal, np.ones((len(pixels), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _synchronised(pairs: _Pairs, turned: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return camera-to-world rotations `(n, 3, 3)` of the frames `(n,)` that hang together with the most."""
    placed = _component(pairs, frames)
    number = np.full(frames, -1)
    number[placed] = np.arange(len(placed))
    n = len(placed)
    block = np.zeros((n, 3, n, 3))
    count = np.bincount(pairs.pair, minlength=len(pairs.i)).astype(np.float64)
    degree = np.zeros(n)
    for i, j, rotation, weight in zip(number[pairs.i], number[pairs.j], turned, np.sqrt(count), strict=True):
        if i >= 0 and j >= 0:
            block[j, :, i] = weight * rotation  # w2c_j = R_ij w2c_i
            block[i, :, j] = weight * rotation.T
            degree[i] += weight
            degree[j] += weight
    scale = 1 / np.sqrt(np.maximum(degree, 1e-9))
    block *= scale[:, None, None, None] * scale[None, None, :, None]
    _, vectors = np.linalg.eigh(block.reshape(3 * n, 3 * n))
    found = vectors[:, -3:].reshape(n, 3, 3) / scale[:, None, None]
    if np.linalg.det(found).sum() < 0:
        found = found * np.array([1.0, 1.0, -1.0])
    u, _, v = np.linalg.svd(found)
    sign = np.ones((n, 3))
    sign[:, 2] = np.sign(np.linalg.det(u @ v))
    w2c = (u * sign[:, None, :]) @ v
    c2w = np.swapaxes(w2c, 1, 2)
    return c2w[0].T @ c2w, placed


def _component(pairs: _Pairs, frames: int) -> np.ndarray:
    """Return the frames `(n,)`, ascending, of the largest set that pairs connect."""
    label = np.arange(frames)
    for _ in range(frames):
        low = np.minimum(label[pairs.i], label[pairs.j])
        after = label.copy()
        np.minimum.at(after, pairs.i, low)
        np.minimum.at(after, pairs.j, low)
        if (after == label).all():
            break
        label = after
    return np.nonzero(label == np.bincount(label).argmax())[0]


def _median_by(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Return the median of the values of every group `(groups,)`; each has at least one."""
    order = np.lexsort((values, group))
    count = np.bincount(group, minlength=groups)
    begin = np.cumsum([0, *count[:-1]])
    median: np.ndarray = values[order][begin + count // 2]
    return median

"""How far a pixel of a frame is, by laying a small patch around it onto other frames.

The patch is a piece of a plane: inverse depth is affine in the pixel,

    w(q) = w_0 (1 + g . (q - p) / r),        q of the patch around pixel p, r its half width,

so (w_0, g) says where each of its pixels falls in every other frame of known pose. They are right where the
patch looks the same there,

    (w_0, g) = argmax  mean of the better half of the frames of NCC(patch, frame at its places).

w_0 is swept over what the clip's points allow, then both are made finer. The better half, since what stands
before a place in some frames must not count. Legend: `m` other frames, `P` pixels of the patch, `C` tries.
"""

from __future__ import annotations

import numpy as np

from wm_env.annotation.structure import projected, rays
from wm_env.annotation.values import Track

HALF = 0.022  # of the width: half of the patch
SAMPLES = 13  # pixels of the patch are so many squared
FRAMES = 10  # others that are looked at, at most
LEAST_DEG, MOST_DEG = 1.0, 30.0  # between the rays from two frames that are compared
STEP = 0.02  # of log w_0
SLOPES = (-0.2, -0.1, 0.0, 0.1, 0.2)  # of w over the patch's half width
FINER = 4  # times that both are halved
ALIKE = 0.7  # of the correlation, at least
ELSEWHERE = 0.15  # of log w_0: another depth,
CLEARER = 3.0  # which must be so many times as unlike
FLAT = 2.0  # grey levels: a patch with less says nothing


def inverse_depth_at(
    pixel: np.ndarray, row: int, track: Track, frames: np.ndarray, nearest: float, farthest: float
) -> float | None:
    """Return the inverse depth of what a pixel `(2,)` of row `row` shows, unit of the track; None if unclear.

    frames: uint8 `(n, h, w, 3)`, those of the track. nearest, farthest: depths between which it is searched.
    """
    half = HALF * frames.shape[2]
    grid = np.linspace(-1.0, 1.0, SAMPLES)
    offset = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)  # (P, 2), half widths
    patch = _sample(_grey(frames[row]), pixel + half * offset)
    if np.isnan(patch).any() or patch.std() < FLAT:
        return None
    others = _others(pixel, row, track, np.sqrt(nearest * farthest))
    if len(others) < 2:
        return None
    grey = [_grey(frames[other]) for other in others]
    ways = rays(pixel + half * offset, track.intrinsics[row]) @ track.c2w[row, :3, :3].T  # (P, 3)

    def alike(logs: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Return the correlation `(C,)` of tries: log w_0 `(C,)`, g `(C, 2)`."""
        inverse = np.exp(logs)[:, None] * np.maximum(1 + slopes @ offset.T, 0.1)  # (C, P)
        places = ways / inverse[..., None] + track.c2w[row, :3, 3]
        found = [
            _alike(patch, image, places, track, other) for image, other in zip(grey, others, strict=True)
        ]
        best = np.sort(np.stack(found), axis=0)[len(found) // 2 :]
        mean: np.ndarray = best.mean(0)
        return mean

    logs = np.arange(-np.log(farthest), -np.log(nearest) + STEP, STEP)
    level = np.zeros((len(logs), 2))
    score = alike(logs, level)
    at, slope, step = float(logs[score.argmax()]), np.zeros(2), STEP
    rest = score[np.abs(logs - at) > ELSEWHERE]
    tilts = np.stack(np.meshgrid(SLOPES, SLOPES), axis=-1).reshape(-1, 2)
    for _ in range(FINER):
        near = at + step * np.linspace(-2, 2, 9)
        tries = [np.repeat(near, len(tilts)), np.tile(slope + tilts, (len(near), 1))]
        found = alike(*tries)
        best = int(found.argmax())
        at, slope, top = float(tries[0][best]), tries[1][best], float(found[best])
        step, tilts = step / 2, tilts / 2
    if top < ALIKE or (len(rest) and 1 - rest.max() < CLEARER * (1 - top)):
        return None
    return float(np.exp(at))


def _others(pixel: np.ndarray, row: int, track: Track, depth: float) -> list[int]:
    """Return rows whose rays to the place at `depth` differ by what can be compared, spread over angles."""
    ray = rays(pixel, track.intrinsics[row])
    place = track.c2w[row, :3, :3] @ (ray * depth) + track.c2w[row, :3, 3]
    ways = place - track.c2w[:, :3, 3]
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip(ways @ ways[row], -1, 1)))
    ahead = np.einsum("nab,nb->na", track.c2w[:, :3, :3].transpose(0, 2, 1), ways)
    shown = projected(ahead, track.intrinsics)
    inside = (ahead[:, 2] > 0.1) & (shown > 0).all(1) & (shown < 2 * track.intrinsics[:, 2:]).all(1)
    fit = np.nonzero(inside & (angle >= LEAST_DEG) & (angle <= MOST_DEG))[0]
    order = fit[np.argsort(angle[fit])]
    chosen = np.unique(np.linspace(0, len(order) - 1, min(FRAMES, len(order))).round().astype(int))
    return [int(order[one]) for one in chosen]


def _alike(patch: np.ndarray, image: np.ndarray, places: np.ndarray, track: Track, row: int) -> np.ndarray:
    """Return the correlation `(C,)` of a patch `(P,)` with a frame at places `(C, P, 3)`, -1 outside."""
    view = (places - track.c2w[row, :3, 3]) @ track.c2w[row, :3, :3]
    uv = projected(view, track.intrinsics[row])
    found = np.where(view[..., 2] > 0, _sample(image, uv), np.nan)  # (C, P)
    off = found - found.mean(1, keepdims=True)
    own = patch - patch.mean()
    spread = np.sqrt((off**2).mean(1)) * np.sqrt((own**2).mean())
    return np.nan_to_num((off * own).mean(1) / np.maximum(spread, 1e-6), nan=-1.0)


def _grey(frame: np.ndarray) -> np.ndarray:
    grey: np.ndarray = frame.astype(np.float64).mean(-1)
    return grey


def _sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Return an image `(h, w)` at pixels `(..., 2)` (centre of the first at 0.5), NaN outside."""
    height, width = image.shape
    x, y = uv[..., 0] - 0.5, uv[..., 1] - 0.5
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    column = np.clip(np.nan_to_num(x), 0, width - 1.001)
    line = np.clip(np.nan_to_num(y), 0, height - 1.001)
    left, upper = column.astype(int), line.astype(int)
    right, lower = column - left, line - upper
    top = image[upper, left] * (1 - right) + image[upper, left + 1] * right
    bottom = image[upper + 1, left] * (1 - right) + image[upper + 1, left + 1] * right
    return np.where(inside, top * (1 - lower) + bottom * lower, np.nan)

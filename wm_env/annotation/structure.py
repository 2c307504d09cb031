"""Points from matches and given poses, and how far the matches are from where the poses put them.

Features that match are joined to one point (union of pairs); a point p is where its rays o_s + t d_s meet,

    p = argmin sum_s w_s |(I - d_s d_s^T)(p - o_s)|^2,     w_s = 1 / depth_s^2 from the second step on

which is the reprojection error to first order. Rays that differ by less than `FAR_DEG`, as those of a camera
that stands, may meet nowhere: then the point is far away on their mean, if that leaves less. Nothing is left
out for being far off, so the errors speak about the poses: they come from no optimisation of them. Angle of
the rays, two alike: 2 asin sqrt(l / n), l the least eigenvalue of sum_s (I - d_s d_s^T).
"""

from __future__ import annotations

import numpy as np

from wm_env.annotation.values import Matches, Structure, Track

STEPS = 3
FAR_DEG = 1.0  # of rays that may be taken for parallel
CAP = 50.0  # pixels; a point is not far away for the sake of one wrong match
NEAREST = 1e-6
SIDE, CUTS = 12, 12  # frames on either side of a cut at least, and cuts that are tried
BOTH = 12  # points that both sides know, at least
ALIKE = 0.25  # between the quartiles of their log ratios, at most


def triangulate(matches: Matches, track: Track) -> Structure:
    """Return the points that at least two frames of the track see, with the errors of all observations."""
    row_of = np.full(len(matches.features) - 1, -1)
    row_of[track.frames] = np.arange(len(track.frames))
    row = row_of[matches.frame_of]  # (N,)
    usable = (row[matches.first] >= 0) & (row[matches.second] >= 0)
    point = _points(len(matches.uv), matches.first[usable], matches.second[usable], row)
    seen = np.nonzero(point >= 0)[0]
    point, row, uv = point[seen], row[seen], matches.uv[seen].astype(np.float64)
    if not len(point):
        none = np.zeros(0)
        return Structure(np.zeros((0, 3)), none, row, point, uv, none, none)
    count = int(point.max()) + 1
    camera = track.intrinsics[row]
    local = rays(uv, camera)
    rotation, origin = track.c2w[row, :3, :3], track.c2w[row, :3, 3]
    ray = np.einsum("sab,sb->sa", rotation, local / np.linalg.norm(local, axis=1, keepdims=True))
    across = np.eye(3) - ray[:, :, None] * ray[:, None, :]  # (S, 3, 3)
    seen_by = np.bincount(point, minlength=count)
    spread = _sums(point, across, count)
    least = np.linalg.eigvalsh(spread)[:, 0]
    angle = 2 * np.arcsin(np.sqrt(np.clip(least / np.maximum(seen_by, 1), 0, 1)))
    weight = np.ones(len(uv))
    for _ in range(STEPS):
        weighted = weight[:, None, None] * across
        left = _sums(point, weighted, count)
        left += 1e-9 * np.eye(3) * np.trace(left, axis1=1, axis2=2)[:, None, None]
        right = _sums(point, np.einsum("sab,sb->sa", weighted, origin), count)
        points = np.linalg.solve(left, right[:, :, None])[:, :, 0]
        view = np.einsum("sba,sb->sa", rotation, points[point] - origin)
        weight = 1 / np.maximum(view[:, 2] ** 2, NEAREST)
        weight /= np.maximum(_sums(point, weight, count)[point], 1e-300)
    error, depth = _error(view, camera, uv), view[:, 2]
    away = np.einsum("sba,sb->sa", rotation, _sums(point, ray, count)[point])
    far = _error(away / np.linalg.norm(away, axis=1, keepdims=True), camera, uv)
    nearer, farther = (_sums(point, np.minimum(one, CAP), count) for one in (error, far))
    is_far = ((farther < nearer) & (np.degrees(angle) < FAR_DEG))[point]
    error, depth = np.where(is_far, far, error), np.where(is_far, np.inf, depth)
    return Structure(points, np.degrees(angle), row, point, uv, error, depth)


def _error(view: np.ndarray, camera: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Return the pixels `(S,)` from features to places in the view `(S, 3)`, infinite behind the camera."""
    return np.where(view[:, 2] > NEAREST, np.linalg.norm(projected(view, camera) - uv, axis=1), np.inf)


def rays(uv: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return the rays `(..., 3)` with z = 1, in the camera's axes, through pixels `(..., 2)`.

    camera: fx, fy, cx, cy in pixels, `(4,)` or one for every pixel.
    """
    flat = (uv - camera[..., 2:]) / camera[..., :2]
    return np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1)


def projected(view: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return the pixels `(..., 2)` of places `(..., 3)` in the camera's axes; far off for what is behind.

    camera: as of `rays`.
    """
    found: np.ndarray = camera[..., :2] * view[..., :2] / np.maximum(view[..., 2:], NEAREST) + camera[..., 2:]
    return found


def sound(structure: Structure, within: float, least_angle_deg: float = 1.0) -> np.ndarray:
    """Return which observations `(S,)` bool are of points that all who see them agree on, to `within` pixels.

    least_angle_deg: of the rays to the point; with less its depth is not known.
    """
    worst = np.zeros(len(structure.points))
    np.maximum.at(worst, structure.point, structure.error)
    good: np.ndarray = ((worst <= within) & (structure.angle_deg >= least_angle_deg))[structure.point]
    return good


def unit_change(matches: Matches, track: Track, within: float) -> float | None:
    """Return the largest change of the poses' unit at a frame, a factor minus 1; None if nothing tells.

    A frame k cuts the track in two, which share it; each is triangulated alone, and what both see of the
    points in frame k must be as deep for one as for the other:

        change = max over k of exp |median log (depth before / depth after)| - 1

    over cuts with enough such points whose ratios are alike, as those of points seen under hardly different
    angles are not. Errors of matches do not show a path that goes on in another unit where hardly anything
    is seen from both sides of k. within: pixels, as of `sound`.
    """
    count = len(track.frames)
    if count <= 2 * SIDE:
        return None
    found = []
    for cut in np.unique(np.linspace(SIDE, count - 1 - SIDE, CUTS).astype(int)):
        depths = []
        for part, own in ((slice(0, cut + 1), cut), (slice(cut, count), 0)):
            side = Track(track.frames[part], track.c2w[part], track.intrinsics[part])
            seen = triangulate(matches, side)
            known = sound(seen, within) & (seen.row == own)
            depths.append({(u, v): z for (u, v), z in zip(seen.uv[known], seen.depth[known], strict=True)})
        before, after = depths
        ratios = [np.log(before[place] / after[place]) for place in before.keys() & after.keys()]
        if len(ratios) >= BOTH and np.subtract(*np.percentile(ratios, [75, 25])) <= ALIKE:
            found.append(abs(float(np.median(ratios))))
    return float(np.expm1(max(found))) if found else None


def _points(features: int, first: np.ndarray, second: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the point of every feature, -1 for none: matched features are one point, but not two of a frame.

    A point that a frame sees twice holds a wrong match and is left out.
    """
    label = np.arange(features)
    while True:
        low = np.minimum(label[first], label[second])
        after = label.copy()
        np.minimum.at(after, label[first], low)
        np.minimum.at(after, label[second], low)
        after = after[after]
        if (after == label).all():
            break
        label = after
    matched = np.zeros(features, bool)
    matched[first] = matched[second] = True
    at = np.nonzero(matched)[0]
    names, own = np.unique(label[at], return_inverse=True)
    both = own * (int(row.max(initial=0)) + 1) + row[at]
    _, copies, times = np.unique(both, return_inverse=True, return_counts=True)
    twice = np.zeros(len(names), bool)
    twice[own[times[copies] > 1]] = True
    number = np.cumsum(~twice) - 1
    point = np.full(features, -1)
    point[at] = np.where(twice[own], -1, number[own])
    return point


def _sums(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Return the sums of values `(S, ...)` by group, `(groups, ...)`."""
    flat = values.reshape(len(values), -1)
    columns = [np.bincount(group, weights=column, minlength=groups) for column in flat.T]
    summed: np.ndarray = np.stack(columns, axis=1).reshape(groups, *values.shape[1:])
    return summed

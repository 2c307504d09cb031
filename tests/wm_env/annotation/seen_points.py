"""Points in a room seen along a path, as matches: what the stages get without any picture."""

from __future__ import annotations

import numpy as np

from wm_env.annotation.values import Matches, Track

SIZE = (240, 320)
CAMERA = np.array([200.0, 200.0, 160.0, 120.0])


def turned(yaw: float, pitch: float = 0.0) -> np.ndarray:
    """Return a rotation `(3, 3)`: a turn to the right, then a look up."""
    c, s = np.cos(yaw), np.sin(yaw)
    look = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ look


def walk(frames: int = 48, *, moves: bool = True, seed: int = 0) -> Track:
    """Return true poses: a bent walk at 1.4 m over the floor y = 0, or the same turns on the spot."""
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    place = np.array([0.0, -1.4, -1.5])
    for at in range(frames):
        yaw = 0.6 * np.sin(at / 9 + seed)
        c2w[at, :3, :3] = turned(yaw, 0.12 * np.cos(at / 7))
        c2w[at, :3, 3] = place
        if moves:
            place = place + 0.05 * np.array([np.sin(yaw) + 0.5, 0.1 * np.cos(at / 5), np.cos(yaw)])
    return Track(np.arange(frames), c2w, np.tile(CAMERA, (frames, 1)), metric=True)


def room(points: int = 900, seed: int = 0) -> np.ndarray:
    """Return points `(n, 3)` on floor, walls and a low table of a room."""
    rng = np.random.default_rng(seed)
    n = points // 5
    u, v = rng.uniform(-1, 1, (2, 5, n))
    sides = [
        np.stack([4 * u[0], np.zeros(n), 4 * v[0]], 1),
        np.stack([4 * u[1], -1.3 + 1.3 * v[1], np.full(n, 4.0)], 1),
        np.stack([np.full(n, -4.0), -1.3 + 1.3 * v[2], 4 * u[2]], 1),
        np.stack([np.full(n, 4.0), -1.3 + 1.3 * v[3], 4 * u[3]], 1),
        np.stack([1.2 + 0.6 * u[4], np.full(n, -0.7), 1.5 + 0.6 * v[4]], 1),
    ]
    return np.concatenate(sides)


def matches_of(track: Track, points: np.ndarray, *, noise: float = 0.2, seed: int = 0) -> Matches:
    """Return what frames up to 24 apart see in common, with noise in pixels."""
    rng = np.random.default_rng(seed)
    features, uv, number = [0], [], []
    for pose, camera in zip(track.c2w, track.intrinsics, strict=True):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        ahead = local[:, 2] > 0.3
        pixel = camera[:2] * local[:, :2] / np.where(ahead, local[:, 2], 1)[:, None] + camera[2:]
        inside = ahead & (pixel >= 0).all(1) & (pixel < np.array(SIZE[::-1])).all(1)
        uv.append(pixel[inside] + rng.normal(0, noise, (int(inside.sum()), 2)))
        number.append(np.nonzero(inside)[0])
        features.append(features[-1] + len(uv[-1]))
    first, second = [], []
    for i in range(len(uv)):
        for j in (i + 1, i + 3, i + 8, i + 24):
            if j < len(uv):
                _, a, b = np.intersect1d(number[i], number[j], return_indices=True)
                first.append(features[i] + a)
                second.append(features[j] + b)
    return Matches(
        SIZE,
        np.array(features),
        np.concatenate(uv).astype(np.float32),
        np.concatenate(first),
        np.concatenate(second),
    )

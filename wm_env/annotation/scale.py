"""Metres in a unit of the poses: from one thing that is known about the place, or from a depth network.

known distance   metres / |P_2 - P_1|, both points where a patch around a pixel looks alike in all frames
                 (`wm_env.annotation.sweep`); where that is not clear, on a plane through the points nearby
camera height    metres / median height of the cameras over the floor, the lowest level plane
path length      metres / length of the path
depth            median over frames of the median ratio of predicted depth to depth of the points, with a
                 95% interval, bootstrap over frames
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wm_env.annotation.structure import rays, sound
from wm_env.annotation.sweep import inverse_depth_at
from wm_env.annotation.values import Scale, Structure, Track
from wm_env.context_check import depth_network
from wm_env.model.data.recorded import shrink
from wm_env.model.depth_estimator import load_depth_estimator
from wm_env.model.intrinsics import cover_crop
from wm_env.model.storage.facts import number, shown

NEAR = 12  # points around a pixel
BEYOND = 1.5  # times nearer than the nearest points, or farther: where a pixel may be
WITHIN = 0.006  # of the width: error of points that are trusted
DEPTH_FRAMES = 16  # that a depth network looks at
LEVEL_DEG = 5.0  # a floor is at most so steep against what the cameras hold for down
UPRIGHT = 0.001  # weight of the cameras' own down against their horizon
THICK = 0.015  # of the median depth: how far a point of a plane is off it
BENEATH = 0.03  # share of the points below the camera that may lie beneath a floor: wrong ones
OWN_SLOPE = 60  # points from which on a floor says itself how it lies, at most
STEEPER_DEG = 3.0  # off the slope that was tried
TILTED = 0.3  # of its votes that a plane loses at the steepest slope
RESAMPLES = 1000


@dataclass(frozen=True)
class KnownDistance:
    """Two pixels of a frame that are `metres` apart in the place. frame: number in the film, from 0 on."""

    frame: int
    u1: float
    v1: float
    u2: float
    v2: float
    metres: float

    def __post_init__(self) -> None:
        if not float(self.frame).is_integer() or self.frame < 0:
            raise ValueError(f"known distance: frame {shown(self.frame)} is no frame number; they start at 0")
        pixels = (self.u1, self.v1, self.u2, self.v2)
        if not all(number(one, -1e6, 1e6) for one in pixels) or pixels[:2] == pixels[2:]:
            raise ValueError(f"known distance: pixels {shown(pixels)} are not two places of a picture")
        _check_metres("known distance", self.metres)


@dataclass(frozen=True)
class CameraHeight:
    """The camera is carried at `metres` over the floor (median over the clip)."""

    metres: float

    def __post_init__(self) -> None:
        _check_metres("camera height", self.metres)


@dataclass(frozen=True)
class PathLength:
    """The camera goes `metres` from the first frame to the last."""

    metres: float

    def __post_init__(self) -> None:
        _check_metres("path length", self.metres)


@dataclass(frozen=True)
class DepthModel:
    """A metric depth estimator of transformers in a local folder."""

    folder: Path
    device: str = "cpu"


@dataclass(frozen=True)
class DepthWorld:
    """The depth network of an embedded world: for rendered rooms."""

    world: str = "tiny"


ScaleFrom = KnownDistance | CameraHeight | PathLength | DepthModel | DepthWorld


def _check_metres(name: str, metres: float) -> None:
    if not number(metres, 1e-6, 1e6):
        raise ValueError(f"{name} is {shown(metres)}; expected metres, above 0")


def prepare(source: ScaleFrom | None) -> None:
    """Load what a depth network needs, so that a folder that is none is refused before anything is done."""
    if isinstance(source, DepthModel):
        load_depth_estimator(source.folder, source.device)
    elif isinstance(source, DepthWorld):
        depth_network(source.world)


def scale_of(
    source: ScaleFrom,
    frames: np.ndarray,
    track: Track,
    structure: Structure,
    *,
    row_of: Callable[[int], int | None],
    shrunk_by: float,
) -> Scale:
    """Return the metres in a unit of a track.

    frames: uint8 `(n, h, w, 3)`, those of the track. row_of: the row of a film's frame number, None where it
    is not in the track. shrunk_by: pixels of a frame in one of the film. Raises `ValueError` in one sentence
    where the clip does not show what is needed.
    """
    if isinstance(source, PathLength):
        length = float(np.linalg.norm(np.diff(track.c2w[:, :3, 3], axis=0), axis=1).sum())
        if length <= 0:
            raise ValueError("no scale: the camera does not move")
        return Scale(source.metres / length, None, None, "path length")
    if isinstance(source, CameraHeight):
        return Scale(source.metres / camera_height(track, structure), None, None, "camera height")
    if isinstance(source, KnownDistance):
        row = row_of(int(source.frame))
        if row is None:
            raise ValueError(f"no scale: frame {source.frame:g} of the film, where a distance is known, is "
                             "not in this clip")  # fmt: skip
        ends = [
            place_of(np.array(pixel) * shrunk_by, row, track, structure, frames)
            for pixel in ((source.u1, source.v1), (source.u2, source.v2))
        ]
        return Scale(source.metres / float(np.linalg.norm(ends[1] - ends[0])), None, None, "known distance")
    if isinstance(source, DepthModel):
        estimate = load_depth_estimator(source.folder, source.device)
        return depth_scale(lambda row: _whole(estimate(torch.from_numpy(frames[row][None]))),
                           track, structure, f"depth estimator {source.folder.name}")  # fmt: skip
    network, size = depth_network(source.world)

    def predicted(row: int) -> tuple[np.ndarray, np.ndarray]:
        height, width = frames.shape[1:3]
        if height < size[0] or width < size[1]:
            raise ValueError(f"no scale: frames of {width}x{height} are smaller than the network's {size[1]}")
        small = torch.from_numpy(shrink(frames[row], size))[None]
        resized, corner = cover_crop((height, width), size)
        share = np.array([resized[1] / width, resized[0] / height])
        moved = np.array([corner[1], corner[0]])
        camera = track.intrinsics[row] * np.tile(share, 2) - np.array([0.0, 0.0, *moved])
        depth = network(small, torch.from_numpy(camera)).reshape(*size).cpu().numpy()
        return depth, np.stack([share, -moved])

    return depth_scale(predicted, track, structure, f"depth network of {source.world}")


def _whole(depth: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return depth `(h, w)` of a whole picture, and how its pixels are found: times 1, plus 0."""
    return depth[0].cpu().numpy(), np.array([[1.0, 1.0], [0.0, 0.0]])


def depth_scale(
    predicted: Callable[[int], tuple[np.ndarray, np.ndarray]], track: Track, structure: Structure, name: str
) -> Scale:
    """Return the scale by predicted depth.

    predicted: a row to depth `(h, w)` metres and `(2, 2)`, factor and shift from pixels of the frame to its
    own. Raises `ValueError` where too few frames see trusted points.
    """
    good = sound(structure, WITHIN * float(2 * track.intrinsics[0, 2]))
    rows = np.unique(np.linspace(0, len(track.frames) - 1, DEPTH_FRAMES).astype(int))
    ratios = []
    for row in rows:
        own = good & (structure.row == row)
        if own.sum() < NEAR:
            continue
        depth, (factor, shift) = predicted(int(row))
        x, y = np.floor(structure.uv[own] * factor + shift).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0])
        if inside.sum() >= NEAR:
            ratios.append(float(np.median(depth[y[inside], x[inside]] / structure.depth[own][inside])))
    if len(ratios) < 3:
        raise ValueError(f"no scale: only {len(ratios)} frames see enough points for a depth network")
    found = np.array(ratios)
    rng = np.random.default_rng(0)
    drawn = np.median(found[rng.integers(len(found), size=(RESAMPLES, len(found)))], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Scale(float(np.median(found)), float(low), float(high), name)


def place_of(
    pixel: np.ndarray, row: int, track: Track, structure: Structure, frames: np.ndarray
) -> np.ndarray:
    """Return the point `(3,)`, unit of the track, that a pixel `(2,)` of a frame shows.

    frames: uint8 `(n, h, w, 3)`, those of the track. Raises `ValueError` where neither the picture nor points
    nearby tell how far it is.
    """
    good = sound(structure, WITHIN * frames.shape[2])
    inverse = None
    if good.any():
        near, far = np.percentile(structure.depth[good], [1, 99])
        inverse = inverse_depth_at(pixel, row, track, frames, near / BEYOND, far * BEYOND)
    if inverse is None:
        inverse = _inverse_nearby(pixel, row, structure, good, frames.shape[2])
    ray = rays(pixel, track.intrinsics[row])
    place: np.ndarray = track.c2w[row, :3, :3] @ (ray / inverse) + track.c2w[row, :3, 3]
    return place


def _inverse_nearby(pixel: np.ndarray, row: int, structure: Structure, good: np.ndarray, width: int) -> float:
    """Return the inverse depth at a pixel of a plane through points that the frame shows around it.

    The inverse depth of a plane is affine in the pixel; it is fitted to the points, near ones and those that
    agree weighing most. Raises `ValueError` where too few are near.
    """
    own = good & (structure.row == row)
    uv, inverse = structure.uv[own], 1 / structure.depth[own]
    away = np.linalg.norm(uv - pixel, axis=1)
    nearest = np.argsort(away)[:NEAR]
    if len(nearest) < 4 or away[nearest[3]] > 0.1 * width:
        raise ValueError(
            f"no scale: too few points are known around pixel {pixel[0]:.0f}, {pixel[1]:.0f} of the frame; "
            "choose ends on something with texture"
        )
    flat = np.concatenate([np.ones((len(nearest), 1)), (uv[nearest] - pixel) / width], axis=1)
    near = 1 / (1 + (away[nearest] / (0.03 * width)) ** 2)
    weight = near.copy()
    for _ in range(10):
        ridge = np.diag([0.0, 1e-3, 1e-3]) * weight.sum()
        fit = np.linalg.solve((flat.T * weight) @ flat + ridge, (flat.T * weight) @ inverse[nearest])
        off = np.abs(flat @ fit - inverse[nearest]) / np.abs(inverse[nearest])
        weight = near / (1 + (off / 0.03) ** 2)
    if fit[0] <= 0:
        raise ValueError(f"no scale: the depth at pixel {pixel[0]:.0f}, {pixel[1]:.0f} cannot be told")
    return float(fit[0])


def camera_height(track: Track, structure: Structure) -> float:
    """Return the median height of the cameras over the floor, in units of the track.

    The floor is the plane with the most points, over slopes around what is down (`level_down`) and over
    offsets, among those that have hardly any points beneath, which no table has. Raises `ValueError` where
    there is none.
    """
    width = float(2 * track.intrinsics[0, 2])
    seen = np.unique(structure.point[sound(structure, WITHIN * width)])
    points, cameras = structure.points[seen], track.c2w[:, :3, 3]
    down = level_down(track)
    thick = THICK * float(np.median(structure.depth[np.isfinite(structure.error + structure.depth)]))
    under = (points - cameras.mean(0)) @ down > 0
    below, angle = points[under], structure.angle_deg[seen][under]
    if len(below) < 3 * NEAR:
        raise ValueError("no scale: too few points lie below the camera to find the floor; film some of it")
    votes, best, held = 0.0, down, np.zeros(len(below), bool)
    for normal in _around(down):
        fall, lowest = below @ normal, float((cameras @ normal).max())
        order = np.sort(fall)
        offset = order[order > lowest]
        within = np.searchsorted(order, offset + thick) - np.searchsorted(order, offset - thick)
        beneath = len(order) - np.searchsorted(order, offset + 2 * thick)
        within = np.where(beneath < BENEATH * len(order), within, 0)
        tilt = np.degrees(np.arccos(min(1.0, float(normal @ down))))
        if within.max(initial=0) * (1 - TILTED * tilt / LEVEL_DEG) > votes:
            votes, best = within.max() * (1 - TILTED * tilt / LEVEL_DEG), normal
            held = np.abs(fall - offset[np.argmax(within)]) < thick
    if held.sum() < NEAR:
        raise ValueError("no scale: no level plane was found below the camera; film some of the floor")
    middle, axis = _plane(below[held], angle[held])
    if held.sum() < OWN_SLOPE or abs(float(axis @ best)) < np.cos(np.radians(STEEPER_DEG)):
        axis = best  # a narrow strip of floor says nothing of its slope
    height = float(np.median(np.abs((cameras - middle) @ axis)))
    if height <= 0:
        raise ValueError("no scale: the floor that was found goes through the camera")
    return height


def level_down(track: Track) -> np.ndarray:
    """Return what is down for cameras that look up and down and around, but are hardly rolled, `(3,)`.

    Their x axes lie in the horizon: d = argmin mean (x_i . d)^2 + `UPRIGHT` mean |y_i - d|^2, so that y, down
    in the picture, decides where the camera never turns.
    """
    across, own = track.c2w[:, :3, 0], track.c2w[:, :3, 1]
    down = np.linalg.solve(across.T @ across / len(across) + UPRIGHT * np.eye(3), own.mean(0))
    return np.asarray(down / np.linalg.norm(down))


def _around(down: np.ndarray) -> list[np.ndarray]:
    """Return directions `(3,)` up to `LEVEL_DEG` from one, the nearest first, about a degree apart."""
    aside = np.linalg.svd(down[None])[2][1:]  # (2, 3), across
    found = [down]
    for tilt in np.radians(np.arange(1.0, LEVEL_DEG + 0.5, 1.0)):
        for turn in np.linspace(0, 2 * np.pi, max(6, round(360 * float(tilt))), endpoint=False):
            across = np.cos(turn) * aside[0] + np.sin(turn) * aside[1]
            found.append(np.cos(tilt) * down + np.sin(tilt) * across)
    return found


def _plane(points: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a point and the normal of the plane through most of the points `(m, 3)`.

    angle: `(m,)` of the rays to each, with which it gets surer. What stands on the plane, as the foot of a
    wall, is left out: points farther off than three times the usual, again and again.
    """
    own = np.ones(len(points), bool)
    for _ in range(8):
        weight = np.where(own, angle, 0.0)[:, None] ** 2
        middle = (points * weight).sum(0) / weight.sum()
        axis = np.linalg.svd((points - middle) * np.sqrt(weight), full_matrices=False)[2][2]
        away = np.abs((points - middle) @ axis)
        own = away <= 3 * max(float(np.median(away[own])), 1e-12)
    return middle, axis

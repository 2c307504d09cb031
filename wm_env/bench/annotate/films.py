"""Rendered films whose poses are known: walks, turns, and what makes poses hard to find.

    walk            keys of a random walk
    turns           strafes and turns at once: parallax from every side
    rotation        turns on the spot
    zoom            a walk whose focal length goes up by half and back
    fog             a walk in foggy air
    low texture     a walk with a quarter of the texture
    motion blur     a walk whose shutter is open for half of every frame
    compression     a walk, compressed until blocks show (crf 36)

All have the fine texture (`wm_env.model.scenes.detail`), are `SIZE` pixels wide and high, and are H.264.
Legend: `F` frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import assemble
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.paths import start_fov_deg, start_pose, trajectory, walk_keys
from wm_env.model.scenes.raycast import render, surfaces
from wm_env.model.scenes.worlds import Scene, make_scene
from wm_env.model.storage.film import film_file

HARD = ("zoom", "fog", "low texture", "motion blur", "compression")
KINDS = ("walk", "turns", "rotation", *HARD)
FPS, CRF, CRF_HARD = 16, 10, 36
LEAST_PATH = 1.0  # metres, of a clip that moves
SHUTTER = (-0.25, 0.0, 0.25)  # of a frame: when the pictures of a blurred one are taken
ZOOM = 0.5
TURNS = ("wd", "d", "wa", "a", "jd", "la", "wj", "wl")
LOOKS = ("d", "a", "di", "ak")


class Film(NamedTuple):
    """A film with its truth.

    path: the film. c2w: `(F, 4, 4)` float64, metres. intrinsics: `(F, 4)` pixels. height: metres of the
    camera over the floor, median. known: frame, u, v, u, v and metres between two places that it shows.
    """

    path: Path
    kind: str
    c2w: np.ndarray
    intrinsics: np.ndarray
    height: float
    known: tuple[int, float, float, float, float, float]


def film_of(kind: str, number: int, seed: int, steps: int, size: int, folder: Path) -> Film:
    """Return film `number` of a kind, written to `folder` unless it is there.

    The scene is the first after `seed`, a thousand a kind, in which the camera goes far enough.
    """
    first = seed + 1000 * KINDS.index(kind) + 10 * number
    for own in range(first, first + 10):
        scene = make_scene(own, "val")
        scene = scene._replace(air=torch.full_like(scene.air, int(kind == "fog")))
        c2w = walk_keys(scene, start_pose(scene, own)[None], keys_of(kind, steps, own))[0]
        path = float((c2w[1:, :3, 3] - c2w[:-1, :3, 3]).norm(dim=-1).sum())
        if kind == "rotation" or path >= LEAST_PATH * steps / 16:
            break
    camera = torch.tensor(intrinsics_from_fov(start_fov_deg(own), size, size), dtype=torch.float64)
    intrinsics = camera.repeat(len(c2w), 1)  # (F, 4)
    if kind == "zoom":
        wave = torch.sin(torch.linspace(0, torch.pi, len(c2w), dtype=torch.float64))
        intrinsics[:, :2] *= 1 + ZOOM * wave[:, None]
    target = folder / f"{kind.replace(' ', '-')}-{number:02d}.mp4"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}")
        crf = CRF_HARD if kind == "compression" else CRF
        with film_file(partial, fps=FPS, crf=crf) as add:
            for index in range(len(c2w)):
                add(_picture(scene, c2w, index, intrinsics[index], kind, size))
        partial.replace(target)
    return Film(
        target,
        kind,
        c2w.numpy(),
        intrinsics.numpy(),
        float(-c2w[:, 1, 3].median()),
        known_distance(scene, c2w, intrinsics, size, own),
    )


def keys_of(kind: str, steps: int, seed: int) -> list[str]:
    """Return the keys held on every step of a film."""
    rng = np.random.default_rng(seed)
    if kind == "rotation":
        return [str(key) for key in np.repeat(rng.permutation(LOOKS), -(-steps // len(LOOKS)))[:steps]]
    if kind == "turns":
        return [str(key) for key in np.repeat(rng.permutation(TURNS), -(-steps // len(TURNS)))[:steps]]
    return trajectory("random_walk", steps, seed)


def _picture(scene: Scene, c2w: Tensor, index: int, camera: Tensor, kind: str, size: int) -> np.ndarray:
    """Return a frame uint8 `(size, size, 3)`."""
    detail = 0.25 if kind == "low texture" else 1.0
    poses = c2w[index : index + 1]
    if kind == "motion blur":
        poses = torch.stack([between(c2w, index + part) for part in SHUTTER])
    shown, _ = render(scene, poses[None], camera[None], size, size, detail=detail)
    return shown[0].float().mean(0).round().to(torch.uint8).numpy()


def between(c2w: Tensor, at: float) -> Tensor:
    """Return the pose `(4, 4)` at a frame number that may lie between two, of poses `(F, 4, 4)`."""
    place = min(max(at, 0.0), len(c2w) - 1.0)
    low = min(int(place), len(c2w) - 2)
    blend = torch.lerp(c2w[low], c2w[low + 1], place - low)
    u, _, v = torch.linalg.svd(blend[:3, :3])
    return assemble((u @ v)[None], blend[None, :3, 3])[0]


def known_distance(
    scene: Scene, c2w: Tensor, intrinsics: Tensor, size: int, seed: int
) -> tuple[int, float, float, float, float, float]:
    """Return two pixels of the middle frame and the metres between what they show.

    They are drawn until both lie in a patch of one surface, a third of the picture apart, as a person would
    choose two ends that can be seen.
    """
    frame = len(c2w) // 2
    pose, camera = c2w[None, frame : frame + 1], intrinsics[frame : frame + 1]
    _, depth = render(scene, pose, camera, size, size)
    surface = surfaces(scene, pose, camera, size, size)[0, 0].numpy()
    rng, half = np.random.default_rng(seed), max(3, size // 40)
    ends: list[np.ndarray] = []
    for _ in range(2000):
        u, v = rng.integers(size // 8, size - size // 8, 2)
        patch = surface[v - half : v + half + 1, u - half : u + half + 1]
        pixel = np.array([u + 0.5, v + 0.5])
        apart = not ends or float(np.linalg.norm(pixel - ends[0])) > size / 3
        if (patch == patch[0, 0]).all() and apart:
            ends.append(pixel)
        if len(ends) == 2:
            break
    else:  # no such pair: the corners of the middle half
        ends = [np.array([size / 4 + 0.5, size / 4 + 0.5]), np.array([0.75 * size + 0.5, 0.75 * size + 0.5])]
    fx, fy, cx, cy = camera[0].tolist()
    places = []
    for u, v in ends:
        z = float(depth[0, 0, int(v), int(u)])
        places.append(np.array([(u - cx) / fx * z, (v - cy) / fy * z, z]))
    metres = float(np.linalg.norm(places[1] - places[0]))
    return (frame, *(float(one) for one in np.concatenate(ends)), metres)  # type: ignore[return-value]

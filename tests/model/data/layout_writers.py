"""One rendered walk as each tool writes it, with the conventions spelled out and not taken from readers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.data.procedural import RenderConfig, render_clip

FRAMES, SIZE = 11, 32
TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@cache
def walk() -> PosedClip:
    """Return a rendered walk whose poses are relative to a frame of its middle, so that none is special."""
    arrays, _ = render_clip(3, RenderConfig(frames=13, size=SIZE, event_fraction=0.0))
    c2w = np.linalg.inv(arrays["c2w"][5].astype(np.float64)) @ arrays["c2w"]
    return PosedClip(arrays["rgb"][:FRAMES], c2w[:FRAMES], arrays["intrinsics"], 30)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return x, y, z, w of a rotation: the largest eigenvector of Bar-Itzhack's matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = [
        [a - e - i, b + d, c + g, h - f],
        [b + d, e - a - i, f + h, c - g],
        [c + g, f + h, i - a - e, d - b],
        [h - f, c - g, d - b, a + e + i],
    ]
    return np.linalg.eigh(np.array(k)).eigenvectors[:, -1]


def write_pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name, frame in zip(names, walk().frames, strict=True):
        Image.fromarray(frame).save(folder / name)


def write_transforms(folder: Path, **changed: Any) -> Path:
    """Write transforms.json of nerfstudio, its frames in another order; None leaves a value out."""
    names = [f"frame_{i + 1}.png" for i in range(FRAMES)]  # frame_10 comes after frame_9
    write_pictures(folder / "images", names)
    fx, fy, cx, cy = walk().intrinsics.tolist()
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": (pose @ TO_OPENGL).tolist()}
        for name, pose in zip(names, walk().c2w, strict=True)
    ]
    values = {"camera_model": "OPENCV", "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": SIZE, "h": SIZE}
    values = {**values, "k1": 0.001, "p1": 0.0, "frames": frames[::-1], **changed}
    text = json.dumps({name: value for name, value in values.items() if value is not None})
    (folder / "transforms.json").write_text(text)
    return folder


def write_polycam(folder: Path, **changed: Any) -> Path:
    """Write Polycam's raw data: a camera for each picture, both named by microseconds."""
    times = [1442008525605 + 33333 * i for i in range(FRAMES)]
    write_pictures(folder / "keyframes" / "corrected_images", [f"{time}.png" for time in times])
    cameras = folder / "keyframes" / "corrected_cameras"
    cameras.mkdir()
    fx, fy, cx, cy = walk().intrinsics.tolist()
    for time, pose in zip(times, walk().c2w, strict=True):
        arkit = pose @ TO_OPENGL
        entry = {f"t_{i}{j}": arkit[i, j] for i in range(3) for j in range(4)}
        entry |= {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "width": SIZE, "height": SIZE, "blur_score": 90.0}
        (cameras / f"{time}.json").write_text(json.dumps({**entry, **changed}))
    return folder


def write_record3d(folder: Path, **changed: Any) -> Path:
    """Write an unzipped .r3d."""
    write_pictures(folder / "rgbd", [f"{i}.png" for i in range(FRAMES)])
    poses = [pose @ TO_OPENGL for pose in walk().c2w]
    rows = [[*quaternion(pose[:3, :3]), *pose[:3, 3]] for pose in poses]
    fx, fy, cx, cy = walk().intrinsics.tolist()
    values = {"poses": rows, "K": [fx, 0, 0, 0, fy, 0, cx, cy, 1], "w": SIZE, "h": SIZE, "fps": 30}
    (folder / "metadata").write_text(json.dumps({**values, **changed}))
    return folder


def write_tum(folder: Path, late: float = 0.004, intrinsics: bool = True) -> Path:
    """Write a sequence whose poses are `late` seconds after the pictures, and two far from them."""
    times = [1305031102.175304 + i / 30 for i in range(FRAMES)]
    write_pictures(folder / "rgb", [f"{time:.6f}.png" for time in times])
    lines = ["# color images", "# timestamp filename", *(f"{t:.6f} rgb/{t:.6f}.png" for t in times)]
    (folder / "rgb.txt").write_text("\n".join(lines) + "\n")
    stamps = [times[0] - 1, *(time + late for time in times), times[-1] + 1]
    poses = [walk().c2w[0], *walk().c2w, walk().c2w[-1]]
    rows = [[t, *pose[:3, 3], *quaternion(pose[:3, :3])] for t, pose in zip(stamps, poses, strict=True)]
    text = "# timestamp tx ty tz qx qy qz qw\n" + "\n".join(" ".join(f"{x:.9f}" for x in row) for row in rows)
    (folder / "groundtruth.txt").write_text(text + "\n")
    if intrinsics:
        (folder / "intrinsics.txt").write_text(" ".join(f"{x:.9f}" for x in walk().intrinsics))
    return folder


def write_colmap(folder: Path, camera: str | None = None) -> Path:
    """Write a model by hand, as text; pictures in an order of their own, one without a pose."""
    names = [f"frame_{i + 1}.png" for i in range(FRAMES)]
    write_pictures(folder / "images", names)
    Image.fromarray(walk().frames[0]).save(folder / "images" / "frame_99.png")
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    fx, fy, cx, cy = walk().intrinsics.tolist()
    camera = camera or f"PINHOLE {SIZE} {SIZE} {fx!r} {fy!r} {cx!r} {cy!r}"
    (model / "cameras.txt").write_text(f"# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n1 {camera}\n")
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for index in reversed(range(FRAMES)):
        w2c = np.linalg.inv(walk().c2w[index])
        x, y, z, w = quaternion(w2c[:3, :3])
        numbers = " ".join(repr(float(value)) for value in (w, x, y, z, *w2c[:3, 3]))
        lines += [f"{index + 1} {numbers} 1 {names[index]}", ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("# 3D point list\n")
    return folder

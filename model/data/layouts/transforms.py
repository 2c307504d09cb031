"""transforms.json of nerfstudio, which instant-ngp, Polycam and Record3D clips are converted to as well.

    FOLDER/transforms.json   frames, each with file_path and transform_matrix; for all or in each frame fl_x,
                             fl_y, cx, cy, w, h or camera_angle_x, and k1, k2, k3, p1, p2; applied_transform,
                             applied_scale
    FOLDER/images/...        the pictures, wherever file_path says

transform_matrix is camera-to-world with OpenGL axes, x right, y up, z back
(https://docs.nerf.studio/quickstart/data_conventions.html): our y and z are its y and z turned round.
applied_transform led from the original world to the one of the file, and applied_scale scaled it after
(https://github.com/nerfstudio-project/nerfstudio/pull/2791); both are undone, so the poses are those that the
phone or COLMAP gave, in its unit. Frames are taken by name, not in the order of the file, which may be any.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_env.model.data.layouts.pictures import (
    IMAGES,
    Pictures,
    by_name,
    folder_clips,
    read_json,
    these_frames,
)
from wm_env.model.data.lens import check_pinhole, lens_of, numbers_of
from wm_env.model.data.recorded import ClipRef, RecordedClip, in_shares, one_size
from wm_env.model.geometry import check_rigid, invert_rigid
from wm_env.model.storage.facts import brief, number, shown

NAME = "transforms.json"
_PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")


def from_opengl(c2w: Tensor) -> Tensor:
    """Return poses `(..., 4, 4)` of cameras with y up and z back as those of y down and z forward."""
    return c2w * c2w.new_tensor([1.0, -1.0, -1.0, 1.0])  # columns y and z


def is_transforms(folder: Path) -> bool:
    """Return whether a folder has a transforms.json."""
    return (folder / NAME).is_file()


def transforms_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clip of a folder with transforms.json, or those of the folders below it, by name."""
    return folder_clips(folder, is_transforms, transforms_clip, pictures)


def transforms_clip(name: str, folder: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of a transforms.json; the frames have no times."""
    values = read_json(folder / NAME)
    frames = values.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{NAME} has no list of frames; expected file_path and transform_matrix of each")
    lacking = [i for i, frame in enumerate(frames) if not {"file_path", "transform_matrix"} <= frame.keys()]
    if lacking:
        raise ValueError(f"frame {lacking[0]} of {NAME} lacks file_path or transform_matrix")
    named = [(_picture(folder, str(frame["file_path"])), frame) for frame in frames]
    rows = sorted(named, key=lambda row: by_name(row[0]))
    paths = [path for path, _ in rows]
    matrices = _numbers([frame["transform_matrix"] for _, frame in rows], "transform_matrix")
    if matrices.shape[1:] == (3, 4):
        matrices = torch.cat([matrices, torch.tensor([[[0.0, 0, 0, 1]]]).double().expand(len(rows), 1, 4)], 1)
    if matrices.shape[1:] != (4, 4):
        raise ValueError(f"transform_matrix has shape {tuple(matrices.shape[1:])}; expected (4, 4)")
    cameras = [_camera({**values, **frame}, path, pictures) for path, frame in rows]
    return RecordedClip(
        name=name,
        c2w=_original(from_opengl(matrices), values),
        intrinsics=torch.stack([camera for camera, _ in cameras]),
        normalised=True,
        size=one_size(size for _, size in cameras),
        frames=lambda: these_frames(paths, pictures),
    )


def _picture(folder: Path, said: str) -> Path:
    """Return the path of a frame; synthetic scenes leave the suffix out."""
    path = folder / said
    if path.suffix.lower() in IMAGES:
        return path
    found = [path.with_name(path.name + suffix) for suffix in IMAGES]
    return next((candidate for candidate in found if candidate.is_file()), path)


def _original(c2w: Tensor, values: Mapping[str, Any]) -> Tensor:
    """Return poses `(F, 4, 4)` in the world that applied_transform and applied_scale started from."""
    c2w = c2w.clone()
    if values.get("applied_scale") is not None:
        scale = values["applied_scale"]
        if not number(scale, 1e-9, 1e9):
            raise ValueError(f"applied_scale is {shown(scale)}; expected a positive number")
        c2w[:, :3, 3] /= scale
    if values.get("applied_transform") is not None:
        applied = torch.eye(4, dtype=torch.float64)
        rows = _numbers(values["applied_transform"], "applied_transform")
        if rows.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"applied_transform has shape {tuple(rows.shape)}; expected (3, 4)")
        applied[: len(rows)] = rows
        try:
            check_rigid(applied)
        except ValueError as error:
            raise ValueError(f"applied_transform of {NAME}: {error}") from error
        c2w = invert_rigid(applied) @ c2w
    return c2w


def _camera(
    values: Mapping[str, Any], picture: Path, pictures: Pictures
) -> tuple[Tensor, tuple[float, float]]:
    """Return the intrinsics `(4,)` of a frame in image widths and heights, and that size (height, width)."""
    model = str(values.get("camera_model") or "OPENCV").upper()
    if model not in _PINHOLE_MODELS:
        raise ValueError(f"camera_model is {model}; expected a pinhole camera, so undistort the pictures")
    names = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
    known = numbers_of(values, names)
    if "w" not in known or "h" not in known:
        height, width = pictures.image(picture).shape[:2]
        known = {**known, "w": float(width), "h": float(height)}
    w, h = known["w"], known["h"]
    for focal, angle, side in (("fl_x", "camera_angle_x", w), ("fl_y", "camera_angle_y", h)):
        if focal not in known and angle in known:
            known[focal] = 0.5 * side / float(torch.tan(torch.tensor(known[angle] / 2, dtype=torch.float64)))
    if "fl_x" not in known:
        raise ValueError(f"{NAME} has neither fl_x nor camera_angle_x; expected the focal length in pixels")
    fx, fy = known["fl_x"], known.get("fl_y", known["fl_x"])
    camera = torch.tensor([fx, fy, known.get("cx", w / 2), known.get("cy", h / 2)], dtype=torch.float64)
    shares = in_shares(camera, h, w)
    check_pinhole(lens_of(values), camera, (round(h), round(w)), "undistort the pictures")
    return shares, (h, w)


def _numbers(values: Any, name: str) -> Tensor:
    try:
        return torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} of {NAME} is not numbers: {brief(error)}") from error

"""What scanning apps of phones with LiDAR export; both write ARKit's poses, camera-to-world in metres.

ARKit's camera has OpenGL axes: x right, y up, z back.

Polycam, "raw data" (https://github.com/PolyCam/polyform, README):

    keyframes/corrected_cameras/TIME.json   t_00 .. t_23, row-major 3x4 camera-to-world; fx, fy, cx, cy,
                                            width, height; TIME in microseconds
    keyframes/corrected_images/TIME.jpg     undistorted; keyframes/cameras and keyframes/images where the
                                            session was not optimised

Record3D, a .r3d that was unzipped, or EXR + JPG (https://github.com/marek-simonik/record3d/issues/33, OpenGL
axes; https://github.com/marek-simonik/record3d/issues/88, no distortion):

    metadata, or metadata.json   poses, a row qx qy qz qw tx ty tz for each frame; K, column by column, or
                                 perFrameIntrinsicCoeffs, a row fx fy cx cy each; w, h, fps
    rgbd/0.jpg, or rgb/0.jpg     one for each row
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_env.model.data.layouts.pictures import (
    Pictures,
    by_name,
    folder_clips,
    pictures_in,
    read_json,
    these_frames,
)
from wm_env.model.data.layouts.transforms import from_opengl
from wm_env.model.data.lens import check_pinhole, lens_of
from wm_env.model.data.recorded import ClipRef, RecordedClip, in_shares, one_size, rate_of
from wm_env.model.geometry import assemble, rotation_from_quaternion
from wm_env.model.storage.facts import brief, number, shown

_POLYCAM = (("corrected_cameras", "corrected_images"), ("cameras", "images"))


def is_polycam(folder: Path) -> bool:
    """Return whether a folder is Polycam's raw data."""
    return any((folder / "keyframes" / cameras).is_dir() for cameras, _ in _POLYCAM)


def polycam_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clip of Polycam's raw data, or those of the folders below, by name."""
    return folder_clips(folder, is_polycam, polycam_clip, pictures)


def polycam_clip(name: str, folder: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of Polycam's raw data, of its optimised cameras where there are any."""
    cameras, images = next(pair for pair in _POLYCAM if (folder / "keyframes" / pair[0]).is_dir())
    files = sorted((folder / "keyframes" / cameras).glob("*.json"), key=by_name)
    paths = {path.stem: path for path in pictures_in(folder / "keyframes" / images)}
    alone = sorted(paths.keys() ^ {path.stem for path in files})
    if alone or not files:
        what = f"{alone[0]} is in one of them only" if alone else "both are empty"
        raise ValueError(f"keyframes/{cameras} and keyframes/{images} do not match: {what}")
    named = [path.name for path in files if not path.stem.isdigit()]
    if named:
        raise ValueError(f"keyframes/{cameras}/{named[0]} is not named by a time in microseconds")
    entries = [read_json(path) for path in files]
    matrix = [f"t_{row}{column}" for row in range(3) for column in range(4)]
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(files), 1, 1)
    c2w[:, :3] = torch.stack([_row(entry, matrix, "camera").view(3, 4) for entry in entries])
    camera = torch.stack([_row(entry, ["fx", "fy", "cx", "cy"], "camera") for entry in entries])
    size = one_size(tuple(_row(entry, ["height", "width"], "camera").tolist()) for entry in entries)
    shares = in_shares(camera, *size)
    for row, entry in zip(camera, entries, strict=True):
        check_pinhole(lens_of(entry), row, (round(size[0]), round(size[1])), "undistort the pictures")
    return RecordedClip(
        name=name,
        c2w=from_opengl(c2w),
        intrinsics=shares,
        normalised=True,
        size=size,
        rate=lambda: rate_of([int(path.stem) * 1e-6 for path in files]),
        frames=lambda: these_frames([paths[path.stem] for path in files], pictures),
    )


def is_record3d(folder: Path) -> bool:
    """Return whether a folder is an export of Record3D."""
    return _metadata(folder) is not None and any((folder / rgb).is_dir() for rgb in ("rgbd", "rgb"))


def record3d_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clip of a Record3D export, or those of the folders below, by name."""
    return folder_clips(folder, is_record3d, record3d_clip, pictures)


def record3d_clip(name: str, folder: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of a Record3D export at the rate it says."""
    path = _metadata(folder)
    assert path is not None
    values = read_json(path)
    poses = _table(values, "poses", 7)
    if len(poses) > 1 and bool((poses == poses[0]).all()):
        raise ValueError(
            "all poses are equal: Record3D knows those of LiDAR videos only; film with the rear camera"
        )
    c2w = from_opengl(assemble(rotation_from_quaternion(poses[:, :4]), poses[:, 4:]))
    if values.get("perFrameIntrinsicCoeffs"):
        camera = _table(values, "perFrameIntrinsicCoeffs", 4)
        if len(camera) != len(poses):
            raise ValueError(f"{path.name} has {len(camera)} rows of intrinsics for {len(poses)} poses")
    else:
        k = _table({"K": [values.get("K")]}, "K", 9)[0]  # column by column
        camera = torch.stack([k[0], k[4], k[6], k[7]]).expand(len(poses), 4)
    rgb = next(folder / name for name in ("rgbd", "rgb") if (folder / name).is_dir())
    height, width = _row(values, ["h", "w"], path.name).tolist()
    shares = in_shares(camera, height, width)
    check_pinhole(lens_of(values), camera[0], (round(height), round(width)), "undistort the pictures")
    fps = values.get("fps")
    if fps is not None and not number(fps, 0.001, 1e4):
        raise ValueError(f"fps of {path.name} is {shown(fps)}; expected frames per second")
    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=shares,
        normalised=True,
        size=(height, width),
        rate=lambda: None if fps is None else float(fps),
        frames=lambda: these_frames(pictures_in(rgb), pictures),
    )


def _metadata(folder: Path) -> Path | None:
    found = [folder / name for name in ("metadata", "metadata.json") if (folder / name).is_file()]
    return found[0] if found else None


def _row(values: dict[str, Any], names: list[str], where: str) -> Tensor:
    """Return the numbers of some names, float64."""
    lacking = [name for name in names if not number(values.get(name), -1e300, 1e300)]
    if lacking:
        raise ValueError(
            f"{where} has no number {lacking[0]}, but {shown(values.get(lacking[0]))}; it holds "
            f"{', '.join(sorted(values)[:20])}"
        )
    return torch.tensor([values[name] for name in names], dtype=torch.float64)


def _table(values: dict[str, Any], name: str, columns: int) -> Tensor:
    """Return rows of numbers, float64 `(n, columns)`."""
    try:
        table = torch.tensor(values.get(name), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} of Record3D is not rows of {columns} numbers: {brief(error)}") from error
    if table.ndim != 2 or table.shape[1] != columns or not len(table):
        raise ValueError(f"{name} of Record3D has shape {tuple(table.shape)}; expected (F, {columns})")
    return table

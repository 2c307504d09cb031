"""Models of COLMAP, read by pycolmap (extra `annotate`).

    FOLDER/sparse/0/   cameras, images, points3D as .bin or .txt (FOLDER itself, FOLDER/sparse and
                       FOLDER/colmap/sparse/0 too)
    FOLDER/images/     the pictures, by the names that the model has for them

A pose is world-to-camera, OpenCV axes (https://colmap.github.io/format.html); the unit is arbitrary, so
`scale` has to make metres. Pictures without a pose are left out; frames are taken by name and have no times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_env.model.data.layouts.pictures import Pictures, by_name, folder_clips, these_frames
from wm_env.model.data.lens import check_pinhole
from wm_env.model.data.recorded import ClipRef, RecordedClip, in_shares, one_size
from wm_env.model.geometry import assemble, invert_rigid

_MODELS = ("", "sparse/0", "sparse", "colmap/sparse/0")
_LENS: dict[str, tuple[str, ...]] = {  # the parameters of a camera after those of the pinhole
    "SIMPLE_PINHOLE": (),
    "PINHOLE": (),
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2"),
}
_ADVICE = "run `colmap image_undistorter` and load its output"


def model_in(folder: Path) -> Path | None:
    """Return the folder of the model that belongs to a folder, None where there is none."""
    for inside in _MODELS:
        for suffix in (".bin", ".txt"):
            if all((folder / inside / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
                return folder / inside
    return None


def is_colmap(folder: Path) -> bool:
    """Return whether a folder has a model of COLMAP."""
    return model_in(folder) is not None


def colmap_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the clip of a model, or those of the folders below, by name."""
    return folder_clips(folder, is_colmap, colmap_clip, pictures)


def colmap_clip(name: str, folder: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of a model; raises `ImportError` naming the extra where pycolmap is not installed."""
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(
            "COLMAP models are read by pycolmap, which is not installed; pip install 'wm-env[annotate]'"
        ) from error
    path = model_in(folder)
    assert path is not None
    try:
        model = pycolmap.Reconstruction(str(path))
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"the COLMAP model in {path.name} cannot be read: {error}") from error
    posed = [image for image in model.images.values() if image.has_pose]
    images = sorted(posed, key=lambda image: by_name(Path(image.name)))
    if not images:
        raise ValueError("the COLMAP model has no picture with a pose; reconstruct with more overlap")
    places = [base / "images" for base in (folder, path, path.parent, path.parent.parent)]
    place = next((at for at in places if (at / images[0].name).is_file()), None)
    if place is None:
        raise ValueError(f"{images[0].name} of the model is missing; expected it in {str(places[0])!r}")
    w2c = torch.stack([torch.from_numpy(image.cam_from_world().matrix()) for image in images])  # (F, 3, 4)
    cameras = [model.cameras[image.camera_id] for image in images]
    return RecordedClip(
        name=name,
        c2w=invert_rigid(assemble(w2c[..., :3], w2c[..., 3])),
        intrinsics=torch.stack([_camera(camera) for camera in cameras]),
        normalised=True,
        size=one_size((camera.height, camera.width) for camera in cameras),
        metric=False,
        frames=lambda: these_frames([place / image.name for image in images], pictures),
    )


def _camera(camera: Any) -> Tensor:
    """Return the intrinsics `(4,)` of a pycolmap camera in image widths and heights."""
    model = str(camera.model_name)
    if model not in _LENS:
        raise ValueError(f"the camera is {model}; expected a pinhole camera, so {_ADVICE}")
    found = torch.tensor(
        [camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y],
        dtype=torch.float64,
    )
    numbers = _LENS[model]
    values = [float(value) for value in camera.params[len(camera.params) - len(numbers) :]]
    check_pinhole(dict(zip(numbers, values, strict=True)), found, (camera.height, camera.width), _ADVICE)
    return in_shares(found, camera.height, camera.width)

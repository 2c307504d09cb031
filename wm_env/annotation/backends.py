"""Where poses come from: one protocol, two ways to meet it.

pycolmap    structure from motion: incremental mapping of pycolmap (BSD) on the matches; a camera that
            only turns is found before that (`wm_env.annotation.rotation`)
given       poses that a tool of yours wrote, in every layout of docs/clips.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from wm_env.annotation.joining import joined
from wm_env.annotation.matching import DATABASE, IMAGES, frame_name, load_pycolmap, quiet
from wm_env.annotation.recipe import Recipe
from wm_env.annotation.rotation import rotation_only
from wm_env.annotation.values import Matches, Track

BACKENDS = ("pycolmap", "given")


class Clip(NamedTuple):
    """What a backend is given: matches of `frames` frames, the folder `work` that `match_frames` left."""

    matches: Matches
    frames: int
    work: Path


class PoseBackend(Protocol):
    """Finds poses. name: as asked for. settings: values that decide its result, for the cache."""

    name: str

    def settings(self) -> dict[str, Any]:
        """Return everything beside the matches that its result depends on."""
        ...

    def track(self, clip: Clip) -> Track:
        """Return the poses of a clip's frames, of those that it can place.

        Raises `ValueError` in one sentence where it can place none.
        """
        ...


class Colmap:
    """Incremental mapping of pycolmap. zoom: a focal length for every frame instead of one for the clip."""

    name = "pycolmap"

    def __init__(self, recipe: Recipe, *, zoom: bool = False, threads: int = 1) -> None:
        self._recipe, self._zoom, self._threads = recipe, zoom, threads

    def settings(self) -> dict[str, Any]:
        """Return its settings and the version of pycolmap."""
        mapping, rotation = self._recipe.mapping, self._recipe.rotation
        version = str(load_pycolmap().__version__)
        return {"pycolmap": version, "zoom": self._zoom, **vars(mapping), **vars(rotation)}

    def track(self, clip: Clip) -> Track:
        """Return the poses of the models that mapping makes, joined; see `PoseBackend`."""
        if not len(clip.matches.first):
            raise ValueError("nothing could be placed: no two frames have features in common")
        turning = None if self._zoom else rotation_only(clip.matches, clip.frames, self._recipe.rotation)
        if turning is not None:
            return turning
        pycolmap = load_pycolmap()
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads = self._threads
        options.random_seed = 0
        options.extract_colors = False
        options.min_model_size = 5
        options.ba_global_frames_ratio = 1.4
        options.ba_global_points_ratio = 1.4
        options.ba_refine_extra_params = False
        options.mapper.init_min_num_inliers = self._recipe.mapping.least_inliers
        options.mapper.init_min_tri_angle = self._recipe.mapping.least_angle_deg
        options.mapper.abs_pose_min_num_inliers = 15
        with quiet(pycolmap):
            found = pycolmap.incremental_mapping(
                clip.work / DATABASE, clip.work / IMAGES, clip.work, options=options
            )
        models = [_model(one, clip.frames) for one in found.values()]
        models = [model for model in models if len(model.frames) >= 3]
        if not models:
            raise ValueError("nothing could be placed: the frames show too little in common, or no parallax")
        return joined(models, self._recipe.mapping)


class Given:
    """Poses that are there already."""

    name = "given"

    def __init__(self, track: Track) -> None:
        self._track = track

    def settings(self) -> dict[str, Any]:
        """Return the poses."""
        track = self._track
        return {"c2w": track.c2w.tolist(), "camera": track.intrinsics[0].tolist(), "metric": track.metric}

    def track(self, clip: Clip) -> Track:
        """Return them."""
        return self._track


def _model(model: Any, frames: int) -> Track:
    """Return a pycolmap reconstruction as a track."""
    number = {frame_name(index): index for index in range(frames)}
    placed = sorted((number[image.name], image) for image in model.images.values() if image.has_pose)
    w2c = np.stack([image.cam_from_world().matrix() for _, image in placed])  # (n, 3, 4)
    c2w = np.tile(np.eye(4), (len(placed), 1, 1))
    c2w[:, :3, :3] = np.swapaxes(w2c[:, :, :3], 1, 2)
    c2w[:, :3, 3] = -np.einsum("nba,nb->na", w2c[:, :, :3], w2c[:, :, 3])
    cameras = [model.cameras[image.camera_id] for _, image in placed]
    camera = np.array(
        [
            (one.focal_length_x, one.focal_length_y, one.principal_point_x, one.principal_point_y)
            for one in cameras
        ]
    )
    return Track(np.array([index for index, _ in placed]), c2w, camera)

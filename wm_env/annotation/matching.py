"""Matches between the frames of a clip: SIFT features, compared and verified by pycolmap (BSD).

Frames are matched at a few distances in time, and every n-th with every other n-th, which finds places that
the camera comes back to. A pair is verified by the epipolar geometry or homography that its matches have,
whatever the poses may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wm_env.annotation.recipe import Features
from wm_env.annotation.values import Matches

INSTALL = "poses are found by pycolmap, which is not installed; pip install 'wm-env[annotate]'"
DATABASE, IMAGES, PAIRS = "database.db", "images", "pairs.txt"


def load_pycolmap() -> Any:
    """Return the module; raise `ImportError` naming the extra where it is not installed."""
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return pycolmap


@contextmanager
def quiet(pycolmap: Any) -> Iterator[None]:
    """Let pycolmap say nothing but errors that end the process."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def frame_name(index: int) -> str:
    """Return the name of a frame's picture."""
    return f"{index:06d}.png"


def pairs_of(frames: int, settings: Features) -> list[tuple[int, int]]:
    """Return the pairs of frames that are compared, each once, ascending."""
    near = {(i, i + offset) for offset in settings.offsets for i in range(frames - offset)}
    every = settings.loop_every
    loops = {(i, j) for i in range(0, frames, every) for j in range(i + every, frames, every)}
    return sorted(near | loops)


def match_frames(
    frames: np.ndarray, work: Path, settings: Features, *, one_camera: bool = True, threads: int = 1
) -> Matches:
    """Return the matches of frames uint8 `(F, h, w, 3)`; leaves pictures and a database in the folder `work`.

    one_camera: whether the database has one camera for all frames, or one for each. Raises `ImportError`
    where pycolmap is not installed.
    """
    pycolmap = load_pycolmap()
    pictures = work / IMAGES
    pictures.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(pictures / frame_name(index), compress_level=1)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.num_threads = threads
    extraction.use_gpu = False
    extraction.sift.max_num_features = settings.most
    extraction.sift.peak_threshold = settings.peak
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_PINHOLE"
    mode = pycolmap.CameraMode.SINGLE if one_camera else pycolmap.CameraMode.PER_IMAGE
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = threads
    matching.use_gpu = False
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = work / PAIRS
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = 0
    compared = pairs_of(len(frames), settings)
    lines = "".join(f"{frame_name(i)} {frame_name(j)}\n" for i, j in compared)
    (work / PAIRS).write_text(lines, encoding="utf-8")
    with quiet(pycolmap):
        pycolmap.extract_features(
            work / DATABASE,
            pictures,
            camera_mode=mode,
            reader_options=reader,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        pycolmap.match_image_pairs(
            work / DATABASE,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        return _read(pycolmap, work / DATABASE, (frames.shape[1], frames.shape[2]), len(frames), compared)


def _read(
    pycolmap: Any, database: Path, size: tuple[int, int], frames: int, compared: Sequence[tuple[int, int]]
) -> Matches:
    """Return what a database holds."""
    opened = pycolmap.Database.open(database)
    try:
        number = {image.name: image.image_id for image in opened.read_all_images()}
        ids = [number.get(frame_name(index)) for index in range(frames)]
        uv = [_keypoints(opened, one) for one in ids]
        begin = np.cumsum([0, *(len(one) for one in uv)])
        first, second = [], []
        for i, j in compared:
            if ids[i] is None or ids[j] is None or not opened.exists_two_view_geometry(ids[i], ids[j]):
                continue
            found = opened.read_two_view_geometry(ids[i], ids[j]).inlier_matches
            if len(found):
                first.append(begin[i] + found[:, 0].astype(np.int64))
                second.append(begin[j] + found[:, 1].astype(np.int64))
    finally:
        opened.close()
    none = [np.zeros(0, np.int64)]
    return Matches(
        size=size,
        features=begin.astype(np.int64),
        uv=np.concatenate(uv),
        first=np.concatenate(first or none),
        second=np.concatenate(second or none),
    )


def _keypoints(opened: Any, image: int | None) -> np.ndarray:
    """Return the features of a picture, `(n, 2)` float32 pixels."""
    if image is None or not opened.exists_keypoints(image):
        return np.zeros((0, 2), np.float32)
    return np.asarray(opened.read_keypoints(image), np.float32)[:, :2]

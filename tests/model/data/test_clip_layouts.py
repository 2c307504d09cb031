"""Every layout gives back the frames and the poses that were written in its convention.

One rendered walk is written as each tool writes it (`layout_writers.py`).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layout_writers import (
    FRAMES,
    SIZE,
    TO_OPENGL,
    walk,
    write_colmap,
    write_polycam,
    write_record3d,
    write_transforms,
    write_tum,
)

from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.importing import ImportConfig, import_clips
from wm_env.model.data.layouts import (
    colmap_clips,
    polycam_clips,
    record3d_clips,
    saved_clips,
    transforms_clips,
    tum_clips,
)
from wm_env.model.data.posed_clip import PosedClip

EXACT = 1e-6  # of poses, in metres and for rotations: rendered poses are float32
PYCOLMAP = importlib.util.find_spec("pycolmap") is not None


def read_back(folder: Path, **options: Any) -> PosedClip:
    """Return what is loaded, after comparing it with what was written."""
    clip = PosedClip.load(folder, **options)
    assert np.array_equal(clip.frames, walk().frames)
    assert np.abs(clip.c2w - walk().c2w).max() < EXACT
    assert np.abs(clip.intrinsics - walk().intrinsics).max() < EXACT * SIZE
    return clip


def test_nerfstudio_gives_back_what_was_written(tmp_path: Path) -> None:
    assert read_back(write_transforms(tmp_path / "scan"), fps=16).fps == 16
    with pytest.raises(ValueError, match="nothing says how many of its 11 frames make a second; give fps="):
        PosedClip.load(tmp_path / "scan")


def test_nerfstudio_may_say_the_angle_and_leave_the_size_and_the_lens_out(tmp_path: Path) -> None:
    fx, fy, *_ = walk().intrinsics.tolist()
    assert fx == fy
    angle = 2 * np.arctan(SIZE / 2 / fx)
    left_out = dict.fromkeys(("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_model", "k1", "p1"))
    read_back(write_transforms(tmp_path / "scan", camera_angle_x=angle, **left_out), fps=16)


def test_the_intrinsics_of_nerfstudio_follow_pictures_that_were_scaled(tmp_path: Path) -> None:
    fx, fy, cx, cy = (4 * walk().intrinsics).tolist()
    large = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": 4 * SIZE, "h": 4 * SIZE}
    read_back(write_transforms(tmp_path / "scan", **large), fps=16)


def test_what_nerfstudio_did_to_the_world_is_undone(tmp_path: Path) -> None:
    """saved = applied_scale (applied_transform original): original = applied_transform^-1 (saved / scale)."""
    applied = np.array([[0.0, 1, 0, 0.5], [1, 0, 0, -2], [0, 0, -1, 0.25], [0, 0, 0, 1]])
    frames = []
    for i, pose in enumerate(walk().c2w):
        saved = applied @ pose @ TO_OPENGL
        saved[:3, 3] *= 0.25
        frames.append({"file_path": f"images/frame_{i + 1}.png", "transform_matrix": saved[:3].tolist()})
    said = {"applied_transform": applied[:3].tolist(), "applied_scale": 0.25, "frames": frames}
    read_back(write_transforms(tmp_path / "scan", **said), fps=16)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"k1": -0.2}, r"the lens \(k1 = -0\.2\) bends the picture by .*%.*; undistort the pictures"),
        ({"camera_model": "OPENCV_FISHEYE"}, "camera_model is OPENCV_FISHEYE; expected a pinhole"),
        ({"fl_x": None, "fl_y": None}, "neither fl_x nor camera_angle_x"),
        ({"fl_x": "long"}, "fl_x is 'long'; expected a number"),
        ({"frames": []}, "has no list of frames"),
        ({"frames": [{"file_path": "images/frame_1.png"}]}, "frame 0 of transforms.json lacks"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": [[1, 2]]}]}, r"shape \(1, 2\); expected"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": None}]}, "is not numbers"),
        (
            {"applied_transform": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]},
            "applied_transform .* not a rigid",
        ),
        ({"applied_scale": 0}, "applied_scale is 0; expected a positive number"),
    ],
)
def test_what_is_wrong_with_a_transforms_json_is_said(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        PosedClip.load(write_transforms(tmp_path / "scan", **changed), fps=16)


def test_a_missing_picture_and_a_broken_json_are_said(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "scan")
    (folder / "images" / "frame_4.png").unlink()
    with pytest.raises(ValueError, match=r"the picture frame_4\.png is missing; expected it in '.*images'"):
        PosedClip.load(folder, fps=16)
    (folder / "transforms.json").write_text("{")
    with pytest.raises(ValueError, match=r"transforms\.json cannot be read as JSON"):
        PosedClip.load(folder, fps=16)


def test_polycam_gives_back_what_was_written_at_the_rate_of_its_times(tmp_path: Path) -> None:
    assert read_back(write_polycam(tmp_path / "scan")).fps == pytest.approx(1e6 / 33333)


def test_what_is_wrong_with_polycam_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="camera has no number t_12"):
        PosedClip.load(write_polycam(tmp_path / "a", t_12=None))
    folder = write_polycam(tmp_path / "b")
    next((folder / "keyframes" / "corrected_images").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"corrected_images do not match: \d+ is in one of them only"):
        PosedClip.load(folder)


def test_record3d_gives_back_what_was_written(tmp_path: Path) -> None:
    assert read_back(write_record3d(tmp_path / "a")).fps == 30
    rows = np.tile(walk().intrinsics, (FRAMES, 1)).tolist()
    read_back(write_record3d(tmp_path / "b", K=None, perFrameIntrinsicCoeffs=rows))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"poses": [[0, 0, 0, 1, 0, 0, 0]] * FRAMES}, "all poses are equal: .* LiDAR videos only"),
        (
            {"poses": [[0, 0, 1, 0, 0, 0]] * FRAMES},
            r"poses of Record3D has shape \(11, 6\); expected \(F, 7\)",
        ),
        ({"poses": [[0, 0, 0, 2, i, 0, 0] for i in range(FRAMES)]}, "quaternion 0 is .* expected x, y, z, w"),
        ({"K": None}, "K of Record3D"),
        ({"w": None}, "metadata has no number w"),
        ({"perFrameIntrinsicCoeffs": [[30, 30, 16, 16]]}, "1 rows of intrinsics for 11 poses"),
        ({"fps": None}, "nothing says how many"),
    ],
)
def test_what_is_wrong_with_a_record3d_export_is_said(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        PosedClip.load(write_record3d(tmp_path / "scan", **changed))


def test_a_packed_record3d_video_is_to_be_unzipped(tmp_path: Path) -> None:
    (tmp_path / "scan.r3d").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a \.r3d is a zip file; unzip it"):
        PosedClip.load(tmp_path / "scan.r3d")


def test_a_tum_sequence_gives_back_what_was_written(tmp_path: Path) -> None:
    assert read_back(write_tum(tmp_path / "desk")).fps == pytest.approx(30, rel=1e-3)
    (tmp_path / "desk" / "rgb.txt").unlink()  # the names are times as well
    read_back(tmp_path / "desk")
    (tmp_path / "desk" / "intrinsics.txt").unlink()
    fx, fy, cx, cy = walk().intrinsics.tolist()
    (tmp_path / "desk" / "camera.json").write_text(json.dumps({"intrinsics": [fx, fy, cx, cy]}))
    read_back(tmp_path / "desk")


def test_pictures_without_a_pose_within_20_ms_are_left_out(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "desk", late=0.0)
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    del lines[6]  # the pose of picture 4
    (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    clip = PosedClip.load(folder)
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert np.array_equal(clip.frames, walk().frames[kept])
    assert np.abs(clip.c2w - walk().c2w[kept]).max() < EXACT
    with pytest.raises(ValueError, match="no picture has a pose within 20 ms: pictures from 13050311"):
        PosedClip.load(write_tum(tmp_path / "late", late=5.0))


def test_the_camera_of_a_tum_sequence_is_never_guessed(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "desk", intrinsics=False)
    with pytest.raises(ValueError, match=r"nothing says the camera; write intrinsics\.txt"):
        PosedClip.load(folder)
    read_back(folder, intrinsics=walk().intrinsics.tolist())
    bent = write_tum(tmp_path / "rgbd_dataset_freiburg1_desk", intrinsics=False)
    with pytest.raises(
        ValueError, match=r"the lens \(k1 = 0\.2624, .*undistort the pictures and give intrinsics="
    ):
        PosedClip.load(bent)
    read_back(bent, intrinsics=walk().intrinsics.tolist())
    straight = write_tum(tmp_path / "rgbd_dataset_freiburg3_long_office", intrinsics=False)
    with pytest.raises(ValueError, match=r"lies outside of the picture of 32x32: .* about 640x495"):
        PosedClip.load(straight)
    (folder / "intrinsics.txt").write_text("1 2 three 4")
    with pytest.raises(ValueError, match=r"intrinsics\.txt holds '1 2 three 4', which is not 4 numbers"):
        PosedClip.load(folder)


@pytest.mark.skipif(not PYCOLMAP, reason="pycolmap (extra annotate) is not installed")
def test_a_colmap_model_gives_back_what_was_written(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "scan")
    read_back(folder, fps=16)
    import pycolmap

    pycolmap.Reconstruction(str(folder / "sparse" / "0")).write_binary(str(folder / "sparse" / "0"))
    for path in (folder / "sparse" / "0").glob("*.txt"):
        path.unlink()
    clip = read_back(folder, fps=16)
    metres = PosedClip.load(folder, fps=16, scale=2.5)
    assert np.allclose(metres.c2w[:, :3, 3], 2.5 * clip.c2w[:, :3, 3])


@pytest.mark.skipif(not PYCOLMAP, reason="pycolmap (extra annotate) is not installed")
def test_what_is_wrong_with_a_colmap_model_is_said(tmp_path: Path) -> None:
    fx, _, cx, cy = walk().intrinsics.tolist()
    bent = write_colmap(tmp_path / "bent", f"SIMPLE_RADIAL {SIZE} {SIZE} {fx!r} {cx!r} {cy!r} -0.2")
    with pytest.raises(ValueError, match=r"the lens \(k1 = -0\.2\) .*colmap image_undistorter"):
        PosedClip.load(bent, fps=16)
    read_back(
        write_colmap(tmp_path / "flat", f"SIMPLE_RADIAL {SIZE} {SIZE} {fx!r} {cx!r} {cy!r} 0.001"), fps=16
    )
    fish = write_colmap(tmp_path / "fish", f"SIMPLE_RADIAL_FISHEYE {SIZE} {SIZE} {fx!r} {cx!r} {cy!r} 0.0")
    with pytest.raises(ValueError, match="the camera is SIMPLE_RADIAL_FISHEYE; expected a pinhole camera"):
        PosedClip.load(fish, fps=16)
    lost = write_colmap(tmp_path / "lost")
    (lost / "images").rename(lost / "pictures")
    with pytest.raises(ValueError, match=r"frame_1\.png of the model is missing; expected it in"):
        PosedClip.load(lost, fps=16)
    (lost / "sparse" / "0" / "images.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"COLMAP model in 0 cannot be read"):
        PosedClip.load(lost, fps=16)


def test_without_pycolmap_a_model_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ImportError, match=r"read by pycolmap, .* pip install 'wm-env\[annotate\]'"):
        PosedClip.load(write_colmap(tmp_path / "scan"), fps=16)


LISTS: list[tuple[Callable[[Path], Path], Any]] = [
    (write_transforms, transforms_clips),
    (write_polycam, polycam_clips),
    (write_record3d, record3d_clips),
    (write_tum, tum_clips),
    (lambda folder: walk().save(folder), saved_clips),
    pytest.param(
        write_colmap,
        colmap_clips,
        marks=pytest.mark.skipif(not PYCOLMAP, reason="pycolmap (extra annotate) is not installed"),
    ),
]


@pytest.mark.parametrize(("write", "clips"), LISTS)
def test_the_clips_of_a_folder_become_training_data(write: Any, clips: Any, tmp_path: Path) -> None:
    for name in ("hall", "yard"):
        write(tmp_path / "in" / name)
    listed = clips(tmp_path / "in", ClipFiles())
    assert [clip.name for clip in listed] == ["hall", "yard"]
    done = import_clips(
        listed,
        tmp_path / "out",
        ImportConfig(size=32, frames=5),
        depth_of=lambda rgb, _: rgb[..., 0].float(),
        origin={},
    )
    assert done.windows == {"train": 2, "val": 2}
    with pytest.raises(ValueError, match="holds 2 clips, hall, yard; ask for one"):
        PosedClip.load(tmp_path / "in")

"""A clip that cannot be is one line of the report, whatever is wrong with it, and the others go on.

Every layout is written once more for each of its entries and each value that is none, beside sound clips.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layout_writers import (
    FRAMES,
    SIZE,
    walk,
    write_colmap,
    write_polycam,
    write_record3d,
    write_transforms,
    write_tum,
)
from PIL import Image

from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.importing import ImportConfig, Imported, import_clips
from wm_env.model.data.layouts import (
    colmap_clips,
    episode_clips,
    polycam_clips,
    re10k_clips,
    record3d_clips,
    saved_clips,
    transforms_clips,
    tum_clips,
    video_clips,
)
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.data.recorded import ClipRef

NO_NUMBER: dict[str, Any] = {
    "null": None,
    "text": "wide",
    "empty": [],
    "ragged": [[1.0, 2.0], [3.0]],
    "object": {"a": 1},
    "nan": float("nan"),
    "infinite": float("inf"),
    "beyond-a-float": 10**400,
    "deep": [[[[[[[[1.0]]]]]]]],
}
NO_GIVEN = {kind: value for kind, value in NO_NUMBER.items() if value is not None}  # None: it is not said
NO_ARRAY = {**NO_NUMBER, "number": 3.0, "flag": True}


def write_saved(folder: Path, **changed: Any) -> Path:
    """Write a clip as `PosedClip.save` does, then change values of its camera.json."""
    walk().save(folder)
    values = json.loads((folder / "camera.json").read_text())
    (folder / "camera.json").write_text(json.dumps({**values, **changed}))
    return folder


def write_episode(folder: Path, **changed: Any) -> Path:
    """Write what a recorded episode holds of a clip."""
    saved = walk().save(folder)
    facts = {"intrinsics": walk().intrinsics.tolist(), "prompt": "a room", "fps": 16}
    arrays = {"c2w": walk().c2w}
    arrays.update({name: changed.pop(name) for name in list(changed) if name == "c2w"})
    (saved / "episode.json").write_text(json.dumps({**facts, **changed}))
    np.savez(saved / "steps.npz", **{name: np.asarray(value) for name, value in arrays.items()})
    return folder


def write_video(folder: Path, **changed: Any) -> Path:
    """Write a folder of pictures beside a camera file."""
    saved = write_saved(folder.with_name(f".{folder.name}"), **changed)
    (saved / "frames").rename(folder)
    (saved / "camera.json").rename(folder.with_suffix(".json"))
    saved.rmdir()
    return folder


def imported(listed: list[ClipRef], out: Path) -> Imported:
    config = ImportConfig(size=SIZE, frames=5)
    depth = lambda rgb, _: rgb[..., 0].float()  # noqa: E731
    return import_clips(listed, out, config, depth_of=depth, origin={}, skip_bad=True)


Writer = Callable[..., Path]
Lister = Callable[[Path, ClipFiles], list[ClipRef]]
LAYOUTS: dict[str, tuple[Writer, Lister, dict[str, dict[str, Any]]]] = {
    "video": (
        write_video,
        video_clips,
        {
            "c2w": NO_ARRAY,
            "intrinsics": NO_ARRAY,
            "k1": NO_GIVEN,
        },
    ),
    "clips": (write_saved, saved_clips, {"c2w": NO_ARRAY, "intrinsics": NO_ARRAY, "caption": {"list": [1]}}),
    "transforms": (
        write_transforms,
        transforms_clips,
        {
            "frames": NO_ARRAY,
            "fl_x": NO_NUMBER,
            "cx": NO_GIVEN,  # null: the middle
            "w": {"zero": 0, "minus": -32, "text": "wide", "infinite": float("inf")},
            "applied_transform": {k: v for k, v in NO_ARRAY.items() if v is not None},
            "applied_scale": NO_GIVEN,
            "k1": NO_GIVEN,
            "k4": {"bent": 0.3},
            "camera_model": {"fish": "OPENCV_FISHEYE", "number": 3},
        },
    ),
    "polycam": (
        write_polycam,
        polycam_clips,
        {"t_12": NO_NUMBER, "fx": NO_NUMBER, "width": NO_NUMBER | {"zero": 0}, "k1": {"bent": -0.3}},
    ),
    "record3d": (
        write_record3d,
        record3d_clips,
        {
            "poses": NO_ARRAY,
            "K": NO_ARRAY,
            "w": NO_NUMBER | {"zero": 0, "other": 64},
            "fps": {"text": "x", "minus": -1, "infinite": float("inf"), "flag": True},
            "perFrameIntrinsicCoeffs": {"number": 3.0, "text": "x", "ragged": [[1, 2], [3]]},
            "distortion": {"bent": [0.3], "text": "none", "ragged": [[1], [2, 3]]},
        },
    ),
    "episodes": (
        write_episode,
        episode_clips,
        {
            "c2w": {"text": "x", "flat": np.eye(4), "nan": np.full((FRAMES, 4, 4), np.nan)},
            "intrinsics": NO_ARRAY,
            "fps": {"text": "x", "minus": -1},
        },
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_entry_that_is_none_is_one_line_and_the_sound_clips_go_on(layout: str, tmp_path: Path) -> None:
    write, clips, entries = LAYOUTS[layout]
    folder = tmp_path / "in"
    for name in ("episode_sound1", "episode_sound2"):
        write(folder / name)
    bad = []
    for entry, values in entries.items():
        for kind, value in values.items():
            bad.append(f"episode_{entry}_{kind}")
            write(folder / bad[-1], **{entry: value})
    done = imported(clips(folder, ClipFiles()), tmp_path / "out")
    assert {problem.clip for problem in done.left_out} == set(bad)
    assert done.clips == 2
    for problem in done.left_out:
        assert problem.what and "\n" not in problem.what and len(problem.what) < 500, problem


RE10K_LINE = "{} 0.6 0.7 0.5 0.5 0 0 1 0 0 {} 0 1 0 0 0 0 1 0"
TIMES = {
    "infinite": ["inf", "1", "2"],
    "nan": ["nan", "1", "2"],
    "minus": ["-1", "1", "2"],
    "twice": ["1", "1", "2"],
    "backwards": ["2", "1", "3"],
    "text": ["soon", "1", "2"],
    "huge": ["1" + "0" * 400, "1", "2"],
}


def test_impossible_times_of_a_text_are_one_line_and_the_sound_clips_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    rows = {"sound1": range(FRAMES), "sound2": range(FRAMES)}
    for name, times in {
        **rows,
        **{kind: [*found, *range(3, FRAMES)] for kind, found in TIMES.items()},
    }.items():
        (folder / name).mkdir(parents=True)
        for time, frame in zip(times, walk().frames, strict=True):
            Image.fromarray(frame).save(folder / name / f"{str(time)[:50]}.png")
        lines = [RE10K_LINE.format(time, 0.05 * i) for i, time in enumerate(times)]
        (folder / f"{name}.txt").write_text("\n".join(["https://no.where", *lines]) + "\n")
    done = imported(re10k_clips(folder, ClipFiles()), tmp_path / "out")
    assert {problem.clip for problem in done.left_out} == set(TIMES)
    assert done.clips == 2 and all("\n" not in problem.what for problem in done.left_out)


def test_impossible_lines_of_a_tum_sequence_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("sound1", "sound2"):
        write_tum(folder / name)
    for name, file, line in (
        ("infinite time", "groundtruth.txt", "inf 0 0 0 0 0 0 1"),
        ("nan pose", "groundtruth.txt", "1305031102.2 nan 0 0 0 0 0 1"),
        ("no unit quaternion", "groundtruth.txt", "1305031102.175304 0 0 0 0 0 0 5"),
        ("few", "groundtruth.txt", "1305031102.2 0 0"),
        ("infinite picture", "rgb.txt", "inf rgb/a.png"),
        ("no name", "rgb.txt", "1305031102.2"),
    ):
        path = write_tum(folder / name) / file
        path.write_text(path.read_text() + line + "\n")
    for name, values in (
        ("null camera", {"intrinsics": None}),
        ("ragged camera", {"intrinsics": [[1, 2], [3]]}),
        ("huge camera", {"intrinsics": [10**400, 1, 1, 1]}),
        ("bent camera", {"intrinsics": walk().intrinsics.tolist(), "dist_coeffs": [-0.3, 0.1, 0, 0]}),
    ):
        write_tum(folder / name, intrinsics=False)
        (folder / name / "camera.json").write_text(json.dumps(values))
    done = imported(tum_clips(folder, ClipFiles()), tmp_path / "out")
    assert len(done.left_out) == 10 and done.clips == 2
    assert all("\n" not in problem.what for problem in done.left_out)


def test_a_camera_file_that_no_one_may_read_or_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    for name in ("sound1", "sound2", "folder", "text", "cut"):
        write_video(tmp_path / "in" / name)
    (tmp_path / "in" / "folder.json").unlink()
    (tmp_path / "in" / "folder.json").mkdir()
    (tmp_path / "in" / "text.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "in" / "cut.json").write_text("[" * 100_000)
    done = imported(video_clips(tmp_path / "in", ClipFiles()), tmp_path / "out")
    assert {problem.clip for problem in done.left_out} == {"folder", "text", "cut"} and done.clips == 2


WIDE, HIGH = 96, 64  # pictures of no square: width and height can be confused


def posed(**changed: Any) -> PosedClip:
    c2w = np.tile(np.eye(4), (9, 1, 1))
    c2w[:, 2, 3] = 0.05 * np.arange(9)
    values = {"c2w": c2w, "intrinsics": [60.0, 60, 48, 32], "fps": 16.0, **changed}
    return PosedClip(np.zeros((9, HIGH, WIDE, 3), np.uint8), **values)


def poses(change: Callable[[np.ndarray], object]) -> np.ndarray:
    c2w = posed().c2w.copy()
    change(c2w)
    return c2w


MIRROR = np.diag([1.0, -1, 1, 1])  # one axis turned round


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"intrinsics": [60, 60, 200, 32]}, "outside of the picture of 96x64: .* about 400x64"),
        ({"intrinsics": [60, 60, 0, 0]}, "outside of the picture of 96x64"),
        ({"intrinsics": [60, 60, 48, -3]}, "outside of the picture of 96x64: expected fx, fy, cx, cy"),
        ({"intrinsics": [60, 60, 32, 48]}, "cx and cy are swapped"),
        ({"intrinsics": [48, 32, 60, 60]}, "in the order cx, cy, fx, fy"),
        ({"intrinsics": [60, 48, 60, 32]}, "in the order fx, cx, fy, cy"),
        ({"intrinsics": [60, 60, 24, 16]}, "middle of pictures of 48x32; scale the intrinsics to 96x64"),
        ({"intrinsics": [60, 60, 67.2, 44.8]}, "middle of pictures of 134x90; scale"),
        ({"intrinsics": [0.6, 0.9, 0.5, 0.5]}, "field of view .*are they in pixels of this size"),
        ({"intrinsics": None}, "intrinsics have shape"),
        ({"c2w": None}, r"poses have shape \(\); expected \(F, 4, 4\)"),
        ({"c2w": 3.0}, r"poses have shape \(\); expected"),
        ({"c2w": "a"}, "no array of numbers"),
        ({"c2w": [[1.0], [1.0, 2.0]]}, "no array of numbers"),
        ({"c2w": poses(lambda c: c.__setitem__(slice(None), MIRROR @ c))}, "mirrored .left-handed"),
        ({"c2w": poses(lambda c: c.__imul__([[2, 2, 2, 1]]))}, "its rotation is scaled by 2"),
        ({"c2w": poses(lambda c: c.__setitem__(slice(None), c.transpose(0, 2, 1).copy()))}, "transposed"),
        ({"c2w": poses(lambda c: c[:, :3, 3].__imul__(1000))}, "50 m a frame .*0.001 for millimetres"),
        ({"fps": float("nan")}, "fps is nan; expected a positive number"),
        ({"fps": 10**400}, "fps is .*expected a positive number"),
    ],
)
def test_a_camera_that_cannot_be_is_refused_with_its_usual_reason(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        posed(**changed)


@pytest.mark.parametrize(
    "intrinsics",
    [
        [60.0, 60, 48, 32],
        [48.0, 48, 48, 32],  # 90 degrees wide: fx is cx as well
        [60.0, 60, 44, 34],  # no lens sits exactly in the middle
        [60.0, 90, 48, 32],  # pixels that are no squares
        [60.0, 60, 30, 32],  # cut off at the left
        [60.0, 60, 48, 20],  # cut off at the top
    ],
)
def test_a_camera_that_can_be_is_taken(intrinsics: list[float]) -> None:
    assert posed(intrinsics=intrinsics).intrinsics.tolist() == intrinsics


def test_a_camera_matrix_that_is_none_is_refused(tmp_path: Path) -> None:
    sound = [[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]
    for kind, matrix, says in (
        ("transposed", np.transpose(sound).tolist(), "it is transposed"),
        ("skewed", [[60.0, 5, 48], *sound[1:]], "camera matrix"),
        ("scaled", [[120.0, 0, 96], [0, 120, 64], [0, 0, 2]], "camera matrix"),
    ):
        folder = tmp_path / kind
        posed().save(folder)
        values = json.loads((folder / "camera.json").read_text())
        (folder / "camera.json").write_text(json.dumps({**values, "intrinsics": matrix}))
        with pytest.raises(ValueError, match=says):
            PosedClip.load(folder)


@pytest.mark.parametrize(
    "lens",
    [
        {"k1": -0.3},
        {"k4": 0.1},
        {"distortion": [0.0, 0.3]},
        {"dist_coeffs": [-0.3, 0.1, 0.0, 0.0, 0.0]},
        {"D": [0, 0, 0.1]},
    ],
)
def test_a_lens_that_bends_is_refused_wherever_it_is_said_and_one_that_does_not_is_taken(
    lens: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_saved(tmp_path / "bent", **lens)
    with pytest.raises(ValueError, match=r"lens .* undistort"):
        PosedClip.load(folder)
    none = {name: [0.0] * len(said) if isinstance(said, list) else 0.0 for name, said in lens.items()}
    assert len(PosedClip.load(write_saved(tmp_path / "straight", **none))) == FRAMES


def test_a_lens_in_an_npz_is_read_as_in_json(tmp_path: Path) -> None:
    write_video(tmp_path / "a")
    (tmp_path / "a.json").unlink()
    camera = {"c2w": walk().c2w, "intrinsics": walk().intrinsics, "fps": 16.0}
    np.savez(tmp_path / "a.npz", **camera, dist=np.array([[-0.3, 0.1, 0, 0]]))
    with pytest.raises(ValueError, match=r"the lens \(k1 = -0\.3, k2 = 0\.1\) bends"):
        PosedClip.load(tmp_path / "a.npz")


def test_a_camera_of_pictures_of_other_proportions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames are 32x32, the camera was said for 64x32, of other"):
        PosedClip.load(write_transforms(tmp_path / "scan", w=2 * SIZE, cx=float(SIZE)), fps=16)


@pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason="pycolmap (extra annotate) is not installed"
)
def test_poses_without_a_scale_are_taken_as_metres_with_a_warning(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "scan")
    with pytest.warns(UserWarning, match="'scan' have no scale and are taken as metres"):
        PosedClip.load(folder, fps=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PosedClip.load(folder, fps=16, scale=1.0)
    assert [clip.metric for clip in colmap_clips(tmp_path, ClipFiles())] == [False]  # type: ignore[union-attr]

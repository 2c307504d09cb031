"""`wm-env context check` says what is wrong with the poses of a clip, mends them, refuses what is no clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wm_env
from wm_env.cli import main
from wm_env.context_check import fixed_clip
from wm_env.model.data.pose_check.check import PoseCheck
from wm_env.model.data.pose_check.hypotheses import AS_GIVEN
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.geometry import invert_rigid
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.paths import start_fov_deg, start_pose, training_paths
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes

SEED, FRAMES, SIZE = 102, 65, 64
Run = Callable[[str], tuple[int, str, str]]


@cache
def walk() -> PosedClip:
    """Return a walk through a rendered room."""
    scene = make_scenes([SEED], "train")
    start = start_pose(scene, SEED)[None]
    path = training_paths(scene, torch.Generator().manual_seed(SEED), FRAMES, start)
    camera = torch.tensor([intrinsics_from_fov(start_fov_deg(SEED), SIZE, SIZE)], dtype=torch.float64)
    frames, _ = render(scene, path, camera, SIZE, SIZE)
    return PosedClip(frames[0].numpy(), path[0].numpy(), camera[0].numpy(), 16)


def inverted() -> PosedClip:
    """Return it with poses that are world-to-camera."""
    return replace(walk(), c2w=invert_rigid(torch.tensor(walk().c2w)).numpy())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `wm-env context check` with some words in a folder of its own: exit status, output, complaint."""
    monkeypatch.chdir(tmp_path)

    def of(words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["context", "check", *words.split()])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return of


def test_a_clip_that_fits_is_said_to_fit(run: Run, tmp_path: Path) -> None:
    walk().save("room")
    status, out, _ = run("room --json told.json")
    assert status == 0 and out.startswith("the poses fit the motion (sure 100%)\n")
    assert "as given" in out and "the poses are world-to-camera" in out and "(OpenGL)" in out
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert told["verdict"] == "fits" and told["frames"] == FRAMES and told["world"] == "tiny"


def test_world_to_camera_poses_are_named_and_the_mended_copy_is_a_clip_that_fits(run: Run) -> None:
    inverted().save("room")
    status, out, _ = run("room --fix mended")
    assert status == 0 and "the poses do not fit the motion: the poses are world-to-camera (sure 100%)" in out
    assert "mended: the poses fit the motion" in out
    mended = PosedClip.load("mended")
    assert np.allclose(mended.c2w, walk().c2w, atol=1e-9) and np.array_equal(mended.frames, walk().frames)


def test_nothing_is_written_where_nothing_can_be_mended(run: Run, tmp_path: Path) -> None:
    walk().save("room")
    replace(
        walk(), frames=np.repeat(walk().frames[:1], FRAMES, 0), c2w=np.repeat(walk().c2w[:1], FRAMES, 0)
    ).save("still")
    status, out, complaint = run("still --fix mended")
    assert status == 2 and "the pictures hardly change; film while walking" in out
    assert "nothing can be mended: cannot tell" in complaint
    assert not (tmp_path / "mended").exists()
    status, _, complaint = run("room --fix still")
    assert status == 2 and "'still' is not empty; give another folder" in complaint


def test_what_is_no_clip_is_refused_in_one_sentence(run: Run, tmp_path: Path) -> None:
    walk().save("room")
    (tmp_path / "empty").mkdir()
    folder = tmp_path / "two"
    walk().save(folder)
    values = json.loads((folder / "camera.json").read_text(encoding="utf-8"))
    (folder / "camera.json").write_text(json.dumps({**values, "c2w": values["c2w"][:2]}), encoding="utf-8")
    for path in sorted((folder / "frames").iterdir())[2:]:
        path.unlink()
    small = replace(walk(), frames=walk().frames[:, ::2, ::2], intrinsics=walk().intrinsics / 2)
    small.save("small")
    tum = tmp_path / "tum"
    (tum / "rgb").mkdir(parents=True)
    lines = [f"{t / 16:.6f} {t / 100} 0 0 0 0 0 1" for t in range(6)]
    (tum / "groundtruth.txt").write_text("\n".join(lines), encoding="utf-8")
    for t in range(6):
        Image.fromarray(walk().frames[t]).save(tum / "rgb" / f"{t / 16:.6f}.png")
    for words, says in {
        "nowhere": "nowhere",
        "empty": "'empty'",
        "two": "2 frames are too short: at least 5 are needed; film longer",
        "small": "frames of 32x32 would be enlarged to 64x64",
        "tum": "intrinsics",
        "room --world twin": "world 'twin' has no depth network; expected tiny, tiny-pure or the folder of",
        "room --scale 0": "scale is 0.0; expected a positive number",
    }.items():
        status, _, complaint = run(words)
        assert status == 2 and says in complaint and complaint.count("\n") == 1, complaint


def test_the_function_takes_a_clip_or_its_path(tmp_path: Path) -> None:
    inverted().save(tmp_path / "room")
    found = wm_env.check_context(tmp_path / "room")
    torch.set_default_dtype(torch.float64)
    try:
        again = wm_env.check_context(inverted())
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == again, "what the caller has set for torch does not count"
    assert found.verdict == "does not fit"
    assert np.allclose(fixed_clip(inverted(), found).c2w, walk().c2w, atol=1e-9)


def test_poses_that_fit_are_not_mended() -> None:
    fits = PoseCheck("fits", "the poses fit the motion", AS_GIVEN, 1.0, 1.0, 1.0, (), ())
    with pytest.raises(ValueError, match="nothing has to be mended: the poses fit the motion"):
        fixed_clip(walk(), fits)


def test_frames_larger_than_the_world_are_checked_and_mended_at_their_own_size() -> None:
    large = replace(
        inverted(),
        frames=np.repeat(np.repeat(walk().frames, 2, 1), 2, 2),
        intrinsics=walk().intrinsics * 2,
    )
    found = wm_env.check_context(large)
    assert found.best is not None and found.best.reading == "inverse"
    assert fixed_clip(large, found).size == (2 * SIZE, 2 * SIZE)

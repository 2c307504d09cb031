"""From a film without poses to clips that the rest reads, on two tiny rendered films."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wm_env
from wm_env.annotation import CameraHeight, PathLength
from wm_env.annotation.backends import Colmap
from wm_env.annotation.joining import similarity
from wm_env.cli import main
from wm_env.contexts import clip_context
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.layouts import saved_clips
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.data.recorded import RecordedClip, check_clip
from wm_env.twin import TWIN_SPEC

pytest.importorskip("pycolmap", reason="poses are found by pycolmap (extra annotate), which is not installed")
pytestmark = pytest.mark.slow
HEIGHT = 1.4  # metres, of the camera of a rendered walk


def rotation_error(c2w: np.ndarray, true: np.ndarray) -> float:
    """Return the median angle in degrees to true poses `(n, 4, 4)`, once both have the same axes."""
    _, turn, _ = similarity(c2w[:, :3, :3], true[:, :3, :3], c2w[:, :3, 3], true[:, :3, 3])
    chord = np.linalg.norm(turn @ c2w[:, :3, :3] - true[:, :3, :3], axis=(1, 2)) / 8**0.5
    return float(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))).max())


def path_length(c2w: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1).sum())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, walked: Any, short_recipe: Path) -> Path:
    """The walk annotated by the command, with what a person would know: how high the camera was held."""
    folder = tmp_path_factory.mktemp("out") / "clips"
    with pytest.raises(SystemExit) as ended:
        words = ["annotate", str(walked.film), "--out", str(folder), "--camera-height", str(HEIGHT)]
        main([*words, "--recipe", str(short_recipe), "--json", str(folder.parent / "told.json")])
    assert ended.value.code == 0
    return folder


def test_poses_focal_length_and_metres_of_a_walk_are_right(out: Path, walked: Any) -> None:
    found = PosedClip.load(out / "walked-000")
    true = walked.clip
    assert len(found) == len(true) and found.fps == 16
    assert rotation_error(found.c2w, true.c2w) < 0.5
    assert abs(found.intrinsics[0] / true.intrinsics[0] - 1) < 0.02
    # rays to the floor differ by two degrees in a second and a half; the bench measures longer clips
    assert abs(path_length(found.c2w) / path_length(true.c2w) - 1) < 0.1
    (row,) = [json.loads(line) for line in (out / "annotations.jsonl").read_text().splitlines()]
    assert row["status"] == "accepted" and row["metric"] and row["run"] == [0, 24] and row["reasons"] == []
    told = json.loads((out.parent / "told.json").read_text())["clips"]
    assert told == [row]
    poses = np.load(out / "poses" / "walked-000.npz")
    assert np.array_equal(poses["c2w"], found.c2w) and poses["frames"].tolist() == list(range(25))


def test_the_page_shows_path_errors_and_focal_length(out: Path) -> None:
    page = (out / "pages" / "walked-000.html").read_text(encoding="utf-8")
    for words in ("accepted, in metres", "path from above", "path from the side", "reprojection error",
                  "focal length", "by camera height", "data:image/png;base64"):  # fmt: skip
        assert words in page, words
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "<script" not in page


def test_what_was_written_is_a_context_and_training_data(out: Path, tmp_path: Path) -> None:
    context = clip_context(out / "walked-000", TWIN_SPEC)
    assert context.context.length == 25
    (listed,) = saved_clips(out, ClipFiles())
    assert isinstance(listed, RecordedClip) and listed.metric and not listed.needs_scale
    assert check_clip(listed, size=64, every=1, scale=1.0, rgb=tmp_path / "rgb.npy").frames == 25


def test_another_scale_costs_no_new_poses_and_none_is_said_and_refused(
    out: Path, walked: Any, short_recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the poses are there")

    monkeypatch.setattr(Colmap, "track", refused)
    before = PosedClip.load(out / "walked-000")
    try:
        again = wm_env.annotate(walked.film, out, recipe=short_recipe)
        assert [row.status for row in again.rows] == ["accepted"] and not again.rows[0].metric
        assert again.accepted == (out / "walked-000",)
        for ask in (lambda: PosedClip.load(out / "walked-000"),
                    lambda: clip_context(out / "walked-000", TWIN_SPEC)):  # fmt: skip
            with pytest.raises(ValueError, match="its poses are up to scale: their unit is unknown; ann"):
                ask()
        (listed,) = saved_clips(out, ClipFiles())
        assert isinstance(listed, RecordedClip)
        with pytest.raises(ValueError, match="its poses are up to scale"):
            check_clip(listed, size=64, every=1, scale=1.0, rgb=tmp_path / "rgb.npy")
        unit, double = (PosedClip.load(out / "walked-000", scale=scale) for scale in (1.0, 2.0))
        assert np.allclose(double.c2w[:, :3, 3], 2 * unit.c2w[:, :3, 3])
    finally:
        wm_env.annotate(walked.film, out, recipe=short_recipe, scale=CameraHeight(HEIGHT))
    assert np.array_equal(PosedClip.load(out / "walked-000").c2w, before.c2w)
    length = wm_env.annotate(walked.film, out, recipe=short_recipe, scale=PathLength(3.0))
    assert abs(path_length(PosedClip.load(length.accepted[0]).c2w) - 3.0) < 1e-6
    wm_env.annotate(walked.film, out, recipe=short_recipe, scale=CameraHeight(HEIGHT))


def test_a_turn_on_the_spot_is_recognised_its_rotations_are_right_and_it_is_no_clip(
    turned: Any, short_recipe: Path, tmp_path: Path
) -> None:
    found = wm_env.annotate(turned.film, tmp_path / "out", recipe=short_recipe, scale=PathLength(1.0))
    (row,) = found.rows
    assert row.status == "rotation only" and not row.metric and found.accepted == ()
    assert row.reasons[0].startswith("the camera only turns") and "translations are unknown" in row.reasons[0]
    poses = np.load(tmp_path / "out" / "poses" / "turned-000.npz")
    assert str(poses["motion"]) == "rotation" and not poses["c2w"][:, :3, 3].any()
    assert rotation_error(poses["c2w"], turned.clip.c2w) < 0.5
    assert abs(poses["intrinsics"][0, 0] / turned.clip.intrinsics[0] - 1) < 0.02
    assert not (tmp_path / "out" / "turned-000").exists()


def test_poses_that_are_given_are_kept_where_they_are_right_and_refused_where_not(
    walked: Any, short_recipe: Path, tmp_path: Path
) -> None:
    mirror = np.diag([-1.0, 1, 1, 1])
    walked.clip.save(tmp_path / "given" / "right")
    replace(walked.clip, c2w=mirror @ walked.clip.c2w @ mirror).save(tmp_path / "given" / "wrong")
    (tmp_path / "given" / "empty").mkdir()
    found = wm_env.annotate(tmp_path / "given", tmp_path / "out", backend="given", recipe=short_recipe)
    told = {row.clip: row for row in found.rows}
    assert told["right"].status == "accepted" and told["right"].metric
    assert told["wrong"].status == "refused" and "off where the poses put them" in told["wrong"].reasons[0]
    assert told["empty"].status == "failed" and "no clip was found" in told["empty"].reasons[0]
    kept = PosedClip.load(tmp_path / "out" / "right")
    assert np.array_equal(kept.c2w, walked.clip.c2w) and np.array_equal(kept.frames, walked.clip.frames)

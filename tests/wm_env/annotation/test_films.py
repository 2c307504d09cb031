"""Shots, and what happens to films that are none, to bad options, full disks and interruptions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wm_env
from wm_env.annotation import DepthModel, KnownDistance, PathLength, load_recipe, matching, pipeline
from wm_env.annotation.lens import steady_lens
from wm_env.annotation.shots import alike, cuts_of, find_shots, is_short, kept_frames, scene_scores
from wm_env.annotation.values import Matches, Track
from wm_env.cli import main
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.png import write_png
from wm_env.model.storage.film import film_file

FRAMES = load_recipe().frames


def write_film(path: Path, shots: list[tuple[int, int]], fps: float = 16) -> Path:
    """Write a film of (number of frames, colour) shots of noise that moves a little."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with film_file(path, fps=fps, crf=16) as add:
        for count, colour in shots:
            noise = np.random.default_rng(colour).integers(0, 60, (64, 96, 3))
            for at in range(count):
                add(np.roll(noise + colour, at, axis=1).astype(np.uint8))
    return path


def test_shots_are_what_lies_between_the_cuts_and_short_ones_are_among_them(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", [(40, 20), (12, 180), (35, 90)])
    scores = scene_scores(film)
    cuts = cuts_of(film, scores, FRAMES)
    assert len(scores) == 87 and scores[0] == 0 and cuts == [40, 52]
    shots = find_shots(87, cuts, film="film.mp4", name="film", fps=16, settings=FRAMES)
    assert [(shot.clip, shot.first, shot.last) for shot in shots] == [
        ("film-000", 0, 39),
        ("film-001", 40, 51),
        ("film-002", 52, 86),
    ]
    assert [is_short(shot, FRAMES) for shot in shots] == [False, True, False]


def test_a_cut_between_places_that_look_alike_is_told_from_a_camera_that_starts_to_move(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(60, 160, (2, 16, 48, 3)).repeat(8, 1).repeat(8, 2)
    moved = [np.roll(noise[0], -24 * max(0, at - 20), axis=1) for at in range(26)]
    other = [noise[1]] * 14
    with film_file(tmp_path / "film.mp4", fps=16, crf=10) as add:
        for frame in [*moved, *other]:
            add(frame[:, :256].astype(np.uint8))
    scores = scene_scores(tmp_path / "film.mp4")
    for at in (21, 26):
        scores[at] = 0.16  # high, and alone: what a start and a cut both have
    scores[[20, 22, 25, 27]] = 0.0
    assert cuts_of(tmp_path / "film.mp4", scores, replace(FRAMES, cut_score=0.9)) == [26]
    assert alike(moved[20][:, :256].astype(np.uint8), moved[21][:, :256].astype(np.uint8)) > 0.9
    assert alike(moved[25][:, :256].astype(np.uint8), other[0][:, :256].astype(np.uint8)) < 0.7


def test_a_long_shot_is_cut_into_clips_that_follow_each_other() -> None:
    settings = replace(FRAMES, longest=50)
    shots = find_shots(120, [], film="f", name="f", fps=16, settings=settings)
    assert [(shot.first, shot.last) for shot in shots] == [(0, 49), (50, 99), (100, 119)]


def test_frames_of_a_faster_film_are_those_nearest_in_time_and_none_twice() -> None:
    kept = kept_frames(10, 70, 30.0, 16.0)
    assert kept[:5] == (10, 12, 14, 16, 18) and len(kept) == len(set(kept)) == 32
    assert kept_frames(0, 20, 16.0, 16.0) == kept_frames(0, 20, 18.0, 16.0) == tuple(range(20))


def test_a_zoom_is_undone_without_enlarging_anything() -> None:
    y, x = np.mgrid[:120, :160]
    frames, focal = [], np.array([100.0, 125.0, 200.0])
    for f in focal:  # one far wall with a pattern of directions, seen by three focal lengths
        u, v = (x + 0.5 - 80) / f, (y + 0.5 - 60) / f
        grey = 127 + 60 * np.sin(9 * u) + 60 * np.cos(11 * v)
        frames.append(np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8))
    cameras = np.stack([focal, focal, np.full(3, 80.0), np.full(3, 60.0)], axis=1)
    steady, camera = steady_lens(np.stack(frames), cameras)
    assert steady.shape == (3, 60, 80, 3) and camera.tolist() == [100.0, 100.0, 40.0, 30.0]
    for other in (0, 1):
        assert np.abs(steady[other].astype(int) - steady[2].astype(int)).mean() < 3


Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `wm-env annotate` with some words in a folder of its own: exit status, output, complaint."""
    monkeypatch.chdir(tmp_path)

    def of(words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["annotate", *words.split()])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err.splitlines()[-1] if told.err else ""

    return of


@pytest.fixture
def matched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for pycolmap: nothing is matched, every frame is placed on a line; names what was asked."""
    asked: list[str] = []

    class Version:
        __version__ = "none"

    def matches(frames: np.ndarray, work: Path, *_: Any, **__: Any) -> Matches:
        asked.append(work.name)
        none = np.zeros(0, np.int64)
        begin = np.zeros(len(frames) + 1, np.int64)
        return Matches((64, 96), begin, np.zeros((0, 2), np.float32), none, none)

    def track(self: Any, clip: Any) -> Track:
        c2w = np.tile(np.eye(4), (clip.frames, 1, 1))
        c2w[:, 0, 3] = 0.01 * np.arange(clip.frames)
        camera = np.array([80.0, 80.0, 48.0, 32.0])
        return Track(np.arange(clip.frames), c2w, np.tile(camera, (clip.frames, 1)))

    for module in (pipeline, matching):
        monkeypatch.setattr(module, "load_pycolmap", Version)
    monkeypatch.setattr(pipeline, "match_frames", matches)
    monkeypatch.setattr(pipeline.Colmap, "settings", lambda self: {})
    monkeypatch.setattr(pipeline.Colmap, "track", track)
    return asked


def test_bad_input_is_one_clear_line_and_leaves_nothing(run: Run, tmp_path: Path, matched: Any) -> None:
    (tmp_path / "text.mp4").write_text("no film", encoding="utf-8")
    write_film(tmp_path / "short.mp4", [(10, 20), (8, 180)])
    write_film(tmp_path / "film.mp4", [(40, 20)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    write_png(tmp_path / "pictures" / "0.png", np.zeros((8, 8, 3), np.uint8))
    for name in ("two/a.mp4", "two/b.mp4"):
        write_film(tmp_path / name, [(5, 20)])
    other = tmp_path / "model"
    other.mkdir()
    (tmp_path / "wrong.toml").write_text("[frames]\nshortes = 3\n", encoding="utf-8")
    bert = '{"model_type": "bert", "architectures": ["BertModel"]}'
    texts = {"config.json": bert, "model.safetensors": "", "preprocessor_config.json": "{}"}
    for name, text in texts.items():
        (other / name).write_text(text, encoding="utf-8")
    for words, says in {
        "nowhere.mp4 --out o": "'nowhere.mp4' does not exist; give a film or a folder of them",
        "text.mp4 --out o": "no clip of text.mp4 was placed; text: text.mp4",
        "short.mp4 --out o2": "short.mp4 has no shot that is long enough: of 2 the longest has 10 frames, at "
        "least 33 are needed",
        "empty --out o": "'empty' holds no film (mp4, mov, mkv, webm, avi) and no pictures (png, jpg)",
        "film.mp4 --out full": "'full' is not empty and no annotation; give another folder",
        "film.mp4 --out text.mp4": "text.mp4",
        "pictures --out o3": "pictures holds pictures, which have no times; give fps=",
        "film.mp4 --out o --depth gone": "depth='gone' lacks config.json, model.safetensors",
        "film.mp4 --out o --depth model": "holds a model of type 'bert', which estimates no depth",
        "film.mp4 --out o --path-length 0": "path length is 0.0; expected metres, above 0",
        "film.mp4 --out o --path-length 1 --camera-height 2": "--camera-height and --path-length both make",
        "two --out o --known-distance 0 1 1 2 2 3": "a known distance is in one film; two holds 2",
        "film.mp4 --out o --recipe wrong.toml": "unknown 'shortes' in [frames]; did you mean shortest?",
        "film.mp4 --out o --recipe gone.toml": "the recipe 'gone.toml' does not exist",
        "film.mp4 --out o --backend given": "the film has no poses; put film.npz or film.json beside it",
        "film.mp4 --out o --fps 0": "fps is 0.0; expected frames per second",
        "film.mp4 --out o --backend given --zoom": "zoom goes with backend='pycolmap'",
    }.items():  # fmt: skip
        status, _, complaint = run(words)
        assert status == 2 and says in complaint, (words, complaint)
        assert complaint.startswith("wm-env annotate: error: ")
    left = {path.name for path in (tmp_path / "o").iterdir()} if (tmp_path / "o").exists() else set()
    assert left <= {".annotate", "annotations.jsonl"}
    assert {path.name for path in (tmp_path / "full").iterdir()} == {"mine.txt"}


def test_a_backend_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    film = write_film(tmp_path / "film.mp4", [(40, 20)])
    with pytest.raises(ImportError, match=r"which is not installed; pip install 'wm-env\[annotate\]'"):
        wm_env.annotate(film, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_clips_go_on_after_a_bad_one_and_every_one_has_its_row(
    tmp_path: Path, matched: list[str]
) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"no film")
    write_film(tmp_path / "films" / "b.mp4", [(34, 20), (9, 180), (36, 90)])
    found = wm_env.annotate(tmp_path / "films", tmp_path / "out", scale=PathLength(1.0))
    told = {row.clip: (row.status, "; ".join(row.reasons)) for row in found.rows}
    assert told["a"][0] == "failed" and "a.mp4" in told["a"][1]
    assert told["b-001"] == ("too short", "9 frames, at least 33 are needed")
    assert told["b-000"][0] == told["b-002"][0] == "refused" and "0 points are seen" in told["b-000"][1]
    lines = (tmp_path / "out" / "annotations.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["clip"] for line in lines] == ["a", "b-000", "b-001", "b-002"]
    assert not [path for path in (tmp_path / "out").iterdir() if (path / "camera.json").exists()]


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, matched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "film.mp4", [(34, 20), (34, 180)])
    whole = pipeline.Colmap.track

    def stopped(self: Any, clip: Any) -> Track:
        if len(matched) == 2:
            raise KeyboardInterrupt
        return whole(self, clip)

    monkeypatch.setattr(pipeline.Colmap, "track", stopped)
    with pytest.raises(KeyboardInterrupt):
        wm_env.annotate(film, tmp_path / "out")
    first = (tmp_path / "out" / "annotations.jsonl").read_text(encoding="utf-8")
    assert first.count("\n") == 1 and len(matched) == 2
    assert sorted(path.suffix for path in (tmp_path / "out" / ".annotate").iterdir()) == [".npz", ".npz"]
    monkeypatch.setattr(pipeline.Colmap, "track", whole)
    found = wm_env.annotate(film, tmp_path / "out")
    assert [row.clip for row in found.rows] == ["film-000", "film-001"] and len(matched) == 3
    wm_env.annotate(film, tmp_path / "out")
    assert len(matched) == 3, "all is there"
    write_film(film, [(34, 20), (34, 90)])
    wm_env.annotate(film, tmp_path / "out")
    assert len(matched) == 5, "another film is another film"


def test_a_full_disk_ends_it_in_one_line_and_nothing_is_half_written(
    tmp_path: Path, matched: list[str], disk_with: Callable[[int], AbstractContextManager[None]]
) -> None:
    film = write_film(tmp_path / "film.mp4", [(34, 20)])
    with disk_with(200), pytest.raises(OSError, match="cannot write"):
        wm_env.annotate(film, tmp_path / "out")
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == []


def test_a_folder_of_pictures_is_one_film(
    tmp_path: Path, matched: list[str], any_pictures: np.ndarray
) -> None:
    for at, picture in enumerate(any_pictures):
        write_png(tmp_path / "room" / f"{at}.png", picture)
    recipe = tmp_path / "short.toml"
    recipe.write_text("[frames]\nshortest = 21\n", encoding="utf-8")
    found = wm_env.annotate(tmp_path / "room", tmp_path / "out", fps=16, recipe=recipe)
    (row,) = found.rows
    assert (row.clip, row.first, row.last, row.frames) == ("room-000", 0, 29, 30)


def test_settings_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="backend='vipe' is unknown; expected pycolmap, given"):
        wm_env.annotate(tmp_path, tmp_path / "out", backend="vipe")
    with pytest.raises(ValueError, match="are not two places of a picture"):
        KnownDistance(0, 1, 1, 1, 1, 2.0)
    for text, says in (
        ("[frames]\nrate = -1\n", "frames.rate is -1; expected a number from 0 on"),
        ("[frame]\nrate = 1\n", r"unknown table \[frame\]; expected frames, features"),
        ("frames = 3\n", r"frames is 3; expected a table \[frames\]"),
        ("[filters]\nfov_deg = [3]\n", "expected two numbers, the least and the most"),
        ("[frames]\nshortest = 4\n", "expected at least 5"),
        ("[frames\n", "is no TOML file"),
    ):
        (tmp_path / "r.toml").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=says):
            load_recipe(tmp_path / "r.toml")


@pytest.mark.slow
def test_a_depth_estimator_of_transformers_makes_metres(
    tmp_path: Path, walked: Any, short_recipe: Path
) -> None:
    pytest.importorskip("pycolmap", reason="poses are matched by pycolmap (extra annotate), not installed")
    transformers = pytest.importorskip("transformers", reason="the estimator is read by transformers")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        out_features=["stage1", "stage2"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8, 8],
        reassemble_factors=[1, 0.5], fusion_hidden_size=8, head_hidden_size=8,
        depth_estimation_type="metric", max_depth=20,
    )  # fmt: skip
    folder = tmp_path / "estimator"
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = transformers.DPTImageProcessorPil(size={"height": 28, "width": 28}, ensure_multiple_of=14)
    processor.save_pretrained(folder)
    walked.clip.save(tmp_path / "given")
    found = wm_env.annotate(
        tmp_path / "given", tmp_path / "out", backend="given", recipe=short_recipe, scale=DepthModel(folder)
    )
    (row,) = found.rows
    assert row.scale is not None and row.scale.source == "depth estimator estimator"
    assert row.scale.low is not None and row.scale.high is not None
    assert row.scale.low <= row.scale.factor <= row.scale.high and row.scale.factor > 0
    if row.status == "accepted":
        step = PosedClip.load(found.accepted[0]).c2w[:, :3, 3] / row.scale.factor
        assert np.allclose(step, walked.clip.c2w[:, :3, 3])

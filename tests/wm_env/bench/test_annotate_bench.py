"""Poses against their truth: what is rendered, what is compared, which wrong tracks pass, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_env.bench.annotate.films import KINDS, Film, film_of, keys_of
from wm_env.bench.annotate.report import AnnotateReport, markdown, verdict
from wm_env.bench.annotate.rows import FAULTS, AnnotateSettings, angles_deg, damaged, relative_error
from wm_env.bench.annotate.score import kind_rows, wrong_rows
from wm_env.bench.records import load
from wm_env.cli import main
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.geometry import check_rigid


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    """Two tiny films, a walk and turns."""
    folder = tmp_path_factory.mktemp("films")
    return [film_of(kind, 0, 30000, 6, 96, folder) for kind in ("walk", "turns")]


def test_a_film_has_its_poses_camera_and_a_distance_that_is_true(films: list[Film]) -> None:
    for film in films:
        assert film.c2w.shape == (25, 4, 4) and film.intrinsics.shape == (25, 4)
        assert len(list(ClipFiles().frames(film.path))) == 25
        assert 0.5 < film.height < 2.5
        frame, u1, v1, u2, v2, metres = film.known
        assert frame == 12 and all(0 < one < 96 for one in (u1, v1, u2, v2)) and 0 < metres < 15


def test_every_kind_has_keys_and_only_rotations_stay_on_the_spot() -> None:
    for kind in KINDS:
        keys = keys_of(kind, 16, 3)
        assert len(keys) == 16 and keys == keys_of(kind, 16, 3)
        moves = any(set(key) & set("wsjl") for key in keys)
        assert moves == (kind != "rotation")


def test_errors_are_zero_for_the_truth_and_known_for_a_known_fault() -> None:
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    assert angles_deg(turn[None], np.eye(3)[None]).tolist() == pytest.approx([90.0])
    places = np.stack([np.arange(20.0), np.zeros(20), np.zeros(20)], axis=1)
    assert relative_error(places, places) == 0.0
    assert relative_error(places * 1.1, places) == pytest.approx(0.1)
    assert relative_error(places[:5], places[:5]) is None


def test_every_fault_gives_poses_that_are_rigid_and_wrong(films: list[Film]) -> None:
    import torch

    one, other = films
    for fault in FAULTS:
        for draw in range(3):
            c2w, camera = damaged(one, other, fault, draw)
            check_rigid(torch.from_numpy(c2w))
            same = np.allclose(c2w, one.c2w) and np.allclose(camera, one.intrinsics)
            assert c2w.shape == one.c2w.shape and not same, fault
            assert np.array_equal(damaged(one, other, fault, draw)[0], c2w)


def _row(kind: str, **others: Any) -> dict[str, Any]:
    return {"kind": kind, "status": "accepted", "placed": 1.0, "whole": True, **others}


def test_rows_are_counted_and_averaged_by_kind() -> None:
    rows = {f"walk {n}": _row("walk", rotation=0.1 * n, ate=0.01, focal=0.0) for n in range(5)}
    rows["walk 5"] = _row("walk", rotation=9.0, wrong=True)
    rows["walk 6"] = {"kind": "walk", "status": "failed", "placed": 0.0}
    rows["rotation 0"] = {**_row("rotation", rotation=0.2), "status": "rotation only"}
    told = kind_rows(rows)
    walk = told["walk"]
    assert list(told) == ["walk", "rotation"] and told["rotation"].rotation_only == 1
    assert (walk.films, walk.accepted, walk.placed, walk.wrong) == (7, 6, 6, 1)
    assert walk.rotation.n == 6 and walk.rotation.mean == pytest.approx(10.0 / 6)
    assert walk.ate.n == 5 and walk.scale["known distance"].n == 0
    tracks = {
        str(n): {"fault": "drift", "by": by} for n, by in enumerate(["filters", "context check", "nobody"])
    }
    true, wrong = wrong_rows({**tracks, "t": {"fault": "true", "by": "nobody"}})
    assert (true.tracks, true.accepted) == (1, 1) and list(wrong) == ["drift"]
    assert (wrong["drift"].filters, wrong["drift"].check, wrong["drift"].accepted) == (1, 1, 1)


@pytest.mark.parametrize(
    ("odd", "told"), [({"clips": 1}, "clips=1"), ({"steps": 2}, "steps=2"), ({"size": 63}, "size=63"),
                      ({"wrong": -1}, "wrong=-1")]
)  # fmt: skip
def test_impossible_settings_are_refused(odd: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AnnotateSettings(**odd)


@pytest.mark.slow
def test_the_command_measures_two_films_refuses_wrong_tracks_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap", reason="poses are found by pycolmap (extra annotate), not installed")
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (extra bench)")
    monkeypatch.chdir(tmp_path)
    words = ["bench", "annotate", "--out", "out", "--clips", "2", "--rotations", "0", "--hard", "0"]
    words += ["--wrong", "5", "--steps", "8", "--size", "256"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    report = load(AnnotateReport, tmp_path / "out" / "annotate.json")
    moving = [report.rows["walk"], report.rows["turns"]]
    assert [row.films for row in moving] == [1, 1] and sum(row.wrong for row in moving) == 0
    assert sum(row.placed for row in moving) >= 1
    assert sum(row.tracks for row in report.wrong.values()) == 5
    assert sum(row.accepted for row in report.wrong.values()) == 0, "no wrong track passes"
    assert report.true.accepted >= 1, "and the true ones do"
    (page,) = (tmp_path / "out").glob("*.md")
    text = page.read_text(encoding="utf-8")
    assert text == markdown(report) and verdict(report) in text and "machine-minutes" in text
    assert (tmp_path / "out" / "annotate.png").stat().st_size > 1000
    rows = (tmp_path / "out" / "annotate.jsonl").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(words)
    assert (tmp_path / "out" / "annotate.jsonl").read_text(encoding="utf-8") == rows, (
        "nothing is measured twice"
    )
    assert json.loads((tmp_path / "out" / "annotate.json").read_text(encoding="utf-8"))["rows"]["walk"]

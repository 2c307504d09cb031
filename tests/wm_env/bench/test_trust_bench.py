"""Calibrating a world, the report of its trust, violations of expectation and the surprise of films."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wm_env
from wm_env.bench.records import load
from wm_env.bench.trust.fit import FitSettings, calibrate
from wm_env.bench.trust.report import TrustReport, markdown, shortfalls, verdict
from wm_env.bench.trust.run import run
from wm_env.bench.trust.samples import SampleSettings, joined, samples_of_walks, truth_of
from wm_env.bench.trust.score import Table, event_of, row_of, truncation
from wm_env.bench.trust.settings import TrustSettings
from wm_env.bench.trust.violations import EVENTS, violations
from wm_env.cli import main
from wm_env.model.embedded import load_embedded
from wm_env.model.metrics.forecasts import brier_skill, calibration_error
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scene
from wm_env.model.trust_calibration import SUFFIX, Calibration, load_calibration
from wm_env.model.trust_model import sigmoid
from wm_env.surprises import surprise_of
from wm_env.twin import TwinWorld

FEW = SampleSettings(scenes=4, contexts=("none",), steps=3, batch=4)


@pytest.fixture(scope="module")
def calibration(memory_world: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration of the random world, by the command's own function."""
    settings = FitSettings(samples=FEW, surprise=2)
    found, samples = calibrate(load_embedded(memory_world), settings, command="a test")
    assert len(samples) == 12 and len(samples.cell_error) == 72
    path = tmp_path_factory.mktemp("calibration") / f"random{SUFFIX}"
    found.save(path)
    assert load_calibration(path) == found
    return path


def test_a_calibration_says_what_it_is_of(calibration: Path, memory_world: str) -> None:
    found, spec = load_calibration(calibration), load_embedded(memory_world).spec
    assert (found.world, found.weights_sha256) == (spec.name, spec.weights_sha256)
    assert found.made["walks"] == 4 and found.made["command"] == "a test"
    assert found.place is not None and found.cells is not None and found.surprise is not None
    assert found.cells.bound == found.appearance.bound and found.cells.names[-1] == "frame_trust"
    assert found.start_limit is not None and found.start_limit > 0
    assert {"unseen", "mismatch", "new_directions", "at_stake", "start_error"} <= set(found.appearance.names)


def test_errors_of_samples_are_those_of_the_newest_frames(memory_world: str) -> None:
    twin = TwinWorld()
    truth = truth_of(twin.spec, "val", FEW)
    own = samples_of_walks(twin, truth, "none", 4)
    assert own.appearance.max() == 0 and own.place.max() < 1e-6  # the truth itself
    assert own.step.tolist() == [1, 2, 3] * 4 and own.walk.tolist() == [n for n in range(4) for _ in range(3)]
    both = joined([own, own])
    assert both.walk.max() == 7 and both.cell_of.max() == 23 and len(both) == 24


@pytest.mark.slow
def test_a_world_without_a_twin_is_calibrated_on_the_ends_of_clips(pure_world: str, tmp_path: Path) -> None:
    world = load_embedded(pure_world)
    truth = truth_of(world.spec, "val", dataclasses.replace(FEW, scenes=5))
    clips = [
        wm_env.PosedClip(
            truth.frames[slot].numpy(), truth.c2w[slot].numpy(), truth.intrinsics[slot].numpy(), fps=16
        ).save(tmp_path / f"clip{slot}")
        for slot in range(5)
    ]
    settings = FitSettings(samples=FEW, held_out=2, shown=1)
    found, samples = calibrate(world, settings, command="", clips=clips)
    assert len(samples) == 10 and found.made["clips"] == [f"clip{slot}" for slot in range(5)]
    assert found.place is None and found.surprise is None and found.start_limit is None
    assert "residual" in found.appearance.names and Calibration.from_json(found.to_json()) == found
    with pytest.raises(ValueError, match="2 clips are too few to calibrate on; give at least 5"):
        calibrate(world, settings, command="", clips=clips[:2])


def test_what_cannot_be_calibrated_is_refused(memory_world: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a renderer"):
        calibrate(TwinWorld(), FitSettings(samples=FEW), command="")
    with pytest.raises(ValueError, match="is a renderer, what it shows is true: leave trust out"):
        run("twin", TrustSettings(samples=FEW), tmp_path / "report")
    assert not (tmp_path / "report").exists()
    with pytest.raises(ValueError, match=r"12 of 12 samples are within 1000 grey levels"):
        calibrate(load_embedded(memory_world), FitSettings(samples=FEW, bound=1000.0, surprise=0), command="")
    for wrong in ({"scenes": 0}, {"steps": 0}, {"contexts": ("none", "none")}, {"contexts": ("spin",)}):
        with pytest.raises(ValueError):
            SampleSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVENTS)
def test_controls_and_events_are_equal_until_the_event_and_only_then(name: str) -> None:
    spec = TwinWorld().spec
    found = violations(spec, name, 2, "heldout")
    assert len(found) == 2
    for one in found:
        assert one.control.shape == one.event.shape == (21, 64, 64, 3)
        assert torch.equal(one.control[: one.frame], one.event[: one.frame])
        assert not torch.equal(one.control[one.frame], one.event[one.frame])
        assert 1 + 4 * one.chunk <= one.frame <= 4 * (one.chunk + 1)
        pose = start_pose(make_scene(one.seed, "heldout"), one.seed)
        camera = torch.tensor([one.intrinsics], dtype=torch.float64)
        truth, _ = render(one.scene, (pose @ one.c2w)[None], camera, *spec.frame_size)
        assert torch.equal(truth[0], one.control)  # of the poses that are told
    assert [a.seed for a in violations(spec, name, 2, "heldout")] == [a.seed for a in found]


def test_an_unknown_event_is_named() -> None:
    with pytest.raises(ValueError, match="unknown event 'fly'; known are vanish"):
        violations(TwinWorld().spec, "fly", 1, "val")


@pytest.mark.slow
def test_a_report_is_measured_once_written_and_read_back(
    memory_world: str, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wm_env.bench.trust.run.EVENTS", ("cut",))
    monkeypatch.setattr("wm_env.bench.trust.score.RESAMPLES", 20)
    settings = TrustSettings(
        samples=dataclasses.replace(FEW, scenes=5), splits=("val",), events=2, floors=(0.5,), two_draws=True
    )
    report, paths = run(memory_world, settings, tmp_path, calibration=calibration)
    row = report.appearance["val"]
    assert row.walks == 5 and row.frames == 15 and set(report.place) == set(report.appearance)
    assert set(row.baselines) == {"step number", "contrast of the frame", "share unseen", "two draws"}
    assert row.auroc.lo is not None and sum(one.n for one in row.bins) == 15
    assert set(report.surprise) == {"cut"} and report.surprise["cut"].films == 2
    text = paths[0].read_text()
    assert text.split("\n")[2] == f"**{verdict(report)}**" and markdown(report) == text
    assert load(TrustReport, paths[1]) == report and f"]({paths[2].name})" in text
    with Image.open(paths[2]) as diagram:
        assert diagram.size == (408, 408)
    rows = next(tmp_path.glob("*.jsonl")).read_bytes()
    again, _ = run(memory_world, settings, tmp_path, calibration=calibration)
    assert next(tmp_path.glob("*.jsonl")).read_bytes() == rows
    assert again.appearance == report.appearance and again.surprise == report.surprise
    bad = dataclasses.replace(report, appearance={"val": dataclasses.replace(row, ece=0.5)})
    assert "ECE 0.50 (wanted 0.05)" in shortfalls(bad) and "ECE 0.50" in verdict(bad)


def made_up(walks: int = 12, steps: int = 8) -> Table:
    """Return walks whose error rises by a pace of their own, which the forecast knows and no signal tells."""
    rng = np.random.default_rng(1)
    pace = np.repeat(rng.uniform(0.5, 4, walks), steps)
    step = np.tile(np.arange(1, steps + 1), walks)
    error = pace * step
    signals = {
        "steps": step * 1.0,
        "contrast": rng.random(walks * steps),
        "unseen": rng.random(walks * steps),
    }
    walk = np.repeat(np.arange(walks), steps)
    return Table(signals, error, step, walk, sigmoid(8 - error))


def test_a_forecast_that_knows_beats_single_numbers_within_horizons() -> None:
    table = made_up()
    row = row_of(table, 8.0)
    assert row.auroc.mean == 1 and row.gain.mean is not None and row.gain.mean > 0.05
    assert row.gain.lo is not None and row.skill.mean == brier_skill(table.forecast, table.error <= 8)
    assert row.ece == calibration_error(table.forecast, table.error <= 8)
    assert [(one.first, one.last) for one in row.horizons] == [(1, 4), (5, 8)]


def test_truncation_by_trust_keeps_as_many_frames_of_lower_error() -> None:
    cut = truncation(made_up(), 0.5)
    assert cut is not None and cut.trusted < cut.fixed and 0 < cut.kept < 1
    assert cut.gain.lo is not None and cut.gain.lo > 0
    assert truncation(made_up(), 0.9999) is None  # nothing is kept


def test_events_are_ranked_against_controls() -> None:
    found = event_of([0.0, 1.0, 0.5, 0.2, 0.1], [2.0, 3.0, 0.7, 4.0, 2.5])
    assert found.auroc.mean == pytest.approx(24 / 25) and found.films == 5


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved clip of 9 frames of a scene."""
    (one,) = violations(TwinWorld().spec, "cut", 1, "val")
    clip = wm_env.PosedClip(one.control[:9].numpy(), one.c2w[:9].numpy(), np.array(one.intrinsics), fps=16)
    return clip.save(tmp_path_factory.mktemp("clips") / "clip")


def test_the_surprise_of_a_film_is_a_number_a_chunk(memory_world: str, calibration: Path, clip: Path) -> None:
    found = surprise_of(memory_world, clip, calibration=calibration)
    assert found.chunks.shape == (2,) and found.tokens.shape == (2, 8, 8)
    assert found.frames.tolist() == [1, 5] and found.seconds.tolist() == [1 / 16, 5 / 16]
    again = wm_env.surprise_of(
        load_embedded(memory_world), wm_env.PosedClip.load(clip), calibration=calibration
    )
    assert np.array_equal(again.chunks, found.chunks)


def test_films_that_cannot_surprise_are_refused(
    memory_world: str, pure_world: str, calibration: Path, clip: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="cannot be surprised"):
        surprise_of("twin", clip)
    with pytest.raises(FileNotFoundError, match="no calibration of trust; make one with"):
        surprise_of(memory_world, clip)
    with pytest.raises(ValueError, match="is of weights"):
        surprise_of(pure_world, clip, calibration=calibration)
    values = json.loads(calibration.read_text())
    (tmp_path / "none.json").write_text(json.dumps({**values, "surprise": None}))
    with pytest.raises(ValueError, match="no null distribution of surprise"):
        surprise_of(memory_world, clip, calibration=tmp_path / "none.json")
    found = load_calibration(calibration)
    assert found.surprise is not None
    other = dataclasses.replace(
        found.surprise, **{name: getattr(found.surprise, name) * 2 for name in
                           ("sigmas", "intercept", "unseen", "detail", "apart", "spread")}
    )  # fmt: skip
    dataclasses.replace(found, surprise=other).save(tmp_path / "two.json")
    with pytest.raises(ValueError, match=r"noise levels .* but the sampler of"):
        surprise_of(memory_world, clip, calibration=tmp_path / "two.json")
    bare = tmp_path / "bare"
    bare.mkdir()
    for picture in sorted((clip / "frames").iterdir()):
        (bare / picture.name).write_bytes(picture.read_bytes())
    with pytest.raises((ValueError, FileNotFoundError), match=r"bare"):
        surprise_of(memory_world, bare, calibration=calibration)


def test_the_commands_write_their_results(
    memory_world: str, calibration: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "made.json", tmp_path / "surprise.json"
    few = ["--scenes", "2", "--steps", "2"]
    words = ["trust", "calibrate", "--world", memory_world, "--out", str(out), *few]
    with pytest.raises(SystemExit) as end:
        main([*words, "--contexts", "none", "--surprise", "0"])
    assert end.value.code == 0 and isinstance(load_calibration(out), Calibration)
    assert "trust is the probability that a frame is within" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        asked = ["--world", memory_world, "--calibration", str(calibration), "--json", str(told)]
        main(["surprise", str(clip), *asked])
    assert end.value.code == 0 and len(json.loads(told.read_text())["chunks"]) == 2
    with pytest.raises(SystemExit) as end:
        main([*words, "--overwrite", "--clips", str(tmp_path / "nowhere")])
    assert end.value.code == 2
    assert "is not a folder of posed clips" in capsys.readouterr().err

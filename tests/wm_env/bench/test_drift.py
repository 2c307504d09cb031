"""The drift benchmark: the truth has no error, every injected fault raises its own component."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wm_env.bench.drift.clip_metrics import pose_scores
from wm_env.bench.drift.columns import APP, FREEZE, GEO, PSNR, ROTATION
from wm_env.bench.drift.pose_estimate import Gate, blurred, noisy
from wm_env.bench.drift.report import Scores
from wm_env.bench.drift.rollouts import DriftSettings
from wm_env.bench.drift.rows import drift
from wm_env.bench.drift.score import score
from wm_env.cli import main
from wm_env.model.geometry import se3_exp
from wm_env.model.metrics import PSNR_CAP
from wm_env.model.world import Chunk, Start, WorldSpec
from wm_env.twin import TWIN_SPEC, TwinWorld

SCENES, STEPS = 2, 12


class DamagedState(NamedTuple):
    twin: Any
    step: Tensor  # (B,) int64
    last: Tensor  # (B, h, w, 3) uint8, the newest frame shown


class Damaged:
    """The twin with a growing fault: `fault(frames (B, K, h, w, 3), share of STEPS, last frame)`."""

    def __init__(self, fault: Callable[[Tensor, float, Tensor], Tensor]) -> None:
        self.inner, self.fault = TwinWorld(), fault

    @property
    def spec(self) -> WorldSpec:
        return self.inner.spec

    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, DamagedState]:
        chunk, state = self.inner.begin(starts)
        return chunk, DamagedState(state, torch.zeros(len(starts), dtype=torch.int64), chunk.frames[:, -1])

    def step_chunk(self, state: DamagedState, c2w: Tensor) -> tuple[Chunk, DamagedState]:
        chunk, twin = self.inner.step_chunk(state.twin, c2w)
        frames = self.fault(chunk.frames, float(state.step[0] + 1) / STEPS, state.last)
        return chunk._replace(frames=frames), DamagedState(twin, state.step + 1, frames[:, -1])

    def set_prompt(self, state: DamagedState, prompts: Sequence[str | None]) -> DamagedState:
        return state

    def set_noise_seed(self, state: DamagedState, noise_seeds: Sequence[int]) -> DamagedState:
        return state


def gain(frames: Tensor, share: float, last: Tensor) -> Tensor:
    return (frames.float() * (1 - 0.7 * share)).round().to(torch.uint8)


def blur(frames: Tensor, share: float, last: Tensor) -> Tensor:
    soft = blurred(blurred(frames.flatten(0, 1))).unflatten(0, frames.shape[:2]).float()
    return (share * soft + (1 - share) * frames.float()).round().to(torch.uint8)


def noise(frames: Tensor, share: float, last: Tensor) -> Tensor:
    return noisy(frames, sigma=30 * share)


def freeze(frames: Tensor, share: float, last: Tensor) -> Tensor:
    return frames if share < 0.4 else last[:, None].expand_as(frames)


FAULTY = {"darker": gain, "blur": blur, "noise": noise, "freeze": freeze}


@pytest.fixture(scope="module")
def damage_report(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    worlds = {"twin": TwinWorld()} | {name: Damaged(fault) for name, fault in FAULTY.items()}
    settings = DriftSettings(trajectories=("random_walk",), scenes=SCENES, steps=STEPS, pose_every=0)
    rows = drift(worlds, settings, tmp_path_factory.mktemp("damaged"))
    return score(rows, "twin", STEPS / 4, None)


def test_the_truth_against_itself_has_no_error_at_all(damage_report) -> None:
    for cell in damage_report.bins:
        assert cell.mean(PSNR) == PSNR_CAP
        assert cell.values["ssim"] == pytest.approx(1.0)
        assert [cell.values[name] for name in ("mse", "mae", "freeze", "colour")] == [0, 0, 0, 0]
    assert set(damage_report.faults["twin"].values()) == {0.0}
    assert damage_report.growth["twin"].worst.mean == 0.0


@pytest.mark.parametrize("name", FAULTY)
def test_an_injected_fault_raises_its_own_component_and_no_other(damage_report, name) -> None:
    strength = damage_report.faults[name]
    assert max(strength, key=strength.get) == name
    assert strength[name] > 1.0
    share = 1.0 if name == "freeze" else 0.5  # a frozen picture also shows another place than the truth
    assert all(value < share * strength[name] for other, value in strength.items() if other != name)


@pytest.mark.parametrize("name", ["darker", "blur", "noise"])
def test_a_growing_fault_grows_in_every_bin(damage_report, name) -> None:
    component = {"darker": "luma", "blur": "sharpness", "noise": "noise"}[name]
    deviation = np.abs(damage_report.statistics[name][component])
    assert (np.diff(deviation) > 0).all()


def test_freezing_raises_the_freeze_index_while_it_looks_consistent(damage_report) -> None:
    last = damage_report.baselines["freeze"][-1]
    assert last.mean(FREEZE) == 1.0
    assert damage_report.statistics["freeze"]["consistency"][-1] > 0
    for other in ("darker", "blur", "noise"):
        assert damage_report.baselines[other][-1].mean(FREEZE) == 0.0


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_rows(tmp_path: Path) -> None:
    settings = DriftSettings(trajectories=("forward",), scenes=2, steps=6, batch=1, pose_every=0)
    drift({"twin": TwinWorld()}, settings, tmp_path)
    whole = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(whole[: -len(whole.splitlines()[-1]) // 2])
    drift({"twin": TwinWorld()}, settings, tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == whole
    other = DriftSettings(trajectories=("forward",), scenes=2, steps=8, batch=1, pose_every=0)
    with pytest.raises(ValueError, match="choose another --out"):
        drift({"twin": TwinWorld()}, other, tmp_path)


@pytest.mark.slow
def test_spread_scenes_walk_one_trajectory_each_and_count_once(tmp_path: Path) -> None:
    settings = DriftSettings(trajectories=("forward", "idle"), scenes=3, steps=6, pose_every=0, spread=True)
    rows = drift({"twin": TwinWorld()}, settings, tmp_path)
    walked = {(row["scene"], row["trajectory"]) for row in rows}
    assert walked == {(0, "forward"), (1, "idle"), (2, "forward")}
    assert {path.stem for path in (tmp_path / "films").iterdir()} == {"forward--twin", "idle--twin"}
    report = score(rows, "twin", 1.5, None)
    assert report.standing == ("idle",)
    assert [cell.n for cell in report.bins] == [2] * 6
    assert [cell.n for cell in report.trajectories["idle"]["twin"]] == [1] * 6
    with pytest.raises(ValueError, match="1 scenes cannot be spread over 2"):
        DriftSettings(trajectories=("forward", "idle"), scenes=1, spread=True)


def test_errors_of_known_views_are_those_of_frames_that_were_shown() -> None:
    yaw = torch.zeros(13, 6, dtype=torch.float64)
    yaw[:, 4] = torch.linspace(0, 1.2, 13)  # radians: sample m is off by 0.1 m
    still = torch.eye(4, dtype=torch.float64).expand(13, 4, 4)
    shown = np.array([1.0] + 6 * [0.8, 0.2])  # of bin k: known is the former of its two samples
    lost = np.zeros(13, dtype=bool)
    lost[3] = True
    found = pose_scores(still, se3_exp(yaw), np.arange(0, 97, 8), 96, 6, lost, shown)
    wanted = np.degrees([0.1, np.nan, 0.5, 0.7, 0.9, 1.1])
    np.testing.assert_allclose(found["known"]["rot_err_deg"], wanted, atol=1e-9)
    np.testing.assert_allclose(found["first"]["rot_err_deg"][2], np.degrees(0.55), atol=1e-9)


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["bench", "drift", *words])
    assert exit.value.code == 0


@pytest.mark.slow
def test_the_command_writes_the_agreed_json_and_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    words = ["--world", "twin", "--scenes", "1", "--horizon", "1.5s", "--trajectories", "spin360"]
    options = ["--pose-every", "12", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "drift.json")]
    run(*words, *options)
    report = json.loads((tmp_path / "drift.json").read_text())
    assert {"world", "weights_sha256", "bins", "baselines"} <= set(report)
    for bins in (report["bins"], *report["baselines"].values()):
        assert len(bins) == 6
        for cell in bins:
            assert {"t0", "t1", "psnr", "skill", "rot_err_deg"} <= set(cell)
            assert set(cell["psnr"]) == {"mean", "lo", "hi"}
    assert report["bins"][0]["t0"] == 0.0
    assert report["bins"][-1]["t1"] == 1.5
    assert report["bins"][0]["psnr"]["lo"] is None  # one scene: n too small
    assert "no autoencoder" in report["nulls"]["skill"]
    if "rot_err_deg" not in report["nulls"]:  # the gate may withhold it for a single scene
        found = [cell["rot_err_deg"] for cell in report["bins"] if cell["rot_err_deg"] is not None]
        assert max(found) < 1e-6
        static = [cell["rot_err_deg"] for cell in report["baselines"]["repeat first frame"]]
        assert static[-1] > 50  # a camera that stays, against one that turns
        assert {cell["rot_err_deg_known"] for cell in report["bins"]} == {None}  # it turns away at once
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert "n too small" in page


@pytest.mark.slow
def test_without_a_twin_what_needs_the_truth_is_null_with_a_reason(pure_world, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "start.png")
    words = ["--world", pure_world, "--horizon", "1.5s", "--trajectories", "random_walk"]
    run(*words, "--image", str(tmp_path / "start.png"), "--out", str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert {"psnr", "skill", "rot_err_deg"} <= set(report["nulls"])
    assert all("no twin" in reason for reason in report["nulls"].values())
    for cell in report["bins"]:
        assert cell["psnr"] is None and cell["skill"] is None and cell["rot_err_deg"] is None
        assert cell["motion"] is not None
    assert report["statistics"]["random"]["luma"][0] == 0.0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<p class='verdict'>Nothing true to compare random with" in page and "stands still" not in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--trajectories", "zigzag"], "unknown trajectory"),
        (["--horizon", "soon"], "not a time in seconds"),
        (["--horizon", "0.25s"], "too short"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_walked(words, sentence, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["bench", "drift", "--world", "twin", "--out", str(tmp_path / "out"), *words])
    assert exit.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out" / "rows.jsonl").exists()


class Late(Damaged):
    """The twin two frames late: every frame is the one shown two frames before."""

    def step_chunk(self, state: DamagedState, c2w: Tensor) -> tuple[Chunk, DamagedState]:
        chunk, twin = self.inner.step_chunk(state.twin, c2w)
        kept = chunk.frames[:, -2:]
        before = state.last if state.last.ndim == 5 else state.last[:, None].expand_as(kept)
        frames = torch.cat([before, chunk.frames[:, :-2]], dim=1)
        return chunk._replace(frames=frames), DamagedState(twin, state.step + 1, kept)


@pytest.mark.slow
def test_a_picture_that_comes_two_frames_late_has_a_latency_of_two(tmp_path: Path) -> None:
    worlds = {"twin": TwinWorld(), "late": Late(gain)}
    settings = DriftSettings(trajectories=("whip_pan",), scenes=2, steps=20, pose_every=0)
    report = score(drift(worlds, settings, tmp_path), "twin", 5.0, None)
    assert report.latency["twin"].frames.mean == 0.0
    assert report.latency["twin"].correlation.mean == pytest.approx(1.0)
    assert report.latency["late"].frames.mean == 2.0


class Elsewhere(Damaged):
    """The twin seen from a camera that turns by four degrees too much."""

    def step_chunk(self, state: DamagedState, c2w: Tensor) -> tuple[Chunk, DamagedState]:
        off = se3_exp(torch.tensor([0.0, 0, 0, 0, np.radians(4.0), 0], dtype=torch.float64))
        chunk, twin = self.inner.step_chunk(state.twin, c2w @ off)
        return chunk, DamagedState(twin, state.step + 1, chunk.frames[:, -1])


@pytest.mark.slow
def test_a_right_picture_of_the_wrong_place_and_the_reverse_are_told_apart(tmp_path: Path) -> None:
    worlds = {"elsewhere": Elsewhere(gain), "blur": Damaged(blur)}
    settings = DriftSettings(trajectories=("random_walk",), scenes=2, steps=8, pose_every=16)
    rows = drift(worlds, settings, tmp_path, compared=2)
    report = score(rows, "elsewhere", 2.0, Gate(0.0, 0.0, True), compared=["blur"])
    assert report.compared == ("blur",) and set(report.gain or {}) == {"elsewhere", "blur"}
    last = {"elsewhere": report.bins[-1], "blur": report.baselines["blur"][-1]}
    assert last["elsewhere"].mean(ROTATION) == pytest.approx(4.0, abs=1.0)
    assert last["elsewhere"].mean(GEO) > 3.0
    assert last["blur"].mean(ROTATION) < 1.0
    assert last["blur"].mean(GEO) < 1.0
    assert last["blur"].mean(APP) is None  # the twin has no codec to compare the picture with


def test_worlds_that_move_differently_share_no_report(tmp_path: Path) -> None:
    slow = TwinWorld(dataclasses.replace(TWIN_SPEC, name="slow", max_translation=0.01))
    with pytest.raises(ValueError, match=r"max_translation 0\.0625, 0\.01"):
        drift({"twin": TwinWorld(), "slow": slow}, DriftSettings(scenes=1, steps=12), tmp_path, compared=2)
    assert not any(tmp_path.iterdir())

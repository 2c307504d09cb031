"""The fidelity table: the truth scores perfectly, nothing is claimed from two scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_env.bench.fidelity import FidelityReport, FidelitySettings, appearance, fidelity, markdown
from wm_env.bench.seen import psnr_where, seen_before
from wm_env.bench.walks import context_frames, walks
from wm_env.cli import main
from wm_env.model.metrics import PSNR_CAP, freeze_share
from wm_env.model.metrics.intervals import MIN_SCENES, band, ratio_band
from wm_env.twin import TwinWorld
from wm_env.worlds import load_world


@pytest.mark.slow
def test_the_twin_against_itself_is_perfect_at_every_horizon() -> None:
    settings = FidelitySettings(
        splits=("val",), scenes=2, horizons=(4, 8), look_steps=2, long_steps=4, still_steps=1
    )
    found = fidelity({"twin": TwinWorld()}, settings, "test").splits["val"]
    assert [cell.mean for cell in found.psnr["twin"].values()] == [PSNR_CAP, PSNR_CAP]
    assert found.psnr["repeat first frame"]["8"].mean < 40
    for lead in ("lead_0", "lead_8", "full_turn"):
        assert found.look_away[lead]["twin"].truth.mean == PSNR_CAP
        assert found.look_away[lead]["twin"].itself.mean > 40  # the same view again
    means = {key: cell.mean for key, cell in found.appearance.rows().items()}
    assert means == pytest.approx({"luma": 1.0, "contrast": 1.0, "saturation": 1.0, "freeze": 0.0})


@pytest.mark.slow
def test_the_command_writes_every_row_and_no_interval_from_two_scenes(memory_world, tmp_path: Path) -> None:
    words = ["bench", "fidelity", "--world", memory_world, "--out", str(tmp_path / "out"), "--scenes", "2"]
    options = ["--splits", "val", "--horizons", "4", "--long-steps", "4", "--still-steps", "1"]
    with pytest.raises(SystemExit) as exit:
        main([*words, *options, "--json", str(tmp_path / "result.json")])
    assert exit.value.code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    rows = result["splits"]["val"]["psnr"]
    assert list(rows) == [
        *("random", "repeat first frame", "codec alone"),
        *("ablate=dit", "ablate=gdn_state", "ablate=memory", "wrong actions"),
    ]
    assert result["splits"]["val"]["shown"] == {}
    imagined = result["splits"]["val"]["imagination"]
    assert imagined["geometry"]["random"]["mean"] > 0 and imagined["standing"]["psnr"]["1"]["mean"] < 100
    assert len(list((tmp_path / "out").glob("fidelity-*-val.png"))) == 1
    assert result["weights_sha256"] and result["hardware"] and result["date"] and result["command"]
    assert all(cell["lo"] is None for row in rows.values() for cell in row.values())
    text = next((tmp_path / "out").glob("*.md")).read_text()
    assert "n too small" in text
    assert text == markdown(FidelityReport.from_json(result))


def test_a_clip_that_stops_is_frozen_where_the_truth_moves() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (1, 9, 16, 16, 3), generator=generator, dtype=torch.uint8)
    stopped = truth.clone()
    stopped[:, 5:] = stopped[:, 4:5]
    assert freeze_share(stopped, truth).tolist() == [0.5]
    assert freeze_share(truth, truth).tolist() == [0.0]
    darker = (truth // 2).to(torch.uint8)
    assert appearance(darker, truth, 8).luma.mean == pytest.approx(0.5, abs=0.01)


def test_bands_need_enough_scenes_and_leave_out_undefined_ones() -> None:
    values = np.arange(8.0)
    assert band(values) == band(values)
    assert band(values).lo < 3.5 < band(values).hi
    assert band(values[: MIN_SCENES - 1]).lo is None
    assert "n too small" in band(values[:2]).text()
    assert band(np.array([np.nan, *values])) == band(values)
    assert band(np.array([np.nan])).text() == "-"
    assert ratio_band(2 * values + 2, values + 1).mean == pytest.approx(2.0)


def test_what_a_context_has_shown_is_what_true_geometry_says() -> None:
    spec = TwinWorld().spec
    away = [["d"] * 13]  # half around
    truth = walks(spec, split="val", seeds=[3], keys=away)
    ends = torch.tensor([0, 52])
    share = {
        kind: seen_before(spec, truth, kind, ends).double().mean((0, 2, 3)).tolist()
        for kind in ("none", "turn", "walk")
    }
    assert all(shares[0] > 0.99 for shares in share.values())  # the start is in every context
    assert share["none"][1] == 0 and share["turn"][1] > 0.9
    walked = context_frames(spec, truth, "walk")
    assert torch.equal(walked[0, -1], torch.eye(4, dtype=torch.float64)) and walked.shape[1] == 101


def test_psnr_where_looks_at_the_mask_alone() -> None:
    frames = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    truth = frames.clone()
    truth[:, 8:] = 255
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, :8], mask[1, :2, :10] = True, True
    assert psnr_where(frames, truth, mask) == [100.0, None]
    assert psnr_where(frames, truth, torch.ones_like(mask))[0] == pytest.approx(3.01, abs=0.01)


@pytest.mark.slow
def test_rows_after_a_context_stand_beside_the_pixels_that_it_has_shown(memory_world: str) -> None:
    worlds = {"tiny": load_world(memory_world)}
    settings = FidelitySettings(
        splits=("val",),
        scenes=2,
        horizons=(4,),
        look_steps=1,
        lead_steps=0,
        long_steps=1,
        still_steps=1,
        contexts=("none", "turn"),
    )  # fmt: skip
    found = fidelity(worlds, settings, "test").splits["val"]
    assert found.psnr["context=none"] == found.psnr["tiny"]  # the same walks, the same noise
    assert found.psnr["context=turn"] != found.psnr["tiny"]
    assert found.shown["turn"].share["4"].mean > found.shown["none"].share["4"].mean
    with pytest.raises(ValueError, match="different kinds of none, turn, walk"):
        FidelitySettings(contexts=("turn", "turn"))

"""The judge learns from rendered views, and what it is asked to find is where the renderer puts it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from wm_env.model.geometry import se3_exp
from wm_env.model.judge.network import KINDS, Judge, cell_kinds, load_judge, to_judge
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render, surfaces
from wm_env.model.scenes.worlds import KINDS as NAMES
from wm_env.model.scenes.worlds import make_scene, surface_kinds
from wm_env.model.storage.checkpoint import load_checkpoint
from wm_env.model.training.command import main
from wm_env.model.training.parts.judge import draw_views, evaluate, made_haze, sample
from wm_env.model.training.table import preset

CAMERA = torch.tensor([[32.0, 32.0, 32.0, 32.0]], dtype=torch.float64)  # 90 degrees


def test_floor_is_at_height_zero_ceiling_at_the_top_of_a_room_and_the_rest_is_not() -> None:
    scene = make_scene(5, "val")
    pose = start_pose(scene, 5)[None, None]
    _, depth = render(scene, pose, CAMERA, 64, 64)
    kinds = surface_kinds(surfaces(scene, pose, CAMERA, 64, 64))[0, 0]
    rows = torch.arange(64, dtype=torch.float64)[:, None] + 0.5
    y = pose[0, 0, 1, 3] + depth[0, 0] * (rows - 32) / 32  # a level camera: a row has one slope
    tops = scene.cell_lo[0, : int(scene.counts[0, 0]), 1]
    assert NAMES == ("floor", "ceiling", "wall", "other") and len(NAMES) == KINDS
    assert torch.equal(kinds == 0, y.abs() < 1e-3)
    assert torch.equal(kinds == 1, (y[..., None] - tops).abs().amin(-1) < 1e-3)
    assert {0, 1, 2} <= set(kinds.unique().tolist())


def test_looking_up_brings_the_ceiling_into_cells_that_showed_the_floor() -> None:
    scene = make_scene(5, "val")
    level = start_pose(scene, 5)
    up, down = (
        level @ se3_exp(torch.tensor([0.0, 0, 0, math.radians(angle), 0, 0], dtype=torch.float64))
        for angle in (60, -60)
    )
    kinds = [
        cell_kinds(surface_kinds(surfaces(scene, pose[None, None], CAMERA, 64, 64)))[0, 0]
        for pose in (level, up, down)
    ]
    shares = [[float((one == kind).double().mean()) for kind in (0, 1)] for one in kinds]
    (floor, ceiling), (floor_up, ceiling_up), (floor_down, ceiling_down) = shares
    assert floor_up < floor < floor_down and ceiling_down < ceiling < ceiling_up


def test_a_cell_has_the_kind_of_most_of_its_pixels() -> None:
    kinds = torch.full((1, 16, 16), 2)
    kinds[0, :2, :2] = torch.tensor([[0, 0], [0, 1]])
    kinds[0, 2:4, :2] = 3
    cells = cell_kinds(kinds)[0]
    assert cells.shape == (8, 8)
    assert cells[:2, 0].tolist() == [0, 3] and cells[:2, 1].tolist() == [2, 2]
    with pytest.raises(ValueError, match="63 x 64 have no 8 x 8 cells"):
        cell_kinds(torch.zeros(63, 64, dtype=torch.int64))


def test_a_batch_is_mirrored_with_its_labels_and_haze_is_other(tmp_path: Path) -> None:
    config = preset("judge", "smoke")
    views = draw_views("train", 2, 3, 9)
    assert views.frames.shape == (6, 64, 64, 3) and views.kinds.shape == (6, 8, 8)
    x, kinds = sample(views, config, torch.Generator().manual_seed(0))
    again = sample(views, config, torch.Generator().manual_seed(0))
    assert torch.equal(x, again[0]) and torch.equal(kinds, again[1])
    plain = {tuple(one.flatten().tolist()) for one in torch.cat([views.kinds, views.kinds.flip(-1)])}
    assert all(bool((one == 3).all()) or tuple(one.flatten().tolist()) in plain for one in kinds)
    true = to_judge(views.frames)
    haze = made_haze(true, torch.Generator().manual_seed(0))
    assert float(haze.std((2, 3)).mean()) < 0.3 * float(true.std((2, 3)).mean())


def test_the_judge_trains_and_leaves_bfloat16_weights_and_no_world(tmp_path: Path) -> None:
    result = main(["judge", "--preset", "smoke", "--steps", "4", "--out", str(tmp_path)])
    tensors, card = load_checkpoint(tmp_path / "judge.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert card["settings"]["scenes"] == 4 and card["steps"] == result["steps"] == 4
    Judge().load_state_dict(tensors, strict=True)
    assert load_judge(tmp_path / "judge.safetensors").sha256 == card["sha256"]
    assert result["world"] is None and not (tmp_path / "world").exists()


@pytest.mark.weights
@pytest.mark.parametrize(("split", "margin"), [("val", 0.15), ("heldout", 0.05)])
def test_the_judge_of_the_package_beats_a_template_and_is_not_fooled_by_haze(
    split: str, margin: float
) -> None:
    views = draw_views(split, 4, 4, 33)
    found = evaluate(load_judge().network, views)
    most = torch.nn.functional.one_hot(views.kinds, KINDS).sum(0).argmax(-1)
    template = float((views.kinds == most).double().mean())
    assert found["right"] > template + margin and found["haze_told"] > 0.9

"""The fine texture is off unless asked for, stays on its surface, and belongs to renderer and twin alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wm_env.env import SanaWMEnv
from wm_env.model.geometry import pixel_rays
from wm_env.model.scenes import raycast
from wm_env.model.scenes.detail import check_detail, detail_factor
from wm_env.model.scenes.paths import training_paths
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes
from wm_env.twin import TWIN_SPEC, TwinWorld
from wm_env.worlds import load_world

SIZE = 256
VIEW = torch.tensor([[160.0, 160.0, 128.0, 128.0]])


def test_without_it_no_line_of_it_runs_so_that_data_stay_what_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = make_scenes([3], "val")
    poses = training_paths(scene, torch.Generator().manual_seed(0), 5)
    with_it, depth = render(scene, poses, VIEW, SIZE, SIZE, detail=1.0)

    def refused(*_: object) -> torch.Tensor:
        raise AssertionError("the texture was asked for")

    monkeypatch.setattr(raycast, "detail_factor", refused)
    plain, same = render(scene, poses, VIEW, SIZE, SIZE)
    none, _ = render(scene, poses, VIEW, SIZE, SIZE, detail=0.0)
    assert torch.equal(plain, none) and torch.equal(depth, same)
    assert float((plain.float() - with_it.float()).abs().mean()) > 3, "the texture can be seen"


def test_what_is_seen_of_it_from_any_pose_is_the_factor_at_the_point_in_the_world() -> None:
    scene = make_scenes([3], "val")
    poses = training_paths(scene, torch.Generator().manual_seed(0), 9)[:, [0, 8]]
    plain, depth = render(scene, poses, VIEW, SIZE, SIZE)
    shown, _ = render(scene, poses, VIEW, SIZE, SIZE, detail=1.0)
    rays = pixel_rays(VIEW, SIZE, SIZE, 0.5)[0]  # (h, w, 3)
    for index in range(2):
        world = (rays * depth[0, index, ..., None]) @ poses[0, index, :3, :3].float().mT
        points = world + poses[0, index, :3, 3].float()
        footprint = depth[0, index] / 160.0
        x, y, z = points.unbind(-1)
        factor = detail_factor((x, y, z), footprint, 1.0)
        assert float(factor.min()) >= 0.45 and float(factor.max()) <= 1.55
        seen = shown[0, index].float().sum(-1) / plain[0, index].float().sum(-1).clamp_min(1)
        both = torch.corrcoef(torch.stack([factor.flatten(), seen.flatten()]))
        assert float(both[0, 1]) > 0.9


def test_it_fades_where_a_pixel_is_wider_than_its_lattice_and_grows_with_its_strength() -> None:
    x = torch.rand(1, 500, generator=torch.Generator().manual_seed(0)) * 9 - 4
    points = (x, x.flip(1), 2 * x)
    far = torch.full_like(x, 1.0)
    assert torch.equal(detail_factor(points, far, 1.0), torch.ones_like(x))
    whole, half = (detail_factor(points, 0 * x, strength) - 1 for strength in (1.0, 0.5))
    assert torch.allclose(whole, 2 * half, atol=1e-6) and float(whole.std()) > 0.1


def test_the_twin_shows_it_from_its_first_frame_on_and_says_so() -> None:
    large = replace(TWIN_SPEC, frame_size=(SIZE, SIZE))
    env, plain = SanaWMEnv(world=TwinWorld(large, detail=1.0)), SanaWMEnv(world=TwinWorld(large))
    first, _ = env.reset(seed=3)
    other, _ = plain.reset(seed=3)
    assert float(np.abs(first.astype(float) - other).mean()) > 3
    for own in (env, plain):
        own.step(1)
    assert np.abs(env.step(0)[0].astype(float) - plain.step(0)[0]).mean() > 3
    assert env.world.spec.label == load_world("twin", detail=1.0).spec.label == "twin[detail=1]"
    assert plain.world.spec.label == "twin"


@pytest.mark.parametrize("strength", [-0.1, 1.1, True, "much", None])
def test_another_strength_is_refused(strength: object) -> None:
    with pytest.raises(ValueError, match=r"detail=.* must be a strength from 0 \(none\) to 1"):
        check_detail(strength)  # type: ignore[arg-type]

"""Open ground is what depth pictures show to be free and reachable, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wm_env.model.contact import RADIUS, Surfaces
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.open_ground import BEGIN, MARGIN, open_ground
from wm_env.model.scenes.free_space import distance_field
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes
from wm_env.model.state import select

CAMERA = torch.tensor([intrinsics_from_fov(90.0, 64, 64)], dtype=torch.float64)


def room(wall: float) -> Tensor:
    """Return the depth `(64, 64)` of a wall ahead, over a floor and under a ceiling 1.4 m away."""
    rows = ((torch.arange(64) + 0.5 - 32) / 32).abs()
    return (1.4 / rows.clamp_min(1e-3)).clamp_max(wall)[:, None].repeat(1, 64)


def pose(degrees: float = 0.0, z: float = 0.0) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[0, 0], c2w[0, 2], c2w[2, 0], c2w[2, 2], c2w[2, 3] = c, s, -s, c, z
    return c2w


def known(pictures: list[tuple[Tensor, Tensor]], reach: float = 6.0) -> Tensor:
    depth, c2w = (torch.stack(parts)[None] for parts in zip(*pictures, strict=True))
    return open_ground(Surfaces(depth, c2w, torch.ones(1, len(pictures)).bool()), CAMERA, reach)


def test_places_lie_in_the_picture_and_before_its_wall() -> None:
    places = known([(room(3.0), pose())])
    away = places[places.norm(dim=-1) > BEGIN + 0.01]
    assert float(places[:, 1].abs().max()) == 0.0
    assert 3.0 - MARGIN - 0.25 < float(away[:, 2].max()) <= 3.0 - MARGIN
    assert bool((away[:, 0].abs() <= away[:, 2] * 1.15 + 0.05).all())  # 45 degrees either way, and a bin
    assert len(known([(room(3.0), pose())], reach=1.5)) < len(places)
    assert float(known([(room(5.0), pose())], reach=1.5).norm(dim=-1).max()) <= 1.5


def test_one_wrong_pixel_hides_nothing_and_a_post_hides_what_is_behind_it() -> None:
    speck, post = room(3.0), room(3.0)
    speck[30, 32] = 0.9
    post[24:, 29:35] = post[24:, 29:35].clamp_max(1.0)
    whole = known([(room(3.0), pose())])
    assert torch.equal(known([(speck, pose())]), whole)
    behind = known([(post, pose())])
    assert not bool(((behind[:, 0].abs() < 0.1) & (behind[:, 2] > 1.01 - MARGIN)).any())
    assert bool(((behind[:, 0] > 0.9) & (behind[:, 2] > 1.8)).any())


def test_a_second_picture_adds_what_it_shows_where_the_way_there_is_known() -> None:
    ahead, back = (room(3.0), pose()), (room(2.0), pose(180))
    both = known([ahead, back])
    assert float(both[:, 2].min()) == pytest.approx(-1.6, abs=0.11)
    island = known([ahead, (room(1.5), pose(180, z=-3.0))])  # begins 3 m behind: no picture shows the way
    assert float(island[:, 2].min()) >= -BEGIN
    assert torch.equal(known([ahead]), known([ahead, (torch.full((64, 64), math.nan), pose(180))]))


def test_pictures_that_are_not_valid_show_nothing() -> None:
    depth, c2w = room(3.0).expand(1, 2, 64, 64), torch.stack([pose(), pose(180)])[None]
    seen = Surfaces(depth, c2w, torch.tensor([[True, False]]))
    assert torch.equal(open_ground(seen, CAMERA, 6.0), known([(room(3.0), pose())]))


def test_a_camera_before_a_wall_knows_no_place_but_its_own() -> None:
    assert float(known([(room(0.4), pose())]).norm(dim=-1).max()) <= BEGIN


def test_with_true_depth_nine_in_ten_places_can_be_reached_in_the_scene() -> None:
    """Anywhere around, a quarter of the places can."""
    scene = make_scenes(range(12), "train")
    shares = []
    for slot in range(12):
        own = select(scene, [slot])
        start = start_pose(own, slot).double()
        _, depth = render(own, start[None, None], CAMERA, 64, 64)
        places = known([(depth[0, 0].float(), torch.eye(4, dtype=torch.float64))])
        far = places[places.norm(dim=-1) >= 1.5]
        if len(far):
            field = distance_field(own, start[:3, 3], RADIUS)
            shares.append(
                float(torch.isfinite(field.at(far @ start[:3, :3].T + start[:3, 3])).double().mean())
            )
    assert len(shares) >= 10 and sum(shares) / len(shares) > 0.9

"""Contact by a depth picture stops a camera where the true walls do."""

from __future__ import annotations

import pytest
import torch

from wm_env.model.contact import BODY, RADIUS, Obstacles, Surfaces, clearance, obstacles, slide_by_depth
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.free_space import slide
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes
from wm_env.model.state import select

CAMERA = torch.tensor([intrinsics_from_fov(90.0, 64, 64)], dtype=torch.float64)
HERE = torch.eye(4, dtype=torch.float64)[None]


def wall_ahead(metres: float) -> torch.Tensor:
    return torch.full((1, 64, 64), metres)


def around(depth: torch.Tensor) -> Obstacles:
    """Return what one picture `(1, 64, 64)` from the start shows."""
    return obstacles(Surfaces(depth[:, None], HERE[:, None], torch.ones(1, 1).bool()), HERE[:, :3, 3], CAMERA)


def test_a_wall_ahead_stops_a_body_width_before_it() -> None:
    wall = around(wall_ahead(1.0))
    reached, hit = slide_by_depth(wall, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.9]]))
    assert hit.tolist() == [True]
    assert 0.6 - 1e-6 <= float(reached[0, 2]) <= 1.0 - BODY + 1e-6
    free, hit = slide_by_depth(wall, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.6]]))
    assert hit.tolist() == [False] and free.tolist() == [[0.0, 0.0, pytest.approx(0.6)]]


def test_a_camera_slides_along_a_wall_and_backs_off_from_one_it_touches() -> None:
    near = around(wall_ahead(0.25))
    reached, hit = slide_by_depth(near, torch.zeros(1, 3), torch.tensor([[0.02, 0.0, 0.2]]))
    assert hit.tolist() == [True] and reached[0].tolist() == pytest.approx([0.02, 0.0, 0.0])
    back, hit = slide_by_depth(near, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -0.05]]))
    assert hit.tolist() == [False] and float(back[0, 2]) == pytest.approx(-0.05)


def test_floor_and_ceiling_and_single_wrong_pixels_are_in_nobodys_way() -> None:
    depth = wall_ahead(2.9)
    depth[0, 32, 30:33] = 0.2
    _, hit = slide_by_depth(around(depth), torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.5]]))
    assert hit.tolist() == [False]
    rows = torch.arange(64) + 0.5 - 32  # eyes 1.4 m above an endless floor, a ceiling as far above
    flat = (1.4 / (rows / 32).abs().clamp_min(1e-3)).clamp_max(50.0)[None, :, None].expand(1, 64, 64)
    assert torch.isinf(clearance(around(flat), torch.zeros(1, 1, 3))).all()


def test_true_depth_of_what_was_seen_stops_where_true_walls_do() -> None:
    """Nothing is in the way where nothing is; what is missed was never in a picture."""
    seeds = range(16)
    scene = make_scenes(seeds, "train")
    c2w = torch.stack([start_pose(select(scene, [slot]), seed) for slot, seed in enumerate(seeds)]).double()
    camera = CAMERA.expand(len(seeds), 4)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    right, wrong, missed = 0, 0, 0
    for _ in range(14):
        _, depth = render(scene, c2w[:, None], camera, 64, 64)
        seen.append((depth[:, 0], c2w))
        depths, poses = (torch.stack(parts, dim=1) for parts in zip(*seen, strict=True))
        here = c2w[:, :3, 3]
        there = here + 0.15 * c2w[:, :3, 2]
        told = Surfaces(depths, poses, torch.ones(depths.shape[:2]).bool())
        _, stopped = slide_by_depth(obstacles(told, here, camera), here, there, RADIUS)
        reached, hit = slide(scene, here, there)
        right, wrong, missed = (
            count + int(found.sum())
            for count, found in ((right, stopped & hit), (wrong, stopped & ~hit), (missed, ~stopped & hit))
        )
        angle = torch.where(hit, 0.6, 0.05)
        turn = torch.eye(4, dtype=torch.float64).repeat(len(seeds), 1, 1)
        turn[:, 0, 0] = turn[:, 2, 2] = angle.cos()
        turn[:, 0, 2], turn[:, 2, 0] = angle.sin(), -angle.sin()
        moved = c2w.clone()
        moved[:, :3, 3] = reached
        c2w = moved @ turn
    assert right + missed > 15
    assert right / (right + wrong) > 0.95 and right / (right + missed) > 0.6

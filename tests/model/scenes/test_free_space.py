"""Cameras stay out of geometry, slide along it, and know how far places are on foot."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_env.model.geometry import check_rigid
from wm_env.model.scenes.free_space import (
    HALF_EXTENT,
    RADIUS,
    distance_field,
    is_free,
    line_of_sight,
    slide,
    visible_cells,
)
from wm_env.model.scenes.paths import CHUNK, TRAJECTORIES, start_pose, training_paths, trajectory, walk_keys
from wm_env.model.scenes.raycast import cast
from wm_env.model.scenes.worlds import SPLITS, make_scene, make_scenes
from wm_env.model.state import select


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 500),
    split=st.sampled_from(SPLITS),
    moves=st.lists(
        st.tuples(st.floats(-1.0, 1.0), st.floats(-0.3, 0.3), st.floats(-1.0, 1.0)), min_size=1, max_size=8
    ),
)
def test_sliding_never_ends_in_geometry(seed, split, moves):
    scene = make_scene(seed, split)
    here = start_pose(scene, seed)[None, :3, 3]
    for move in moves:
        goal = here + torch.tensor([move], dtype=torch.float64)
        there, hit = slide(scene, here, goal)
        assert bool(is_free(scene, there[:, None]))
        assert bool(hit) == (not torch.allclose(there, goal))
        here = there
    fan = torch.linspace(0, 2 * math.pi, 24)
    around = torch.stack([fan.sin(), torch.zeros(24), fan.cos()], -1)[None]
    assert float(cast(scene, here[:, None].expand(1, 24, 3), around).min()) > RADIUS - 1e-3


def test_pushing_into_a_wall_at_an_angle_slides_along_it():
    scene = make_scene(3, "val")
    start = start_pose(scene, 3)[None, :3, 3]
    for sign in (1.0, -1.0):
        here = start
        for _ in range(400):
            here, hit = slide(
                scene, here, here + torch.tensor([[sign * 0.05, 0.0, 0.0]], dtype=torch.float64)
            )
            if bool(hit):
                break
        assert bool(hit)
        after, hit = slide(scene, here, here + torch.tensor([[sign * 0.05, 0.0, 0.03]], dtype=torch.float64))
        back, _ = slide(scene, here, here + torch.tensor([[sign * 0.05, 0.0, -0.03]], dtype=torch.float64))
        moved = max(float((after - here)[0, 2].abs()), float((back - here)[0, 2].abs()))
        assert moved == pytest.approx(0.03)


def test_a_fast_move_does_not_jump_through_a_wall():
    scene = make_scene(3, "val")
    start = start_pose(scene, 3)[None, :3, 3]
    there, hit = slide(scene, start, start + torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64))
    assert bool(hit)
    assert bool(is_free(scene, there[:, None]))


@pytest.mark.parametrize("split", SPLITS)
def test_every_beacon_can_be_reached_and_no_path_is_shorter_than_a_straight_line(split):
    for seed in range(17):
        scene = make_scene(seed, split)
        field = distance_field(scene, scene.beacon[0], cell=0.15)
        starts = torch.stack([start_pose(scene, 100 * seed + k)[:3, 3] for k in range(3)])
        metres = field.at(starts)
        straight = (starts - scene.beacon[0].double())[:, [0, 2]].norm(dim=-1)
        assert bool(torch.isfinite(metres).all()), (split, seed)
        assert bool((metres >= straight - 1e-9).all())
        assert bool((metres < 40.0).all())


def test_distances_are_straight_in_the_open_and_zero_at_the_goal():
    scene = make_scene(2, "train")
    goal = start_pose(scene, 5)[:3, 3]
    field = distance_field(scene, goal)
    assert float(field.at(goal[None])) == pytest.approx(0.0, abs=1e-6)
    near = goal + torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64)
    if bool(is_free(scene, near[None, None])):
        assert float(field.at(near[None])) == pytest.approx(0.3, abs=0.08)
    outside = torch.tensor([[50.0, -1.4, 50.0]], dtype=torch.float64)
    assert math.isinf(float(field.at(outside)))
    with pytest.raises(ValueError, match="one scene"):
        distance_field(make_scenes([0, 1], "train"), goal)


def test_a_wall_hides_and_open_air_does_not():
    scene = make_scene(6, "val")
    pose = start_pose(scene, 6)
    here, ahead = pose[:3, 3], pose[:3, 2]
    reach = float(cast(scene, here[None, None], ahead[None, None]))
    assert bool(line_of_sight(scene, here, here + 0.5 * reach * ahead))
    assert not bool(line_of_sight(scene, here, here + (reach + 0.5) * ahead))
    assert bool(line_of_sight(scene, here, here))


def test_cells_seen_lie_in_rooms_and_grow_with_the_field_of_view():
    scenes = make_scenes([1, 2], "val")
    pose = torch.stack([start_pose(select(scenes, [i]), i) for i in range(2)])
    narrow, wide = (
        visible_cells(scenes, pose, 60.0),
        visible_cells(scenes, pose, torch.tensor([110.0, 110.0])),
    )
    assert narrow.shape == (2, 64, 64)
    assert bool((narrow.sum((1, 2)) < wide.sum((1, 2))).all())
    centres = (torch.arange(64) + 0.5) * 0.25 - HALF_EXTENT
    for slot in range(2):
        rooms = int(scenes.counts[slot, 0])
        x, z = centres[wide[slot].nonzero()].unbind(-1)
        lo, hi = scenes.cell_lo[slot, :rooms].amin(0) - 0.25, scenes.cell_hi[slot, :rooms].amax(0) + 0.25
        assert bool(((x > lo[0]) & (x < hi[0]) & (z > lo[2]) & (z < hi[2])).all())
        column = ((pose[slot, [0, 2], 3] + HALF_EXTENT) / 0.25).long()
        assert bool(wide[slot, column[0], column[1]])


@pytest.mark.parametrize("split", SPLITS)
def test_training_paths_never_leave_free_space(split):
    scenes = make_scenes(range(24), split)
    paths = training_paths(scenes, torch.Generator().manual_seed(3), 42)
    assert paths.shape == (24, 42, 4, 4) and paths.dtype == torch.float64
    check_rigid(paths)
    assert bool(is_free(scenes, paths[..., :3, 3]).all())
    again = training_paths(scenes, torch.Generator().manual_seed(3), 42)
    assert torch.equal(paths, again)
    travelled = (paths[:, 1:, :3, 3] - paths[:, :-1, :3, 3]).norm(dim=-1)
    assert float(travelled.max()) < 0.15  # no jumps
    assert float(travelled.sum(1).mean()) > 0.5


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_named_trajectories_have_one_key_set_per_chunk(name):
    keys = trajectory(name, 24)
    assert len(keys) == 24
    scene = make_scene(1, "val")
    path = walk_keys(scene, start_pose(scene, 1)[None], keys[:6])
    assert path.shape == (1, 1 + 6 * CHUNK, 4, 4)
    with pytest.raises(ValueError, match="unknown trajectory"):
        trajectory("moonwalk", 3)


def test_looking_away_comes_back_to_the_first_heading():
    scene = make_scene(1, "val")
    path = walk_keys(scene, start_pose(scene, 1)[None], [*trajectory("look_away", 24), *[""] * 40])
    facing = float(path[0, 0, :3, 2] @ path[0, -1, :3, 2])
    away = float((path[0, 0, :3, 2] @ path[0, :, :3, 2].mT).min())
    assert away < -0.3
    assert facing > 0.9

"""The renderer's depth is exact: against formulas, against itself from another view, and in batches."""

import math

import pytest
import torch

from wm_env.model.geometry import pixel_rays
from wm_env.model.scenes.materials import MATERIAL
from wm_env.model.scenes.paths import start_pose, training_paths
from wm_env.model.scenes.raycast import cast, render
from wm_env.model.scenes.worlds import ABSENT, BOX_SURFACE, POST_RADIUS, SPLITS, make_scene, make_scenes
from wm_env.model.state import select

SIZE = 24
VIEW = torch.tensor([[15.0, 15.0, 12.0, 12.0]])
DEPTH_TOLERANCE = 2e-4  # metres, float32 rays of up to 12 m


def _empty_room():
    """A 5 x 3 x 6 m room around the origin with its beacon out of reach."""
    scene = make_scene(0, "train")
    cell_lo, cell_hi = torch.full_like(scene.cell_lo, ABSENT), torch.full_like(scene.cell_hi, ABSENT)
    cell_lo[0, 0], cell_hi[0, 0] = torch.tensor([-2.5, -3.0, -3.0]), torch.tensor([2.5, 0.0, 3.0])
    cylinder = torch.tensor([ABSENT, ABSENT, 0.01, -0.01, 0.0]).expand_as(scene.cylinder).clone()
    sphere = torch.tensor([[ABSENT, 0.0, ABSENT, 0.3]])
    return scene._replace(
        cell_lo=cell_lo,
        cell_hi=cell_hi,
        cylinder=cylinder,
        sphere=sphere,
        counts=torch.tensor([[1, 0, 0, 1]]),
    )


def _pose(x=0.0, y=-1.4, z=0.0, yaw=0.0):
    c, s = math.cos(yaw), math.sin(yaw)
    rows = [[c, 0, s, x], [0, 1, 0, y], [-s, 0, c, z], [0, 0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def test_a_wall_straight_ahead_has_its_distance_as_depth_at_every_pixel_that_shows_it():
    _, depth = render(_empty_room(), _pose(z=0.5), VIEW, SIZE, SIZE)
    rays = pixel_rays(VIEW, SIZE, SIZE, 0.5)[0]
    expected = torch.full((SIZE, SIZE), 2.5)  # z = 3 wall; the others cut it off at the sides
    expected = torch.minimum(expected, 2.5 / rays[..., 0].abs())
    expected = torch.minimum(expected, torch.where(rays[..., 1] > 0, 1.4, 1.6) / rays[..., 1].abs())
    assert torch.allclose(depth[0, 0], expected, atol=DEPTH_TOLERANCE)


def test_depth_is_along_the_view_axis_after_turning():
    _, depth = render(_empty_room(), _pose(yaw=math.pi / 2), VIEW, SIZE, SIZE)
    assert depth[0, 0, SIZE // 2, SIZE // 2] == pytest.approx(2.5, abs=DEPTH_TOLERANCE)
    assert depth[0, 0, SIZE // 2, SIZE // 2 + 4] == pytest.approx(2.5, abs=DEPTH_TOLERANCE)


def test_rays_parallel_to_the_axes_have_finite_distances():
    axes = torch.tensor([[[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -2]]])
    reach = cast(_empty_room(), torch.tensor([[[0.5, -1.0, 1.0]]]).expand(1, 6, 3), axes)
    assert torch.allclose(reach[0], torch.tensor([2.0, 3.0, 1.0, 2.0, 2.0, 4.0]), atol=DEPTH_TOLERANCE)


def test_boxes_and_posts_are_met_where_geometry_says():
    scene = _empty_room()
    box_lo, box_hi = scene.box_lo.clone(), scene.box_hi.clone()
    box_lo[0, 0], box_hi[0, 0] = torch.tensor([-0.5, -2.0, 1.0]), torch.tensor([0.5, 0.0, 2.0])
    cylinder = scene.cylinder.clone()
    cylinder[0, 0] = torch.tensor([-1.5, 0.0, POST_RADIUS, -1.0, 0.0])
    scene = scene._replace(
        box_lo=box_lo, box_hi=box_hi, cylinder=cylinder, counts=torch.tensor([[1, 0, 1, 1]])
    )
    origin = torch.tensor([[[0.0, -0.5, 0.0], [0.0, -0.5, 0.0], [-1.5, -2.0, 0.0]]])
    direction = torch.tensor([[[0.0, 0, 1], [-1.0, 0, 0], [0.0, 1, 0]]])
    expected = torch.tensor([1.0, 1.5 - POST_RADIUS, 1.0])
    assert torch.allclose(cast(scene, origin, direction)[0], expected, atol=DEPTH_TOLERANCE)


def test_a_ray_passes_a_doorway_and_stops_beside_it():
    for seed in range(40):
        scene = make_scene(seed, "val")
        if int(scene.counts[0, 1]):
            break
    lo, hi, axis = scene.cell_lo[0, 3], scene.cell_hi[0, 3], int(scene.passage[0, 3])
    middle = 0.5 * (lo + hi)
    step = torch.zeros(3)
    step[axis] = 1.0
    through = cast(scene, (middle - 0.5 * step)[None, None], step[None, None])
    assert float(through) > 1.0  # past the 0.2 m of wall, and the way is kept clear of furniture
    aside = middle.clone()
    aside[1] = -2.3  # above the lintel
    assert float(cast(scene, (aside - 0.5 * step)[None, None], step[None, None])) == pytest.approx(
        0.4, abs=1e-3
    )


@pytest.mark.parametrize("split", SPLITS)
def test_points_seen_from_one_view_lie_at_their_depth_in_another(split):
    size, view = 64, torch.tensor([[40.0, 40.0, 32.0, 32.0]])
    scene = make_scene(5, split)
    poses = training_paths(scene, torch.Generator().manual_seed(0), 9)[:, [0, 8]]
    _, depth = render(scene, poses, view, size, size)
    points = pixel_rays(view.double(), size, size, 0.5)[0] * depth[0, 0, ..., None].double()  # camera 0
    world = points @ poses[0, 0, :3, :3].mT + poses[0, 0, :3, 3]
    gap = world - poses[0, 1, :3, 3]
    reach = cast(scene, poses[0, 1, :3, 3].expand(1, size * size, 3), gap.reshape(1, -1, 3))[0]
    distance = gap.reshape(-1, 3).norm(dim=-1).float()
    seen = reach > distance - 1e-2  # not occluded from the second view
    assert float(seen.float().mean()) > 0.5
    assert float((reach - distance)[seen].abs().quantile(0.99)) < 1e-2


def test_a_batch_renders_what_its_scenes_render_alone():
    scenes = make_scenes([1, 2, 3], "heldout")
    poses = training_paths(scenes, torch.Generator().manual_seed(1), 5)
    view = VIEW.expand(3, 4)
    rgb, depth = render(scenes, poses, view, SIZE, SIZE)
    assert rgb.shape == (3, 5, SIZE, SIZE, 3) and rgb.dtype == torch.uint8
    assert depth.shape == (3, 5, SIZE, SIZE) and depth.dtype == torch.float32
    for slot in range(3):
        alone, far = render(select(scenes, [slot]), poses[slot : slot + 1, 2:3], VIEW, SIZE, SIZE)
        assert torch.equal(alone[0, 0], rgb[slot, 2])
        assert torch.equal(far[0, 0], depth[slot, 2])


def test_pictures_are_finite_readable_and_not_noise():
    scenes = make_scenes(range(16), "train")
    poses = torch.stack([start_pose(select(scenes, [i]), i) for i in range(16)])[:, None]
    rgb, depth = render(scenes, poses, VIEW.expand(16, 4) * 64 / SIZE, 64, 64)
    assert bool(torch.isfinite(depth).all()) and float(depth.max()) < 25.0 and float(depth.min()) > 0.1
    luma = rgb.float().mean(-1)
    assert 60 < float(luma.mean()) < 170
    steps = (luma[..., 1:] - luma[..., :-1]).abs()
    assert float(steps.mean()) < 8.0  # grey levels between neighbours


def test_every_visible_surface_has_a_material():
    scene = make_scene(11, "train")
    rooms, doors, boxes, _ = scene.counts[0].tolist()
    used = [*range(6 * rooms), *range(18, 18 + 6 * doors), *range(BOX_SURFACE, BOX_SURFACE + boxes)]
    assert bool((scene.materials[0, used, MATERIAL["softness"]] > 0).all())


def test_batches_of_different_size_are_refused():
    with pytest.raises(ValueError, match="batch size"):
        render(make_scenes([0, 1], "val"), _pose(), VIEW, SIZE, SIZE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_renders_the_same_picture():
    scenes = make_scenes([1, 2, 3], "train")
    poses = training_paths(scenes, torch.Generator().manual_seed(1), 5)
    on_cpu, far = render(scenes, poses, VIEW.expand(3, 4), SIZE, SIZE)
    moved = type(scenes)(*[leaf.cuda() for leaf in scenes])
    on_gpu, far_gpu = render(moved, poses, VIEW.expand(3, 4), SIZE, SIZE)
    assert float((far - far_gpu.cpu()).abs().quantile(0.999)) < 1e-2
    assert float((on_cpu.int() - on_gpu.cpu().int()).abs().float().mean()) < 0.5

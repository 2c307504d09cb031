"""Camera conditioning: which frames tell about which latent, and one ray and one token worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from wm_env.model.camera import (
    apply_per_token,
    camera_conditions,
    camera_input,
    clip_windows,
    own_windows,
    pack_windows,
    plucker_rays,
    ray_transforms,
    start_windows,
)
from wm_env.model.geometry import se3_exp

CLOSE = 1e-6  # float32


def path(frames: int) -> torch.Tensor:
    """Return poses `(1, F, 4, 4)` float64 that go and turn a little more every frame."""
    steps = torch.arange(frames, dtype=torch.float64)[:, None]
    return se3_exp(steps * torch.tensor([0.1, 0.02, 0.3, 0.01, 0.05, 0.02], dtype=torch.float64))[None]


def test_in_a_clip_latent_0_reads_the_first_frames_and_the_others_their_own() -> None:
    pose, rays = clip_windows(9, stride=4)
    assert pose.tolist() == [0, 4, 8]
    assert rays.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert clip_windows(1, stride=4).rays.tolist() == [[0, 0, 0, 0]]  # past the end the last frame repeats


def test_in_a_clip_as_a_rollout_meets_it_latent_0_knows_frame_0_alone() -> None:
    pose, rays = start_windows(9, stride=4)
    assert pose.tolist() == [0, 4, 8]
    assert rays.tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_after_the_start_each_latent_reads_its_own_frames() -> None:
    pose, rays = own_windows(2, stride=4)
    assert pose.tolist() == [3, 7]
    assert rays.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_chunks_told_one_by_one_are_slices_of_the_clip(stride: int) -> None:
    c2w, intrinsics = path(1 + 3 * stride), torch.tensor([[60.0, 50.0, 48.0, 30.0]])
    size = {"frame_size": (64, 96), "grid": (2, 3)}
    whole = camera_input(c2w, intrinsics, **size, windows=start_windows(c2w.shape[1], stride))
    rest = camera_input(c2w[:, 1:], intrinsics, **size, windows=own_windows(3, stride))
    assert torch.equal(whole.conditions[:, 1:], rest.conditions)
    assert torch.equal(whole.plucker[:, :, 1:], rest.plucker)


def test_the_conditioning_of_one_token_is_what_its_formulas_say() -> None:
    c2w = path(5)
    camera = camera_input(c2w, torch.tensor([[60.0, 50.0, 48.0, 30.0]]), (64, 96), (2, 3), clip_windows(5, 4))
    fx, fy, cx, cy = 60.0 * 3 / 96, 50.0 * 2 / 64, 48.0 * 3 / 96, 30.0 * 2 / 64  # in latent pixels
    assert camera.conditions.shape == (1, 2, 20) and camera.plucker.shape == (1, 24, 2, 2, 3)
    assert torch.allclose(camera.conditions[0, 1, :16], c2w[0, 4].float().flatten())
    assert camera.conditions[0, 1, 16:].tolist() == pytest.approx([fx, fy, cx, cy])

    row, column, frame = 1, 2, 3  # the third of the four frames of latent 1 (frames 1 to 4)
    ray = torch.tensor([(column - cx) / fx, (row - cy) / fy, 1.0], dtype=torch.float64)
    direction = c2w[0, frame, :3, :3] @ ray
    direction = direction / direction.norm()
    moment = torch.linalg.cross(c2w[0, frame, :3, 3], direction)
    expected = torch.cat([direction, moment]).float()
    assert torch.allclose(camera.plucker[0, 12:18, 1, row, column], expected, atol=CLOSE)
    assert expected[3:].abs().min() > 0.01  # a moment that a missing position would not give


def test_intrinsics_may_change_from_frame_to_frame() -> None:
    c2w = path(5)
    rows = torch.tensor([60.0, 50.0, 48.0, 30.0]) * (1 + 0.1 * torch.arange(5.0))[:, None]
    arguments = ((64, 96), (2, 3), start_windows(5, 4))
    zooming = camera_input(c2w, rows[None], *arguments)
    for latent, frame in ((0, 0), (1, 4)):
        still = camera_input(c2w, rows[None, frame], *arguments)
        assert torch.equal(zooming.conditions[:, latent], still.conditions[:, latent])
        assert torch.allclose(zooming.plucker[:, -6:, latent], still.plucker[:, -6:, latent], atol=CLOSE)
    assert not torch.allclose(zooming.plucker[:, :6, 1], still.plucker[:, :6, 1], atol=1e-3)


def test_maps_are_packed_frame_after_frame() -> None:
    rays = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 6, 2, 3)
    packed = pack_windows(rays, torch.tensor([[0, 0], [1, 2], [3, 4]]))
    assert packed.shape == (1, 12, 3, 2, 3)
    assert packed[0, ::6, :, 0, 0].T.tolist() == [[0, 0], [1, 2], [3, 4]]


def test_a_camera_that_does_not_move_has_no_moment() -> None:
    rays = plucker_rays(torch.eye(4).expand(1, 2, 4, 4), torch.tensor([[[2.0, 2, 1, 1]] * 2]), 3, 3)
    assert torch.equal(rays[:, :, 3:], torch.zeros_like(rays[:, :, 3:]))
    assert rays[0, 0, :3, 1, 1].tolist() == [0.0, 0.0, 1.0]  # the optical axis
    assert rays[0, 0, :3, 1, 2].tolist() == pytest.approx([1 / math.sqrt(5), 0.0, 2 / math.sqrt(5)])


def test_the_ray_frame_of_a_token_looks_along_its_ray_and_back_is_the_inverse() -> None:
    c2w, latent = path(3), torch.tensor([[2.0, 1.5, 1.4, 0.9]])
    rays = ray_transforms(camera_conditions(c2w, latent), 2, 3)
    assert rays.to_ray.shape == rays.to_world.shape == (1, 3, 6, 4, 4)
    eye = torch.eye(4).expand_as(rays.to_ray)
    assert torch.allclose(rays.to_ray @ rays.to_world, eye, atol=1e-5)
    row, column, frame = 1, 2, 2
    ray = torch.tensor([(column - 1.4) / 2.0, (row - 0.9) / 1.5, 1.0], dtype=torch.float64)
    point = c2w[0, frame, :3, 3] + 3 * c2w[0, frame, :3, :3] @ ray / ray.norm()  # 3 m along the ray
    seen = rays.to_ray[0, frame, 3 * row + column] @ torch.cat([point, torch.ones(1)]).float()
    assert seen.tolist() == pytest.approx([0.0, 0.0, 3.0, 1.0], abs=1e-5)


def test_every_group_of_four_numbers_of_a_token_is_multiplied_by_its_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(2, 3, 5, 4, 4, generator=generator)
    x = torch.randn(2, 3, 5, 2, 8, generator=generator)  # 2 heads of 2 groups
    expected = torch.einsum("btnij,btnhgj->btnhgi", matrices, x.unflatten(-1, (2, 4))).flatten(-2)
    assert torch.allclose(apply_per_token(matrices, x), expected, atol=CLOSE)


def test_bfloat16_cameras_take_their_focal_lengths_through_degrees() -> None:
    """The two published values, at 40 columns; in float32 nothing moves."""
    from wm_env.model.camera import _through_degrees

    row = torch.zeros(1, 1, 20)
    row[..., 16], row[..., 17], row[..., 18:] = 35.75, 19.875, 7.0
    assert _through_degrees(row.bfloat16(), 40, 40).float().flatten().tolist() == [36.0, 19.75, 7.0, 7.0]
    torch.testing.assert_close(_through_degrees(row, 40, 40), row[..., 16:])


def test_bfloat16_cameras_give_rays_on_its_grid_near_those_of_float32() -> None:
    c2w = torch.eye(4).repeat(1, 9, 1, 1)
    c2w[0, :, 2, 3] = 0.3 * torch.arange(9)
    size, windows = (64, 96), clip_windows(9, 8)
    focal = torch.tensor([[60.0, 60.0, 48.0, 32.0]])
    exact = camera_input(c2w, focal, size, (2, 3), windows)
    rounded = camera_input(c2w, focal, size, (2, 3), windows, torch.bfloat16)
    assert rounded.conditions.dtype == rounded.plucker.dtype == torch.bfloat16
    a, b = ray_transforms(exact.conditions, 2, 3), ray_transforms(rounded.conditions, 2, 3)
    assert b.to_ray.dtype == torch.float32 and torch.equal(b.to_ray, b.to_ray.bfloat16().float())
    assert not torch.equal(a.to_ray, b.to_ray)
    torch.testing.assert_close(a.to_ray, b.to_ray, rtol=0, atol=0.03)  # 2^-8 of values up to 2.4, twice

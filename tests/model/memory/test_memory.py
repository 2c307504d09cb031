"""The point memory: a keyframe seen from its own pose is itself; writing keeps the right frames."""

from __future__ import annotations

import pytest
import torch

from wm_env.model.memory import SLOTS, choose_slots, read_memory, splat, start_memory, write_memory
from wm_env.model.vae.tiny import inverse_depth

SIZE = 16
INTRINSICS = torch.tensor([[11.0, 11.0, 8.0, 8.0]])


def smooth_pixels(batch: int = 1) -> torch.Tensor:
    """A picture on a slanted plane, `(B, 4, 16, 16)`."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    pixels = torch.stack([0.5 * u, -0.3 * v, 0.4 * u * v, inverse_depth(3 + 0.5 * u)])
    return pixels.expand(batch, -1, -1, -1).clone()


def poses(*forward: float) -> torch.Tensor:
    c2w = torch.eye(4, dtype=torch.float64).repeat(1, len(forward), 1, 1)
    c2w[0, :, 2, 3] = torch.tensor(forward)
    return c2w


def test_a_keyframe_seen_from_its_own_pose_is_itself() -> None:
    pixels = smooth_pixels()
    c2w = poses(0.7, 0.7)
    seen = splat(pixels[:, None], c2w[:, :1], torch.ones(1, 1, dtype=torch.bool), c2w, INTRINSICS)
    assert seen.shape == (1, 2, 5, SIZE, SIZE)
    assert seen[:, :, 4].eq(1).all()
    # 0.02 of weight leaks into the next pixel so that no covered pixel has weight zero
    assert (seen[:, :, :4] - pixels[:, None]).abs().max() < 0.02


def test_walking_forward_brings_the_wall_nearer() -> None:
    pixels = smooth_pixels()
    pixels[:, 3] = inverse_depth(torch.tensor(3.0))
    state = start_memory(pixels, torch.eye(4)[None])
    seen = read_memory(state, poses(1.0), INTRINSICS)
    assert seen[0, 0, 3, 8, 8] == pytest.approx(1.2 / 2.0 - 1, abs=1e-3)


def test_behind_the_camera_there_is_nothing() -> None:
    state = start_memory(smooth_pixels(), torch.eye(4)[None])
    seen = read_memory(state, poses(20.0), INTRINSICS)
    assert seen.eq(0).all()


def test_the_nearer_surface_hides_the_farther() -> None:
    near, far = smooth_pixels(), smooth_pixels()
    near[:, :3], far[:, :3] = 0.8, -0.8
    near[:, 3], far[:, 3] = inverse_depth(torch.tensor(1.0)), inverse_depth(torch.tensor(4.0))
    both = torch.stack([far, near], dim=1)
    c2w = poses(0.0, 0.0)
    seen = splat(both, c2w, torch.ones(1, 2, dtype=torch.bool), c2w[:, :1], INTRINSICS)
    assert seen[:, :, :3].allclose(torch.tensor(0.8))
    only_far = splat(both, c2w, torch.tensor([[True, False]]), c2w[:, :1], INTRINSICS)
    assert only_far[:, :, :3].allclose(torch.tensor(-0.8))


def test_writing_keeps_the_start_and_the_latest_and_changes_no_old_state() -> None:
    states = [start_memory(torch.zeros(1, 4, SIZE, SIZE), torch.eye(4)[None])]
    for value in range(1, SLOTS + 3):
        new = torch.full((1, 4, SIZE, SIZE), float(value))
        states.append(write_memory(states[-1], new, torch.eye(4)[None]))
    for written, state in enumerate(states):
        shown = state.pixels[0, :, 0, 0, 0][state.valid[0]].tolist()
        assert shown == [0, *range(max(1, written - SLOTS + 2), written + 1)]


def test_a_view_reads_the_start_the_newest_and_the_two_that_look_the_same_way() -> None:
    yaw = torch.tensor([0.0, 3.0, 1.5, 1.4, 0.2, 2.9])  # slots: start, four in between, newest
    c2w = torch.eye(4).repeat(1, len(yaw), 1, 1)
    c2w[0, :, 0, 0] = c2w[0, :, 2, 2] = yaw.cos()
    c2w[0, :, 0, 2], c2w[0, :, 2, 0] = yaw.sin(), -yaw.sin()
    valid = torch.ones(1, len(yaw), dtype=torch.bool)
    chosen, counts = choose_slots(c2w, valid, c2w[:, 2])  # asked: what slot 2 looks at
    assert set(chosen[0].tolist()) == {0, 5, 2, 3} and counts.all()
    valid[0, 2] = False
    chosen, counts = choose_slots(c2w, valid, c2w[:, 2])
    assert set(chosen[0].tolist()) == {0, 5, 3, 1} or set(chosen[0].tolist()) == {0, 5, 3, 4}
    assert counts.all()
    _, counts = choose_slots(c2w[:, :1], valid[:, :1], c2w[:, 0])
    assert counts[0].tolist() == [False, True, False]  # with one slot, it is read once


@pytest.mark.parametrize("aside", [0.0, 0.25], ids=["standing", "stepping aside"])
def test_rounding_errors_do_not_move_points_over_pixel_borders(aside: float) -> None:
    pixels = smooth_pixels()[:, None]
    target = poses(0.0)
    target[0, 0, 0, 3] = aside
    noise = 1e-6 * torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    other = pixels.clone()
    other[:, :, 3] += noise
    counts = torch.ones(1, 1, dtype=torch.bool)
    a, b = (splat(each, poses(0.0), counts, target, INTRINSICS) for each in (pixels, other))
    assert (a - b).abs().max() < 2e-3  # of 2; a point that changes its row moves colours by 1e-2 and more

"""The point memory: a keyframe seen from its own pose is itself; writing keeps the right frames."""

from __future__ import annotations

import pytest
import torch

from wm_env.model.pixels import inverse_depth
from wm_env.model.point_memory import (
    LATEST,
    SLOTS,
    choose_slots,
    dispensable,
    kept_frames,
    read_memory,
    splat,
    start_memory,
    write_memory,
)

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


def turned(*yaw: float) -> torch.Tensor:
    """Poses that look to the right by so many radians, `(1, N, 4, 4)`."""
    angle = torch.tensor(yaw)
    c2w = torch.eye(4).repeat(1, len(yaw), 1, 1)
    c2w[0, :, 0, 0] = c2w[0, :, 2, 2] = angle.cos()
    c2w[0, :, 0, 2], c2w[0, :, 2, 0] = angle.sin(), -angle.sin()
    return c2w


def written(c2w: torch.Tensor) -> list[list[int]]:
    """Return the numbers of the frames that a memory holds after every write of the poses `(1, N, 4, 4)`."""
    state = start_memory(torch.zeros(1, 4, SIZE, SIZE), c2w[:, 0])
    held = []
    for number in range(1, c2w.shape[1]):
        before = [tensor.clone() for tensor in state]
        later = write_memory(state, torch.full((1, 4, SIZE, SIZE), float(number)), c2w[:, number])
        assert all(torch.equal(old, same) for old, same in zip(before, state, strict=True))
        state = later
        held.append([int(value) for value in state.pixels[0, :, 0, 0, 0][state.valid[0]].tolist()])
    return held


def test_everything_is_kept_while_there_is_room_and_frame_0_and_the_latest_always() -> None:
    held = written(turned(*(0.3 * n for n in range(2 * SLOTS))))
    for number, kept in enumerate(held, start=1):
        if number < SLOTS:
            assert kept == list(range(number + 1))
        assert len(kept) == min(number + 1, SLOTS) and kept == sorted(kept)
        assert kept[0] == 0 and kept[-LATEST:] == list(range(max(0, number - LATEST + 1), number + 1))


def test_what_was_seen_once_is_kept_while_the_camera_stands_elsewhere() -> None:
    once = [0.2 * n for n in range(1, 16)]  # turns half around, then stands there for a minute
    held = written(turned(0.0, *once, *[once[-1]] * 240))
    assert set(range(16)) <= set(held[-1])


def test_of_two_frames_that_look_alike_the_newer_is_dropped() -> None:
    numbers, valid = kept_frames(turned(*(0.18 * n for n in range(SLOTS)), 3.0, *[5.0] * LATEST))
    assert valid.all()
    assert set(range(1, 16)) <= set(numbers[0].tolist())
    yaw = [0.18 * n for n in range(SLOTS)]
    yaw[9] = yaw[5]
    assert dispensable(turned(*yaw), torch.ones(1, SLOTS, dtype=torch.bool)).tolist() == [9]


@pytest.mark.slow
def test_the_memory_of_a_batch_is_that_of_each_alone() -> None:
    paths = [turned(*(a * n for n in range(60))) for a in (0.05, 0.11, 0.4)]
    together, _ = kept_frames(torch.cat(paths))
    assert together.tolist() == [kept_frames(path)[0][0].tolist() for path in paths]


def seen_from(yaw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inverse depth of keyframes of a room 3 m around, and their poses."""
    return torch.full((1, yaw.shape[1], SIZE, SIZE), float(inverse_depth(torch.tensor(3.0)))), yaw


def test_a_view_reads_the_start_the_newest_and_the_two_that_show_what_those_do_not() -> None:
    inverse, c2w = seen_from(turned(0.0, 3.0, 1.9, 1.1, 1.5, 0.2, 2.9))  # start, five in between, newest
    valid = torch.ones(1, 7, dtype=torch.bool)
    target = turned(1.5)[:, 0]
    chosen, counts = choose_slots(inverse, c2w, valid, target, INTRINSICS)
    assert chosen[0].tolist()[0] == 4 and chosen[0].tolist()[2:] == [0, 6] and counts.all()
    valid[0, 4] = False  # without the one that shows it all: those that look to the left and right of it
    chosen, counts = choose_slots(inverse, c2w, valid, target, INTRINSICS)
    assert set(chosen[0].tolist()) == {2, 3, 0, 6} and counts.all()
    _, counts = choose_slots(inverse[:, :1], c2w[:, :1], valid[:, :1], c2w[:, 0], INTRINSICS)
    assert counts[0].tolist() == [False, False, True, False]  # with one slot, it is read once


def test_neighbours_of_one_frame_are_not_read_beside_it() -> None:
    inverse, c2w = seen_from(turned(0.0, 3.0, 1.3, 1.35, 1.4, 5.0))
    valid = torch.ones(1, 6, dtype=torch.bool)
    chosen, _ = choose_slots(inverse, c2w, valid, turned(2.1)[:, 0], INTRINSICS)
    assert chosen[0].tolist()[:2] == [4, 1]  # slots 2 and 3 are nearer than 1, but show what 4 does


def test_a_full_turn_ends_in_the_view_that_it_began_with() -> None:
    state = start_memory(torch.zeros(1, 4, SIZE, SIZE), turned(0.0)[:, 0])
    picture = smooth_pixels()
    state = write_memory(state, picture, turned(0.8)[:, 0])
    grey = torch.zeros(1, 4, SIZE, SIZE)
    for step in range(1, 60):
        state = write_memory(state, grey, turned(0.8 + 2 * torch.pi * step / 60)[:, 0])
    seen = read_memory(state, turned(0.8)[:, :1].double(), INTRINSICS)
    assert (seen[0, 0, :3, 4:12, 4:12] - picture[0, :3, 4:12, 4:12]).abs().mean() < 0.1


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

"""Pictures laid over each other by depth and pose: what fits errs little, nothing wins by looking away."""

from __future__ import annotations

import math

import torch

from wm_env.model.data.pose_check.free_motion import free_motion
from wm_env.model.data.pose_check.warping import (
    Pairs,
    Views,
    choose_pairs,
    errors,
    land,
    pixels_apart,
    relative_poses,
    views,
)
from wm_env.model.geometry import se3_exp


def seen(tour) -> tuple[Views, Pairs]:  # type: ignore[no-untyped-def]
    clip, frames = tour.clip, torch.tensor(tour.clip.frames)
    pairs = choose_pairs(len(clip), clip.fps)
    depth = tour.depth_of(frames, torch.tensor(clip.intrinsics))
    return views(frames, depth, torch.tensor(clip.intrinsics), pairs, 1), pairs


def test_pairs_are_spread_over_the_clip_both_ways_in_time() -> None:
    pairs = choose_pairs(41, 16)
    gaps = pairs.second - pairs.first
    assert set(gaps.abs().tolist()) == {1, 2, 4, 8} and bool((gaps > 0).any()) and bool((gaps < 0).any())
    assert int(pairs.first.min()) == 0 and int(torch.maximum(pairs.first, pairs.second).max()) == 40
    assert set((choose_pairs(121, 48).second - choose_pairs(121, 48).first).abs().tolist()) == {3, 6, 12, 24}
    assert set((choose_pairs(5, 16).second - choose_pairs(5, 16).first).abs().tolist()) == {1, 2, 4}


def test_a_pixel_lands_where_the_pinhole_equation_says() -> None:
    camera = torch.tensor([20.0, 25.0, 4.0, 3.0])
    frames = torch.zeros(2, 6, 8, 3, dtype=torch.uint8)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]))
    depth = torch.full((2, 6, 8), 2.0)
    motion = se3_exp(torch.tensor([0.1, -0.2, 0.3, 0.02, 0.05, -0.01], dtype=torch.float64))
    landing = land(views(frames, depth, camera, pairs, 1), motion[None])
    u, v = 5, 2
    x, y, z = (
        motion[:3, :3] @ torch.tensor([(u + 0.5 - 4) / 20 * 2, (v + 0.5 - 3) / 25 * 2, 2.0]).double()
        + motion[:3, 3]
    ).tolist()
    assert math.isclose(float(landing.u[0, v * 8 + u]), 20 * x / z + 4 - 0.5, abs_tol=1e-4)
    assert math.isclose(float(landing.v[0, v * 8 + u]), 25 * y / z + 3 - 0.5, abs_tol=1e-4)


def test_the_true_motion_has_an_eighth_of_the_error_of_no_motion(walked) -> None:  # type: ignore[no-untyped-def]
    pairs, numbers = seen(walked)
    true = relative_poses(torch.tensor(walked.clip.c2w), numbers)
    still = torch.eye(4, dtype=torch.float64).expand_as(true)
    own, none = errors(pairs, torch.stack([true, still])).mean(1).tolist()
    assert own < none / 8


def test_looking_away_is_chance_and_no_more_than_chance_wins(walked) -> None:  # type: ignore[no-untyped-def]
    pairs, _ = seen(walked)
    around = se3_exp(torch.tensor([0, 0, 0, 0, math.pi, 0], dtype=torch.float64))
    far = se3_exp(torch.tensor([1000.0, 0, 0, 0, 0, 0], dtype=torch.float64))
    away = torch.stack([around, far])[:, None].expand(-1, len(pairs.depth), 4, 4)
    assert torch.allclose(errors(pairs, away), torch.ones(2, len(pairs.depth)))


def test_motions_are_as_far_apart_as_they_put_pixels() -> None:
    frames = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]))
    flat = views(frames, torch.full((2, 32, 32), 2.0), torch.tensor([20.0, 20.0, 16.0, 16.0]), pairs, 1)
    aside = se3_exp(torch.tensor([[0.3, 0, 0, 0, 0, 0]], dtype=torch.float64))  # 20 px x 0.3 m / 2 m
    apart = pixels_apart(flat, aside, torch.eye(4, dtype=torch.float64)[None])
    assert math.isclose(float(apart), 3.0, rel_tol=1e-5)


def test_alignment_finds_the_motion_of_near_frames_without_their_poses(walked) -> None:  # type: ignore[no-untyped-def]
    pairs, numbers = seen(walked)
    true = relative_poses(torch.tensor(walked.clip.c2w), numbers)
    still = torch.eye(4, dtype=torch.float64).expand_as(true)
    found, error = free_motion(pairs, still[None])
    near = (numbers.first - numbers.second).abs() <= 2
    assert float(pixels_apart(pairs, found, true)[near].max()) < 0.3
    assert bool((error <= errors(pairs, still[None])[0]).all())

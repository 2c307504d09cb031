"""Directions that true pictures have looked along, and the way from them."""

from __future__ import annotations

import math

from torch import Tensor

from wm_env.contexts import turn
from wm_env.model.seen_directions import after_step, direction_signals, nothing_seen, with_true

SIZE = (64, 64)


def turned(degrees: float) -> Tensor:
    return turn(4)[round(degrees / 3.6)][None]


def test_a_turned_camera_sees_new_directions_and_a_full_turn_leaves_none(
    level_camera: tuple[Tensor, Tensor],
) -> None:
    pose, camera = level_camera
    seen = with_true(nothing_seen(1), pose[:, None], camera, SIZE)
    share = [
        float(direction_signals(seen, turned(d), camera, SIZE)["new_directions"]) for d in (0, 45, 90, 180)
    ]
    assert share[0] == 0 < share[1] < share[2] <= share[3] == 1
    seen = with_true(seen, turn(4)[None, ::4], camera, SIZE)
    assert float(direction_signals(seen, turned(180), camera, SIZE)["new_directions"]) < 0.05


def test_steps_and_metres_count_from_the_last_true_picture(level_camera: tuple[Tensor, Tensor]) -> None:
    pose, camera = level_camera
    seen = after_step(after_step(with_true(nothing_seen(1), pose[:, None], camera, SIZE)))
    away = pose.clone()
    away[:, 2, 3] = 2.5
    told = direction_signals(seen, away, camera, SIZE)
    assert math.isclose(float(told["moved"]), 2.5) and math.isclose(
        float(told["steps"]), math.log(3), rel_tol=1e-6
    )
    fresh = with_true(seen, away[:, None], camera, SIZE)
    told = direction_signals(fresh, away, camera, SIZE)
    assert float(told["moved"]) == 0 == float(told["steps"])


def test_a_clip_far_from_the_start_does_not_make_the_start_true(level_camera: tuple[Tensor, Tensor]) -> None:
    pose, camera = level_camera
    far = pose.clone()
    far[:, 0, 3] = 5.0
    seen = with_true(nothing_seen(1), far[:, None], camera, SIZE)
    assert float(direction_signals(seen, pose, camera, SIZE)["moved"]) == 5.0

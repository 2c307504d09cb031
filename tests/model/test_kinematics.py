"""The key walker and the twist integrator, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from wm_env.model.kinematics import (
    KEYS,
    KeyMotion,
    c2w_from_actions,
    parse_actions,
    start_motion,
    step_keys,
    step_twists,
)

MOTION = KeyMotion()


def held(keys: str) -> torch.Tensor:
    return torch.tensor([[key in keys for key in KEYS]])


def test_sixteen_frames_forward_then_coasting_travel_as_measured() -> None:
    poses = c2w_from_actions("w-16,none-48", MOTION)
    assert poses[16, 2, 3] == pytest.approx(0.40, abs=1e-6)
    assert poses[-1, 2, 3] == pytest.approx(0.77, abs=5e-3)


@pytest.mark.parametrize(
    ("key", "row", "column", "sign"),
    [("d", 0, 2, 1), ("a", 0, 2, -1), ("i", 1, 2, -1), ("k", 1, 2, 1)],  # right, left, up (-y), down
)
def test_each_turning_key_moves_the_view_the_named_way(key: str, row: int, column: int, sign: int) -> None:
    assert sign * c2w_from_actions(f"{key}-4", MOTION)[-1, row, column] > 0


@pytest.mark.parametrize(("key", "axis", "sign"), [("w", 2, 1), ("s", 2, -1), ("l", 0, 1), ("j", 0, -1)])
def test_each_moving_key_moves_the_camera_the_named_way(key: str, axis: int, sign: int) -> None:
    end = c2w_from_actions(f"{key}-4", MOTION)[-1, :3, 3]
    assert sign * end[axis] == pytest.approx(0.1, abs=1e-6)


def test_walking_while_looking_up_stays_at_one_height() -> None:
    assert c2w_from_actions("i-60,wi-40", MOTION)[:, 1, 3].abs().max() == 0


def test_any_split_of_a_held_key_gives_the_same_path() -> None:
    whole, end = step_keys(start_motion(1), held("wd"), 7, MOTION)
    first, state = step_keys(start_motion(1), held("wd"), 3, MOTION)
    second, state = step_keys(state, held("wd"), 4, MOTION)
    assert torch.equal(torch.cat([first, second], 1), whole)
    assert all(torch.equal(a, b) for a, b in zip(state, end, strict=True))


def test_a_batch_row_moves_as_it_does_alone() -> None:
    keys = torch.cat([held("w"), held("aj"), held("")])
    batched, _ = step_keys(start_motion(3), keys, 5, MOTION)
    for row in range(3):
        alone, _ = step_keys(start_motion(1), keys[row : row + 1], 5, MOTION)
        assert torch.allclose(batched[row], alone[0], atol=1e-12)


def test_the_collision_hook_is_asked_on_every_pixel_frame() -> None:
    calls = []

    def stop(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        calls.append(end)
        return start

    poses, _ = step_keys(start_motion(2), held("w").repeat(2, 1), 4, MOTION, resolve=stop)
    assert len(calls) == 4
    assert poses[..., :3, 3].abs().max() == 0


@pytest.mark.parametrize(
    ("component", "look"),
    [(3, (1, -1)), (4, (0, 1))],  # positive pitch looks up (-y), positive yaw looks right (+x)
)
def test_positive_twist_rotations_look_up_and_right(component: int, look: tuple[int, int]) -> None:
    twist = torch.zeros(1, 1, 6)
    twist[..., component] = 0.1
    poses, _ = step_twists(start_motion(1), twist)
    axis, sign = look
    assert poses[0, 0, axis, 2] * sign == pytest.approx(math.sin(0.1), abs=1e-6)


def test_positive_roll_turns_the_camera_clockwise() -> None:
    twist = torch.zeros(1, 1, 6)
    twist[..., 5] = 0.1
    poses, _ = step_twists(start_motion(1), twist)
    assert poses[0, 0, 1, 0] == pytest.approx(
        math.sin(0.1), abs=1e-6
    )  # the right-hand side dips (+y is down)


def test_twists_move_along_the_camera_axes_after_turning() -> None:
    twists = torch.zeros(1, 2, 6)
    twists[0, 0, 4] = math.pi / 2  # look right
    twists[0, 1, 2] = 1.0  # then forward: along world +x
    poses, _ = step_twists(start_motion(1), twists)
    assert torch.allclose(poses[0, 1, :3, 3], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize(
    "text", ["", "w", "w-", "w-0", "w--3", "q-3", "w-3,,a-2", "w-1.5", "w-²", "w-99999999"]
)
def test_malformed_action_strings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="action"):
        parse_actions(text)


def test_impossible_motions_are_refused() -> None:
    with pytest.raises(ValueError, match="translation_speed"):
        KeyMotion(translation_speed=0.0)
    with pytest.raises(ValueError, match="tau_press"):
        KeyMotion(tau_press=math.nan)

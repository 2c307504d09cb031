"""Every action type: its space, its command, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction

from wm_env.actions import ACTION_TYPES, ActionSpec
from wm_env.model.kinematics import KEYS


def spec(kind: str) -> ActionSpec:
    return ActionSpec(kind=kind, frames_per_step=4, max_translation=0.5, max_rotation_deg=90.0)


@pytest.mark.parametrize("kind", ACTION_TYPES)
def test_every_sample_of_the_space_gives_a_command(kind: str) -> None:
    space = spec(kind).space()
    space.seed(0)
    for _ in range(5):
        command = spec(kind).command([space.sample(), space.sample()], 2)
        assert (command.held is None) != (command.twists is None)


def test_keys_are_none_then_the_eight_keys_in_order() -> None:
    command = spec("keys").command(np.arange(9), 9)
    assert command.held is not None
    assert not command.held[0].any()
    assert torch.equal(command.held[1:], torch.eye(8, dtype=torch.bool))
    assert KEYS == "wsadikjl"


def test_a_camera_action_is_held_over_the_chunk_in_metres_and_radians() -> None:
    command = spec("camera").command([np.array([1, 0, -0.5, 0, 1, 0], np.float32)], 1)
    assert command.twists is not None
    assert command.twists.shape == (1, 4, 6)
    expected = torch.tensor([0.5, 0, -0.25, 0, math.pi / 2, 0], dtype=torch.float64)
    assert torch.allclose(command.twists, expected.expand(1, 4, 6))


def test_a_camera_sequence_has_a_row_for_every_pixel_frame() -> None:
    rows = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
    command = spec("camera_sequence").command([rows], 1)
    assert command.twists is not None
    assert torch.allclose(command.twists[0, :, 0], torch.from_numpy(rows[:, 0] * 0.5).double())


REFUSED: list[tuple[str, Any, str]] = [
    ("keys", 9, "leaves the space"),
    ("keys", -1, "leaves the space"),
    ("keys", 1.0, "integer"),
    ("keys", "w", "numbers"),
    ("keys", None, "numbers"),
    ("keys", [1], "shape"),
    ("multikeys", [0] * 7, "shape"),
    ("multikeys", [2] + [0] * 7, "leaves the space"),
    ("camera", [0.0] * 5 + [math.nan], "not finite"),
    ("camera", [0.0] * 5 + [math.inf], "not finite"),
    ("camera", [0.0] * 5 + [1.5], "leaves the space"),
    ("camera", [[0.0] * 6], "shape"),
    ("camera_sequence", np.zeros((3, 6)), "shape"),
    ("camera_sequence", [[0.0] * 6, [0.0]], "shape"),
]


@pytest.mark.parametrize(("kind", "action", "says"), REFUSED)
def test_actions_outside_the_space_are_refused(kind: str, action: Any, says: str) -> None:
    with pytest.raises(InvalidAction, match=says):
        spec(kind).command([action], 1)


def test_an_unknown_action_type_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="keys, multikeys, camera, camera_sequence"):
        spec("joystick")


@pytest.mark.parametrize("kind", ACTION_TYPES)
def test_the_keyboard_map_stays_inside_the_space(kind: str) -> None:
    mapping = spec(kind).keys_to_action()
    assert set(KEYS) <= set(mapping)
    assert all(spec(kind).space().contains(action) for action in mapping.values())


def test_the_forward_key_means_forward_in_every_action_type() -> None:
    held = [spec(kind).command([spec(kind).keys_to_action()["w"]], 1).held for kind in ("keys", "multikeys")]
    assert all(keys is not None and keys[0].tolist() == [True] + [False] * 7 for keys in held)
    for kind in ("camera", "camera_sequence"):
        twists = spec(kind).command([spec(kind).keys_to_action()["w"]], 1).twists
        assert twists is not None and (twists[0, :, 2] == 0.5).all() and twists.count_nonzero() == 4

"""Rigid motions, intrinsics and rays, each by its formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wm_env.model.geometry import (
    assemble,
    check_rigid,
    invert_rigid,
    pixel_rays,
    relative_to_first,
    rotation_angle_deg,
    se3_exp,
)

ROUNDING = 1e-12  # float64
TWIST = st.lists(st.floats(-2, 2), min_size=6, max_size=6)


def yaw(degrees: float) -> torch.Tensor:
    """Return a turn about the y axis (down) `(3, 3)` float64, positive to the right: z goes to x."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)


def poses(*twists: list[float]) -> torch.Tensor:
    return se3_exp(torch.tensor(twists, dtype=torch.float64))


@given(TWIST)
def test_the_exponential_is_the_matrix_exponential_of_the_twist(twist: list[float]) -> None:
    v, (a, b, c) = twist[:3], twist[3:]
    rows = [[0, -c, b, v[0]], [c, 0, -a, v[1]], [-b, a, 0, v[2]], [0, 0, 0, 0]]
    expected = torch.linalg.matrix_exp(torch.tensor(rows, dtype=torch.float64))
    assert torch.allclose(poses(twist)[0], expected, atol=1e-9)


@given(TWIST)
def test_the_inverse_undoes_a_motion(twist: list[float]) -> None:
    pose = poses(twist)
    eye = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(invert_rigid(pose) @ pose, eye, atol=1e-9)
    assert torch.allclose(pose @ invert_rigid(pose), eye, atol=1e-9)


def test_a_turn_and_a_shift_are_put_together_row_by_row() -> None:
    pose = assemble(yaw(90.0), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    expected = [[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]
    assert torch.allclose(pose, torch.tensor(expected, dtype=torch.float64), atol=ROUNDING)


def test_poses_relative_to_the_first_are_its_inverse_times_them() -> None:
    path = poses([1, 0, 2, 0, 0.4, 0], [0, 1, 1, 0.3, 0, 0], [2, 0, 0, 0, 0, 1])
    relative = relative_to_first(path)
    assert torch.equal(relative[0], torch.eye(4, dtype=torch.float64))
    assert torch.allclose(path[0] @ relative[2], path[2], atol=ROUNDING)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.5, 90.0, 179.0])
def test_the_angle_between_rotations_is_the_turn_between_them(degrees: float) -> None:
    other = yaw(30.0)
    assert float(rotation_angle_deg(other, other @ yaw(degrees))) == pytest.approx(degrees, abs=1e-9)


def test_a_ray_is_the_pixel_less_the_centre_over_the_focal_length() -> None:
    rays = pixel_rays(torch.tensor([2.0, 4.0, 1.5, 1.0]), height=2, width=3, offset=0.5)
    assert rays.shape == (2, 3, 3)
    assert rays[1, 2].tolist() == [(2.5 - 1.5) / 2, (1.5 - 1.0) / 4, 1.0]
    assert pixel_rays(torch.tensor([2.0, 4.0, 1.5, 1.0]), 2, 3, 0.0)[0, 0].tolist() == [-0.75, -0.25, 1.0]


def test_poses_that_are_no_rigid_motion_are_named() -> None:
    good = poses([0, 0, 1, 0, 0.1, 0]).repeat(4, 1, 1)
    check_rigid(good)
    for change in ("stretch", "mirror", "last row", "nan"):
        bad = good.clone()
        if change == "stretch":
            bad[2, :3, :3] *= 1.01
        elif change == "mirror":
            bad[2, 0, :3] *= -1
        elif change == "last row":
            bad[2, 3, 0] = 0.5
        else:
            bad[2, 0, 3] = math.nan
        with pytest.raises(ValueError, match="pose 2 is not a rigid"):
            check_rigid(bad)
    with pytest.raises(ValueError, match=r"shape \(4, 3, 4\)"):
        check_rigid(good[:, :3])

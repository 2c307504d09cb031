"""A hypothesis undoes the fault that it names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wm_env.model.data.pose_check.hypotheses import (
    AS_GIVEN,
    OPENGL,
    OURS,
    Hypothesis,
    determinant,
    fixed,
    matrix,
    read_poses,
    readings,
)
from wm_env.model.geometry import invert_rigid, relative_to_first, rotation_angle_deg

TOLERANCE = 1e-9  # float64 products of a few rigid transforms
UNITY = (1, -2, 3)


def half_inverse(c2w: Tensor) -> Tensor:
    """Return rotations of world-to-camera beside camera centres."""
    return torch.cat([torch.cat([c2w[:, :3, :3].mT, c2w[:, :3, 3:]], dim=2), c2w[:, 3:]], dim=1)


def other_half(c2w: Tensor) -> Tensor:
    """Return rotations of camera-to-world beside translations of world-to-camera."""
    found = c2w.clone()
    found[:, :3, 3] = invert_rigid(c2w)[:, :3, 3]
    found[:, :3, :3] = c2w[:, :3, :3]
    return found


def swapped_world(c2w: Tensor) -> Tensor:
    found = c2w.clone()
    found[:, :3, 3] = found[:, [0, 2, 1], 3]
    return found


FAULTS: dict[Hypothesis, Callable[[Tensor], Tensor]] = {
    AS_GIVEN: lambda c2w: c2w,
    Hypothesis(reading="inverse"): invert_rigid,
    Hypothesis(axes=OPENGL): lambda c2w: c2w @ torch.diag(torch.tensor([1.0, -1, -1, 1]).double()),
    Hypothesis(reading="inverse", axes=OPENGL): lambda c2w: invert_rigid(c2w @ matrix(OPENGL)),
    Hypothesis(axes=UNITY): lambda c2w: matrix(UNITY) @ c2w @ matrix(UNITY),
    Hypothesis(axes=(3, 1, 2)): lambda c2w: c2w @ matrix((3, 1, 2)).mT,
    Hypothesis(reading="centres"): half_inverse,
    Hypothesis(reading="reversed"): lambda c2w: c2w.flip(0),
    Hypothesis(reading="world axes", axes=(1, 3, 2)): swapped_world,
    Hypothesis(scale=100.0): lambda c2w: c2w @ torch.eye(4).double() * _centimetres(),
}


def _centimetres() -> Tensor:
    factor = torch.ones(4, 4, dtype=torch.float64)
    factor[:3, 3] = 0.01
    return factor


@pytest.mark.parametrize("hypothesis", FAULTS, ids=str)
def test_reading_damaged_poses_gives_the_true_motion(hypothesis: Hypothesis, walked) -> None:  # type: ignore[no-untyped-def]
    true = torch.tensor(walked.clip.c2w)
    read = read_poses(FAULTS[hypothesis](true), hypothesis)
    off = (relative_to_first(read) - relative_to_first(true)).abs().max()
    assert float(off) < TOLERANCE


def test_translations_of_world_to_camera_beside_our_rotations_are_read(walked) -> None:  # type: ignore[no-untyped-def]
    true = torch.tensor(walked.clip.c2w)
    given = true.clone()
    given[:, :3, 3] = -(true[:, :3, :3].mT @ true[:, :3, 3:])[..., 0]  # t of [R^T | -R^T c]
    read = read_poses(given, Hypothesis(reading="shifts"))
    assert float((read - true).abs().max()) < TOLERANCE


def test_every_reading_is_there_once_and_as_given_is_the_first() -> None:
    every = readings()
    assert every[0] == AS_GIVEN and len(set(every)) == len(every) == 2 * 48 + 3 * 2 + 47
    assert [one.faults for one in every] == sorted(one.faults for one in every)
    assert {determinant(one.axes) for one in every} == {1, -1}


def test_a_hypothesis_says_what_is_wrong() -> None:
    assert str(AS_GIVEN) == str(Hypothesis(scale=1.5, focal=0.9)) == "as given"
    both = Hypothesis(reading="inverse", axes=OPENGL, scale=0.01)
    assert str(both) == (
        "the poses are world-to-camera and the camera axes are right, up, back (OpenGL) and the translations "
        "need a factor of about 0.01"
    )
    assert both.faults == 3
    assert str(Hypothesis(axes=(-1, 2, 3))) == "the camera axes are left, down, forward (left-handed)"
    assert str(Hypothesis(reading="world axes", axes=(1, 3, -2))).endswith("(theirs: x, z, -y)")
    assert str(Hypothesis(focal=2.0)) == "the focal length needs a factor of about 2"


def test_mending_changes_no_scale_or_focal_length_that_may_be_right(walked) -> None:  # type: ignore[no-untyped-def]
    clip = walked.clip
    mended = fixed(clip, Hypothesis(axes=OURS, scale=1.4, focal=1.1))
    assert (mended.c2w == clip.c2w).all() and (mended.intrinsics == clip.intrinsics).all()
    mended = fixed(clip, Hypothesis(reading="inverse", scale=4.0, focal=1.4))
    assert mended.intrinsics.tolist() == [*(clip.intrinsics[:2] * 1.4), *clip.intrinsics[2:]]
    inverse = invert_rigid(torch.tensor(clip.c2w))
    assert float(rotation_angle_deg(torch.tensor(mended.c2w)[:, :3, :3], inverse[:, :3, :3]).max()) < 1e-6
    assert float((torch.tensor(mended.c2w)[:, :3, 3] - 4 * inverse[:, :3, 3]).abs().max()) < TOLERANCE

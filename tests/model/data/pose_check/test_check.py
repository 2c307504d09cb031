"""The verdict on poses: what is right fits, what is damaged never does, what a clip does not show is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from wm_env.model.data.pose_check.check import PoseCheck, check_poses
from wm_env.model.data.pose_check.hypotheses import AS_GIVEN, OPENGL, Hypothesis, fixed, matrix
from wm_env.model.data.pose_check.scale_steps import scale_step
from wm_env.model.geometry import invert_rigid, se3_exp

MIRROR = matrix((-1, 2, 3))


def check(tour, **changed: object) -> PoseCheck:  # type: ignore[no-untyped-def]
    return check_poses(replace(tour.clip, **changed), tour.depth_of)


def test_true_poses_fit(walked) -> None:  # type: ignore[no-untyped-def]
    found = check(walked)
    assert found.verdict == "fits" and found.sentence == "the poses fit the motion"
    assert found.best is not None and found.best.faults == 0 and found.sure == 1.0
    assert 0.7 < found.scale < 1.4 and 0.8 < found.focal < 1.25
    assert len(found.pairs) > 30 and all(pair.given < 0.5 * pair.still for pair in found.pairs)
    assert [row.error for row in found.table] == sorted(row.error for row in found.table)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda c2w: invert_rigid(c2w), "the poses are world-to-camera"),
        (lambda c2w: c2w @ matrix(OPENGL), r"right, up, back \(OpenGL\)$"),
        (lambda c2w: MIRROR @ c2w @ MIRROR, r"left, down, forward \(left-handed\)$"),
        (lambda c2w: matrix((2, 3, 1)) @ c2w @ matrix((2, 3, 1)).mT, "axes are down, forward, right$"),
        (lambda c2w: c2w.flip(0), "run backwards in time$"),
    ],
)
def test_a_damage_is_named_and_mended(damage, says: str, walked) -> None:  # type: ignore[no-untyped-def]
    damaged = replace(walked.clip, c2w=damage(torch.tensor(walked.clip.c2w)).numpy())
    found = check_poses(damaged, walked.depth_of)
    assert found.verdict == "does not fit" and found.best is not None and found.sure is not None
    assert found.sure > 0.9
    with pytest.raises(ValueError, match=says):
        raise ValueError(found.sentence)
    assert check_poses(fixed(damaged, found.best), walked.depth_of).verdict == "fits"


@pytest.mark.parametrize("factor", [0.01, 10.0])
def test_a_wrong_unit_is_told_by_the_depth(factor: float, walked) -> None:  # type: ignore[no-untyped-def]
    c2w = walked.clip.c2w.copy()
    c2w[:, :3, 3] *= factor
    found = check(walked, c2w=c2w)
    assert found.verdict == "does not fit" and found.best is not None
    assert 0.7 < found.best.scale * factor < 1.4 and found.best.reading == "given"


def test_a_wrong_focal_length_is_told_by_the_turns(walked) -> None:  # type: ignore[no-untyped-def]
    camera = walked.clip.intrinsics * [1.7, 1.7, 1.0, 1.0]
    found = check(walked, intrinsics=camera)
    assert found.verdict == "does not fit" and found.best is not None
    assert 0.8 < found.best.focal * 1.7 < 1.25 and found.best.keeps_scale


def test_another_track_from_the_middle_on_does_not_fit_and_the_pairs_show_where(walked) -> None:  # type: ignore[no-untyped-def]
    c2w = torch.tensor(walked.clip.c2w)
    c2w[20:] = c2w[20] @ invert_rigid(c2w[0]) @ c2w[:21]
    found = check(walked, c2w=c2w.numpy())
    assert found.verdict == "does not fit" and found.best is None and found.sure is None
    assert "show another motion than theirs" in found.sentence
    late = [pair.given - pair.free for pair in found.pairs if min(pair.first, pair.second) >= 20]
    early = [pair.given - pair.free for pair in found.pairs if max(pair.first, pair.second) <= 20]
    assert np.mean(late) > 5 * np.mean(early)


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_unit_that_changes_in_the_middle_is_not_called_fine(factor: float, walked) -> None:  # type: ignore[no-untyped-def]
    c2w = walked.clip.c2w.copy()
    c2w[20:, :3, 3] = c2w[20, :3, 3] + factor * (c2w[20:, :3, 3] - c2w[20, :3, 3])
    step = scale_step(replace(walked.clip, c2w=c2w), AS_GIVEN, walked.depth_of)
    assert step is not None and abs(step.frame - 20) <= 8 and (step.ratio > 1) == (factor < 1)
    assert check(walked, c2w=c2w).verdict != "fits"


def test_depth_that_is_wrong_by_a_factor_is_no_change_of_unit(walked) -> None:  # type: ignore[no-untyped-def]
    def of_twice(frames, intrinsics):  # type: ignore[no-untyped-def]
        return 1.6 * walked.depth_of(frames, intrinsics)

    assert scale_step(walked.clip, AS_GIVEN, of_twice) is None


def test_a_drifting_track_is_not_called_fine(walked) -> None:  # type: ignore[no-untyped-def]
    part = torch.linspace(0, 1, len(walked.clip), dtype=torch.float64)[:, None]
    drift = se3_exp(part * torch.tensor([0.3, 0.0, 0.3, 0.0, 0.5, 0.0]))
    assert check(walked, c2w=(torch.tensor(walked.clip.c2w) @ drift).numpy()).verdict != "fits"


def test_a_camera_that_stands_tells_nothing(stood) -> None:  # type: ignore[no-untyped-def]
    found = check(stood)
    assert found.verdict == "cannot tell" and found.best is None
    assert "the pictures hardly change; film while walking" in found.sentence


def test_poses_that_move_while_the_pictures_stand_do_not_fit(stood, walked) -> None:  # type: ignore[no-untyped-def]
    found = check(stood, c2w=walked.clip.c2w)
    assert found.verdict == "does not fit" and found.best is None


def test_a_camera_that_only_turns_tells_no_scale_but_tells_wrong_axes(turned) -> None:  # type: ignore[no-untyped-def]
    found = check(turned)
    assert found.verdict == "cannot tell" and "the scale (the camera hardly leaves" in found.sentence
    inverse = invert_rigid(torch.tensor(turned.clip.c2w)).numpy()
    assert check(turned, c2w=inverse).verdict == "does not fit"


def test_the_result_goes_through_json(walked) -> None:  # type: ignore[no-untyped-def]
    found = check(walked)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["verdict"] == "fits" and told["best"]["says"] == "as given"
    assert set(told["pairs"][0]) == {"first", "second", "given", "best", "still", "free"}
    says = {row["says"] for row in told["table"]}
    assert says > {
        "as given",
        "the poses are world-to-camera",
        "the camera axes are right, up, back (OpenGL)",
    }


def test_the_same_clip_is_judged_the_same(walked) -> None:  # type: ignore[no-untyped-def]
    assert check(walked) == check(walked)
    assert isinstance(check(walked).table[0].hypothesis, Hypothesis)

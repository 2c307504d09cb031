"""Structure, turns, joining, scale and filters on points that are known, without pictures and pycolmap."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from wm_env.annotation.filters import reasons
from wm_env.annotation.joining import cut, joined, longest_run, similarity, spans
from wm_env.annotation.measures import Measures, measure, sharpness
from wm_env.annotation.recipe import load_recipe
from wm_env.annotation.rotation import rotation_only
from wm_env.annotation.scale import CameraHeight, KnownDistance, PathLength, depth_scale, scale_of
from wm_env.annotation.structure import sound, triangulate, unit_change
from wm_env.annotation.values import ClipRow, Scale, Track

RECIPE = load_recipe()
FRAMES = np.random.default_rng(0).integers(0, 255, (48, 240, 320, 3), np.uint8)  # noise is sharp


def _seen() -> ModuleType:
    """Return the module beside this one: with pytest's importlib mode a test imports no neighbour."""
    spec = importlib.util.spec_from_file_location("seen_points", Path(__file__).with_name("seen_points.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["seen_points"] = module
    spec.loader.exec_module(module)
    return module


seen = _seen()
TRUE = seen.walk()
MATCHES = seen.matches_of(TRUE, seen.room())
STRUCTURE = triangulate(MATCHES, TRUE)


def test_points_are_found_where_they_are_and_true_poses_leave_the_noise() -> None:
    good = np.unique(STRUCTURE.point[sound(STRUCTURE, 2.0, least_angle_deg=3.0)])
    away = np.abs(STRUCTURE.points[good][:, None] - seen.room()[None]).sum(-1).min(1)
    assert len(good) > 200 and float(np.median(away)) < 0.03
    assert float(np.median(STRUCTURE.error)) < 0.4  # pixels; the noise is 0.2 on each axis
    assert float(np.quantile(STRUCTURE.error, 0.99)) < 1.5


def test_a_camera_that_stands_for_a_while_is_no_fault_of_its_poses() -> None:
    c2w = TRUE.c2w.copy()
    c2w[30:, :3, 3] = c2w[30, :3, 3]  # turns on, goes no further
    stands = TRUE._replace(c2w=c2w)
    structure = triangulate(seen.matches_of(stands, seen.room()), stands)
    late = structure.row > 34
    assert float((structure.error[late] < 2.0).mean()) > 0.95


def test_a_turn_on_the_spot_is_told_from_a_walk_and_its_turns_and_focal_length_are_right() -> None:
    still = seen.walk(moves=False)
    found = rotation_only(seen.matches_of(still, seen.room()), 48, RECIPE.rotation)
    assert found is not None and found.motion == "rotation" and not found.c2w[:, :3, 3].any()
    assert len(found.frames) == 48 and abs(found.intrinsics[0, 0] / 200 - 1) < 0.01
    expected = still.c2w[0, :3, :3].T @ still.c2w[:, :3, :3]
    chord = np.linalg.norm(found.c2w[:, :3, :3] - expected, axis=(1, 2)) / 8**0.5
    assert np.degrees(2 * np.arcsin(chord)).max() < 0.3
    assert rotation_only(MATCHES, 48, RECIPE.rotation) is None


def _part(first: int, last: int, scale: float) -> Track:
    """Return frames of the true track in a unit and axes of their own."""
    turn = seen.turned(scale, 0.3 * scale)
    c2w = TRUE.c2w[first : last + 1].copy()
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    c2w[:, :3, 3] = scale * c2w[:, :3, 3] @ turn.T + scale
    return Track(np.arange(first, last + 1), c2w, TRUE.intrinsics[first : last + 1])


def test_models_that_overlap_are_joined_and_others_are_listed() -> None:
    whole = joined([_part(0, 25, 1.0), _part(22, 40, 3.0), _part(44, 47, 0.5)], RECIPE.mapping)
    assert whole.frames.tolist() == list(range(41))
    scale, turn, shift = similarity(
        whole.c2w[:, :3, :3], TRUE.c2w[:41, :3, :3], whole.c2w[:, :3, 3], TRUE.c2w[:41, :3, 3]
    )
    moved = scale * whole.c2w[:, :3, 3] @ turn.T + shift
    assert np.abs(moved - TRUE.c2w[:41, :3, 3]).max() < 1e-9
    assert whole.left_out == ("another model has frames 44 to 47 (4) and shares 0 with this one",)


def test_models_that_contradict_each_other_are_not_joined() -> None:
    other = _part(20, 40, 1.0)
    other.c2w[:6, :3, 3] = other.c2w[5::-1, :3, 3]  # runs backwards where both are
    whole = joined([_part(0, 25, 1.0), other], RECIPE.mapping)
    assert whole.frames.tolist() == list(range(26)) and "shares 6 with this one" in whole.left_out[0]


def test_the_longest_run_is_kept_and_the_rest_is_said() -> None:
    rows = np.array([0, 1, 2, 9, 10, 11, 12, 13, 20])
    gaps = Track(rows, TRUE.c2w[rows], TRUE.intrinsics[rows])
    whole = cut(gaps, *longest_run(gaps, 48))
    assert whole.frames.tolist() == [9, 10, 11, 12, 13]
    assert whole.left_out == ("4 frames with a pose lie outside of the longest run: 0 to 2, 20",)
    assert spans([1, 2, 5]) == "1 to 2, 5"


def _in_units(unit: float) -> tuple[Track, object]:
    """Return the true track and its structure in units of `unit` metres."""
    c2w = TRUE.c2w.copy()
    c2w[:, :3, 3] /= unit
    track = TRUE._replace(c2w=c2w, metric=False)
    return track, triangulate(MATCHES, track)


@pytest.mark.parametrize("unit", [0.03, 7.0])
def test_each_source_of_a_scale_finds_the_metres_in_a_unit(unit: float) -> None:
    track, structure = _in_units(unit)
    length = float(np.linalg.norm(np.diff(TRUE.c2w[:, :3, 3], axis=0), axis=1).sum())
    height = float(-np.median(TRUE.c2w[:, 1, 3]))
    points = np.array([[-0.4, -0.9, 4.0], [1.6, -0.6, 4.0]])  # on the wall ahead
    local = (points - TRUE.c2w[10, :3, 3]) @ TRUE.c2w[10, :3, :3]
    (u1, v1), (u2, v2) = (local[:, :2] / local[:, 2:] * 200 + seen.CAMERA[2:]) * 2  # of a larger film
    for source, tolerance in (
        (PathLength(length), 1e-6),
        (CameraHeight(height), 0.05),  # the noise of far points
        (KnownDistance(20, u1, v1, u2, v2, float(np.linalg.norm(points[1] - points[0]))), 0.03),
    ):
        found = scale_of(
            source,
            FRAMES,
            track,
            structure,  # type: ignore[arg-type]
            row_of=lambda number: number // 2,
            shrunk_by=0.5,
        )
        assert abs(found.factor / unit - 1) < tolerance, source


def test_predicted_depth_gives_a_scale_with_an_interval_that_its_noise_widens() -> None:
    track, structure = _in_units(0.25)

    def network(noise: float):  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(0)

        def of(row: int) -> tuple[np.ndarray, np.ndarray]:
            depth = np.zeros((240, 320))
            own = structure.row == row  # type: ignore[attr-defined]
            x, y = np.clip(np.floor(structure.uv[own]).astype(int), 0, [319, 239]).T  # type: ignore[attr-defined]
            depth[y, x] = 0.25 * structure.depth[own] * np.exp(rng.normal(0, noise))  # type: ignore[attr-defined]
            return depth, np.array([[1.0, 1.0], [0.0, 0.0]])

        return of

    exact = depth_scale(network(0.0), track, structure, "exact")  # type: ignore[arg-type]
    rough = depth_scale(network(0.3), track, structure, "rough")  # type: ignore[arg-type]
    assert abs(exact.factor / 0.25 - 1) < 0.02
    assert exact.low is not None and exact.high is not None and exact.high - exact.low < 0.01
    assert rough.low is not None and rough.high is not None and rough.low < 0.25 < rough.high
    assert rough.high - rough.low > 0.02


def test_a_scale_that_the_clip_does_not_show_is_refused_in_one_sentence() -> None:
    track, structure = _in_units(1.0)
    asked = {
        "frame 900 of the film, where a distance is known, is not in this clip": KnownDistance(
            900, 1, 1, 9, 9, 1.0
        ),
        "too few points are known around pixel": KnownDistance(5, -400, 1, 9, 9, 1.0),
    }
    for says, source in asked.items():
        with pytest.raises(ValueError, match=says):
            scale_of(source, FRAMES, track, structure, row_of=lambda n: n if n < 48 else None, shrunk_by=1.0)  # type: ignore[arg-type]
    high = structure._replace(points=structure.points - np.array([0, 9.0, 0]))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="too few points lie below the camera to find the floor"):
        scale_of(CameraHeight(1.5), FRAMES, track, high, row_of=lambda n: n, shrunk_by=1.0)
    for wrong in ({"metres": 0.0}, {"metres": float("nan")}):
        with pytest.raises(ValueError, match="expected metres, above 0"):
            CameraHeight(**wrong)
    with pytest.raises(ValueError, match=r"frame 1\.5 is no frame number"):
        KnownDistance(1.5, 1, 1, 2, 2, 1.0)  # type: ignore[arg-type]


def _measured(track: Track, scale: Scale) -> Measures:
    """Return the measures of a track, given the matches of the true one."""
    structure, settings = triangulate(MATCHES, track), RECIPE.filters
    return measure(FRAMES, track, structure, scale, matches=MATCHES, of=48, fps=16, settings=settings)


def _why(track: Track) -> str:
    """Return why a track is refused, given the matches of the true one."""
    return "; ".join(reasons(_measured(track, Scale(1.0, None, None, "given")), RECIPE.filters, zoom=False))


def test_true_poses_pass_the_filters() -> None:
    assert _why(TRUE) == ""


def _changed(**parts: np.ndarray) -> Track:
    return TRUE._replace(**parts)


def _moved_from_the_middle(factor: float) -> np.ndarray:
    c2w = TRUE.c2w.copy()
    step = np.diff(c2w[:, :3, 3], axis=0)
    step[24:] *= factor
    c2w[1:, :3, 3] = c2w[0, :3, 3] + np.cumsum(step, axis=0)
    return c2w


MIRROR = np.diag([-1.0, 1, 1, 1])
DRIFT = np.stack([np.block([[seen.turned(0.35 * a / 47), np.zeros((3, 1))], [np.zeros((1, 3)), 1]])
                  for a in range(48)])  # fmt: skip
WRONG = {
    "mirrored": _changed(c2w=MIRROR @ TRUE.c2w @ MIRROR),
    "backwards": _changed(c2w=TRUE.c2w[::-1].copy()),
    "world to camera": _changed(c2w=np.linalg.inv(TRUE.c2w)),
    "three times as fast from the middle on": _changed(c2w=_moved_from_the_middle(3.0)),
    "another walk from the middle on": _changed(
        c2w=np.concatenate([TRUE.c2w[:24], seen.walk(seed=2).c2w[24:]])
    ),
    "drift of 20 degrees": _changed(c2w=TRUE.c2w @ DRIFT),
    "focal length x1.4": _changed(intrinsics=TRUE.intrinsics * np.array([1.4, 1.4, 1, 1])),
    "standing": _changed(c2w=np.tile(TRUE.c2w[:1], (48, 1, 1))),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_poses_are_refused_by_the_filters(fault: str) -> None:
    assert _why(WRONG[fault]) != ""


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_path_that_goes_on_in_another_unit_tells_by_how_much(factor: float) -> None:
    own = RECIPE.filters.within * FRAMES.shape[2]
    assert unit_change(MATCHES, TRUE, own) < 0.03  # type: ignore[operator]
    changed = unit_change(MATCHES, TRUE._replace(c2w=_moved_from_the_middle(factor)), own)
    assert changed == pytest.approx(1.0, abs=0.1)
    few = TRUE._replace(frames=TRUE.frames[:20], c2w=TRUE.c2w[:20], intrinsics=TRUE.intrinsics[:20])
    assert unit_change(MATCHES, few, own) is None  # neither side would be long enough


def test_every_bound_has_a_sentence_of_its_own() -> None:
    good = _measured(TRUE, Scale(1.0, 0.9, 1.1, "x"))
    for name, value, says in (
        (
            "share_placed",
            0.3,
            "the longest run of frames with a pose is 30% of the clip, at least",
        ),
        ("error", 0.01, "the matches are 1.00% of the width off where the poses put them"),
        ("error_worst", float("inf"), "in one part the matches are more than all of the width off"),
        ("speed", 9.0, "the camera moves at 9.0 m/s, at most 3.0 is asked"),
        ("jump", 99.0, "a step is 99.0 times those around it"),
        ("sharp", 0.0, "the sharpness of the duller frames is 0.00"),
        ("fov_deg", 10.0, "the picture is 10 degrees wide, 25 to 120 are asked"),
        ("zoom", 0.2, "the focal length changes by 20.0%"),
        ("parallax_deg", 0.1, "the rays to a point differ by 0.10 degrees"),
        ("path", 0.01, "the path is 0.01 of the distance of what is seen"),
        ("turn_deg", 80.0, "the camera turns 80 degrees between two frames"),
        ("scale_interval", 2.0, "the scale is known to 200% of itself"),
        ("unit_change", 1.8, "the unit of the path changes by 180%, at most 15% is asked"),
        ("observations", 3.0, "3 points are seen in a frame"),
    ):
        (why,) = reasons(replace(good, **{name: value}), RECIPE.filters, zoom=False)
        assert why.startswith(says), name
    assert reasons(replace(good, zoom=0.2), RECIPE.filters, zoom=True) == ()


def test_a_row_is_json_whatever_was_measured() -> None:
    row = ClipRow(clip="a", film="a.mp4", first=0, last=9, fps=16.0, frames=10, status="refused",
                  measures={"error": float("inf"), "path": None, "jump": 2.0})  # fmt: skip
    assert json.loads(json.dumps(row.to_json(), allow_nan=False))["measures"] == {
        "error": None,
        "path": None,
        "jump": 2.0,
    }


def test_blurred_frames_are_less_sharp() -> None:
    smooth = np.repeat(FRAMES[:, :, ::8], 8, axis=2)
    kernel = np.ones(9) / 9
    blurred = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), 2, smooth[:4]).astype(
        np.uint8
    )
    assert sharpness(blurred) < 0.25 < sharpness(FRAMES[:4])

"""Every accepted form of intrinsics (docs/reference/pipeline.md#intrinsics)."""

from __future__ import annotations

import math

import pytest
import torch

from wm_env.model.intrinsics import (
    check_intrinsics,
    cover_crop,
    crop_intrinsics,
    fov_deg,
    intrinsics_from_fov,
    intrinsics_per_frame,
    scale_intrinsics,
)


def test_a_shorter_sequence_is_resampled_over_normalised_time() -> None:
    rows = torch.tensor([[1.0, 2, 3, 4], [3.0, 4, 5, 6]])
    expected = torch.tensor(
        [[1.0, 2, 3, 4], [1.5, 2.5, 3.5, 4.5], [2.0, 3, 4, 5], [2.5, 3.5, 4.5, 5.5], [3.0, 4, 5, 6]]
    )
    torch.testing.assert_close(intrinsics_per_frame(rows, 5), expected)


def test_a_vector_a_matrix_and_sequences_of_them_mean_the_same() -> None:
    vector = torch.tensor([50.0, 51.0, 32.0, 24.0])
    matrix = torch.tensor([[50.0, 0.0, 32.0], [0.0, 51.0, 24.0], [0.0, 0.0, 1.0]])
    for form in (vector, matrix, vector.expand(9, 4), matrix.expand(9, 3, 3)):
        torch.testing.assert_close(intrinsics_per_frame(form, 5), vector.expand(5, 4))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 4), (2, 5, 4), (4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    if shape == (4, 4):  # a pose is not intrinsics, but four rows of four are a sequence of vectors
        assert intrinsics_per_frame(torch.ones(shape), 4).shape == (4, 4)
        return
    with pytest.raises(ValueError, match="expected"):
        intrinsics_per_frame(torch.ones(shape), 4)


def test_cropping_keeps_the_pixel_that_a_ray_meets() -> None:
    source, target = (1200, 1920), (704, 1280)
    resized, corner = cover_crop(source, target)
    assert (resized, corner) == ((800, 1280), (48, 0))
    before = torch.tensor([1000.0, 1010.0, 960.0, 600.0], dtype=torch.float64)
    after = crop_intrinsics(before, source, resized, corner)
    x, y = 0.2, -0.1  # a ray (x, y, 1)
    u, v = before[0] * x + before[2], before[1] * y + before[3]
    torch.testing.assert_close(after[0] * x + after[2], u * 1280 / 1920 - corner[1])
    torch.testing.assert_close(after[1] * y + after[3], v * 800 / 1200 - corner[0])
    horizontal = [float(fov_deg(row, width, 1)[0]) for row, width in ((before, 1920), (after, 1280))]
    assert horizontal[0] == pytest.approx(horizontal[1])  # nothing is cut at the sides


def test_intrinsics_of_a_field_of_view_and_back() -> None:
    fx, fy, cx, cy = intrinsics_from_fov(90.0, width=64, height=48)
    assert (fx, fy, cx, cy) == (pytest.approx(32.0), pytest.approx(32.0), 32.0, 24.0)
    across, down = fov_deg(torch.tensor([fx, fy, cx, cy]), 64, 48)
    assert float(across) == pytest.approx(90.0, abs=1e-4)
    assert float(down) == pytest.approx(2 * math.degrees(math.atan(24 / 32)), abs=1e-4)
    with pytest.raises(ValueError, match=r"24 deg is outside \[25, 120\]"):
        intrinsics_from_fov(24.0, 64, 48)


def test_intrinsics_scale_with_width_and_height_without_a_half_pixel() -> None:
    rows = torch.tensor([[60.0, 50.0, 48.0, 32.0]])
    scaled = scale_intrinsics(rows, (64, 96), (2, 12))  # a 32nd of the height, an 8th of the width
    assert scaled.tolist() == [[7.5, 50 / 32, 6.0, 1.0]]


def test_intrinsics_of_no_camera_are_refused() -> None:
    check_intrinsics(torch.tensor([60.0, 60.0, 48.0, 32.0]), 64, 96)
    for row, said in (
        ([60.0, 60.0, 48.0], "expected"),
        ([-60.0, 60.0, 48.0, 32.0], "positive"),
        ([math.inf, 60.0, 48.0, 32.0], "finite"),
        ([600.0, 60.0, 48.0, 32.0], "horizontal field of view"),
        ([60.0, 10.0, 48.0, 32.0], "vertical field of view"),
    ):
        with pytest.raises(ValueError, match=said):
            check_intrinsics(torch.tensor(row), 64, 96)

"""Every accepted form of intrinsics (docs/reference/pipeline.md#intrinsics)."""

from __future__ import annotations

import pytest
import torch

from wm_env.model.geometry import fov_deg
from wm_env.model.intrinsics import cover_crop, crop_intrinsics, intrinsics_per_frame


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

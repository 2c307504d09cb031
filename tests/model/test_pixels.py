"""Pixels of the networks: the formulas both ways, and what is cut off."""

from __future__ import annotations

import math

import pytest
import torch

from wm_env.model.pixels import (
    from_uint8,
    inverse_depth,
    metric_depth,
    to_pixels,
    to_rgb,
    to_uint8,
    within_range,
)


def test_colours_are_rgb_over_half_the_range_and_every_value_comes_back() -> None:
    rgb = torch.arange(256, dtype=torch.uint8)
    assert from_uint8(rgb)[[0, 51, 255]].tolist() == pytest.approx([-1.0, 51 / 127.5 - 1, 1.0], abs=1e-7)
    assert from_uint8(rgb).dtype == torch.float32
    assert torch.equal(to_uint8(from_uint8(rgb)), rgb)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
    assert to_uint8(torch.tensor([0.5 / 127.5 - 1 + 1e-4, 0.5 / 127.5 - 1 - 1e-4])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("metres", "inverse"),
    [(1.2, 0.0), (0.6, 1.0), (12.0, -0.9), (0.4, 2.0), (0.1, 2.0), (0.0, 2.0), (math.inf, -1.0)],
)
def test_inverse_depth_is_clip_of_a_metre_twenty_over_z_less_one(metres: float, inverse: float) -> None:
    assert float(inverse_depth(torch.tensor(metres))) == pytest.approx(inverse, abs=1e-6)


def test_depth_comes_back_between_forty_centimetres_and_sixty_metres() -> None:
    metres = torch.tensor([0.4, 0.7, 3.0, 25.0, 60.0])
    assert torch.allclose(metric_depth(inverse_depth(metres)), metres, rtol=1e-5)
    assert metric_depth(inverse_depth(torch.tensor([0.01, 500.0, math.inf]))).tolist() == pytest.approx(
        [0.4, 60.0, 60.0]
    )


def test_a_picture_and_its_depth_become_four_channels_and_the_picture_comes_back() -> None:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (2, 3, 5, 7, 3), generator=generator, dtype=torch.uint8)
    depth = torch.rand(2, 3, 5, 7, generator=generator) * 5 + 0.5
    pixels = to_pixels(rgb, depth)
    assert pixels.shape == (2, 3, 4, 5, 7)
    for channel in range(3):
        assert torch.equal(pixels[:, :, channel], from_uint8(rgb[..., channel]))
    assert torch.equal(pixels[:, :, 3], inverse_depth(depth))
    assert torch.equal(to_rgb(pixels), rgb)


def test_pixels_are_cut_to_the_range_of_inverse_depth() -> None:
    values = torch.tensor([-3.0, -1.0, 0.3, 1.5, 2.0, 4.0]).view(-1, 1, 1, 1).expand(-1, 4, 2, 2)
    assert within_range(values)[:, 0, 0, 0].tolist() == pytest.approx([-1.0, -1.0, 0.3, 1.5, 2.0, 2.0])

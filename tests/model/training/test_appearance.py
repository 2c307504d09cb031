"""The appearance loss: its formulas, and that what it is least for is the likeliest and does not fade."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wm_env.model.training.losses.appearance import (
    CELL,
    EPS,
    appearance,
    appearance_distance,
    median_distance,
)

WEIGHTS = torch.tensor([2.0, 0.7, 0.3])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_the_mean_norm_over_tokens() -> None:
    x, y = numbers(2, 3, 4, 4), numbers(2, 3, 4, 4, seed=1)
    for clip in range(2):
        total = 0.0
        for row in range(4):
            for column in range(4):
                error = x[clip, :, row, column] - y[clip, :, row, column]
                total += float(((WEIGHTS * error**2).sum() / 3 + EPS**2).sqrt())
        assert abs(float(median_distance(x, y, WEIGHTS)[clip]) - total / 16) < 1e-5


def cells(*shape: int, seed: int = 0) -> Tensor:
    """Return pixels that are constant within 16 x 16 cells."""
    return numbers(*shape, seed=seed).repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)


def test_appearance_is_contrast_and_saturation_of_the_frame_and_its_quarters() -> None:
    small = numbers(2, 4, 4, 4, 4)  # of the cells; the fourth channel is depth
    found = appearance(small.repeat_interleave(CELL, -1).repeat_interleave(CELL, -2))
    whole = [(slice(0, 4), slice(0, 4))]
    quarters = [(slice(r, r + 2), slice(c, c + 2)) for r in (0, 2) for c in (0, 2)]
    for clip in range(2):
        for number, (rows, columns) in enumerate(whole + quarters):
            rgb = small[clip, :, :3, rows, columns]
            luma = 0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2]
            contrast = luma.flatten(1).std(1).mean()
            saturation = (rgb.amax(1) - rgb.amin(1)).mean()
            expected = torch.stack([contrast, saturation])
            assert torch.allclose(found[clip, :, number], expected, atol=1e-4)


def test_a_frame_in_true_contrast_costs_nothing_but_haze_and_grain_do() -> None:
    true = cells(3, 4, 4, 4, 4)
    inverted = -true  # another picture of the same contrast and saturation
    grain = (
        numbers(3, 4, 4, 8, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    )  # as strong, token by token
    for other in (true, inverted):
        assert float(appearance_distance(other, true).max()) < 1e-6
    for other in (0.4 * true, grain):
        assert float(appearance_distance(other, true).mean()) > 0.1


def test_the_distance_is_relative_to_the_mean_statistics_of_the_truth() -> None:
    """Contrast and saturation of c y are c times those of y: A = (1 - c)^2 where y is alone in its batch."""
    true = cells(1, 4, 4, 4, 4)
    for scale in (0.4, 1.5):
        assert abs(float(appearance_distance(scale * true, true)) - (1 - scale) ** 2) < 1e-3
        assert abs(float(appearance_distance(scale * 0.2 * true, 0.2 * true)) - (1 - scale) ** 2) < 1e-3


def minimum(loss: Callable[[Tensor, Tensor], Tensor], truth: Tensor) -> Tensor:
    """Return the one frame `(1, 3, 1, 1)` that is best for all of `truth`."""
    guess = torch.zeros(1, 3, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([guess], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(guess.expand_as(truth), truth).mean().backward()
        optimizer.step()
    return guess.detach()


def test_of_two_colours_the_likelier_is_guessed_not_their_mixture() -> None:
    blue, purple = torch.tensor([-1.0, 0.2, 1.0]), torch.tensor([0.8, -0.9, 0.6])
    truth = torch.stack([blue] * 6 + [purple] * 4)[:, :, None, None]
    mean = minimum(lambda x, y: (x - y).square(), truth)[0, :, 0, 0]
    median = minimum(lambda x, y: median_distance(x, y, WEIGHTS), truth)[0, :, 0, 0]
    assert torch.allclose(mean, 0.6 * blue + 0.4 * purple, atol=0.02)
    assert (median - blue).norm() < 0.25 * (mean - blue).norm()

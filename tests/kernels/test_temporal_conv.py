"""Temporal convolutions: against their sums written out, and the tail as the only link between calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wm_env.kernels.inputs import relative_error
from wm_env.kernels.temporal_conv import (
    frame_mix_conv,
    frame_mix_conv_naive,
    short_conv,
    short_conv_naive,
)

FLOAT64 = 1e-12
SHAPES = [(1, (0,)), (2, (0,)), (3, (0, 1, 2)), (5, (0,)), (7, (0, 4)), (9, (0, 4, 7)), (6, (0, 1, 2, 5))]
FUNCTIONS = [(short_conv, short_conv_naive, 4), (frame_mix_conv, frame_mix_conv_naive, 3)]


def inputs(
    function: Callable, frames: int, taps: int, with_tail: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return x (B,T,N,C), weight and tail (B,k-1,N,C), float64; the mixing one looks back one frame."""
    random = torch.Generator().manual_seed(frames)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()

    if function in (short_conv, short_conv_naive):
        return normal(2, frames, 3, 5), normal(5, taps), normal(2, taps - 1, 3, 5) if with_tail else None
    return normal(2, frames, 3, 5), normal(4, 5, taps), normal(2, 1, 3, 5) if with_tail else None


@pytest.mark.parametrize("every_chunk", [False, True])
@pytest.mark.parametrize("with_tail", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_output_tail_and_gradients_equal_the_definition(
    functions: tuple, shape: tuple, with_tail: bool, every_chunk: bool
) -> None:
    fast, naive, taps = functions
    frames, starts = shape
    x, weight, tail = inputs(fast, frames, taps, with_tail)
    leaves = [t for t in (x, weight, tail) if t is not None]
    results = []
    for function in (fast, naive):
        found = function(x, weight, tail=tail, chunk_starts=starts, every_chunk=every_chunk)
        seeds = [torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view_as(t) for t in found]
        results.append(
            (*found, *torch.autograd.grad(found, leaves, seeds, materialize_grads=True, allow_unused=True))
        )
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < FLOAT64


def test_short_convolution_counts_the_centre_once_and_stops_at_the_chunk_end() -> None:
    x, w, tail = inputs(short_conv, 5, 4)
    past = torch.cat([tail, x], 1)  # frame t of x is past[:, t + 3]
    y, new_tail = short_conv(x, w, tail=tail, chunk_starts=(0, 3))
    expected_1 = (
        w[:, 3] * x[:, 1] + w[:, 2] * (x[:, 0] + x[:, 2]) + w[:, 1] * tail[:, 2] + w[:, 0] * tail[:, 1]
    )
    expected_3 = (
        w[:, 3] * x[:, 3] + w[:, 2] * (x[:, 2] + x[:, 4]) + w[:, 1] * past[:, 4] + w[:, 0] * past[:, 3]
    )
    assert relative_error(y[:, 1], expected_1) < FLOAT64
    assert relative_error(y[:, 3], expected_3) < FLOAT64
    assert torch.equal(new_tail, x[:, 2:])


def test_identity_taps_return_the_input() -> None:
    x, w, _ = inputs(short_conv, 4, 4)
    identity = torch.zeros_like(w)
    identity[:, -1] = 1
    assert torch.equal(short_conv(x, identity)[0], x)


def test_frame_mixing_is_three_matrices() -> None:
    x, w, tail = inputs(frame_mix_conv, 3, 3)
    y, new_tail = frame_mix_conv(x, w, tail=tail, chunk_starts=(0, 2))
    before, now, after = (w[..., i].T for i in range(3))
    assert relative_error(y[:, 0], tail[:, 0] @ before + x[:, 0] @ now + x[:, 1] @ after) < FLOAT64
    assert relative_error(y[:, 1], x[:, 0] @ before + x[:, 1] @ now) < FLOAT64
    assert relative_error(y[:, 2], x[:, 1] @ before + x[:, 2] @ now) < FLOAT64
    assert torch.equal(new_tail, x[:, 2:])


@pytest.mark.parametrize("split", [1, 4, 6])
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_any_split_at_chunk_ends_gives_the_same_output(functions: tuple, split: int) -> None:
    function, _, taps = functions
    starts = (0, 1, 4, 6)
    x, w, tail = inputs(function, 7, taps)
    whole, last = function(x, w, tail=tail, chunk_starts=starts)
    y1, middle = function(x[:, :split], w, tail=tail, chunk_starts=[s for s in starts if s < split])
    y2, end = function(x[:, split:], w, tail=middle, chunk_starts=[s - split for s in starts if s >= split])
    assert relative_error(torch.cat([y1, y2], 1), whole) < FLOAT64
    assert torch.equal(end, last)


def test_the_compatible_form_cuts_the_right_context_uniformly() -> None:
    x, w, tail = inputs(short_conv, 9, 4)
    y, _ = short_conv(x, w, tail=tail, chunk_starts=(0, 4, 7), compat_uniform_chunk=3)
    uniform, _ = short_conv(x, w, tail=tail, chunk_starts=(0, 3, 6))
    assert torch.equal(y, uniform)
    for chunk in (1, 2, 4, 9, 20):
        fast = short_conv(x, w, tail=tail, compat_uniform_chunk=chunk)[0]
        assert (
            relative_error(fast, short_conv_naive(x, w, tail=tail, compat_uniform_chunk=chunk)[0]) < FLOAT64
        )


@pytest.mark.parametrize("functions", FUNCTIONS)
def test_gradients_pass_finite_differences(functions: tuple) -> None:
    function, _, taps = functions
    x, w, tail = inputs(function, 3, taps)

    def call(x: Tensor, w: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        return function(x, w, tail=tail, chunk_starts=(0, 2), every_chunk=True)

    assert torch.autograd.gradcheck(call, (x, w, tail))


@pytest.mark.parametrize("functions", FUNCTIONS)
def test_low_precision_stays_close_and_keeps_the_dtype(functions: tuple) -> None:
    function, naive, taps = functions
    x, w, tail = inputs(function, 5, taps)
    exact = naive(x.bfloat16().double(), w, tail=tail)[0]
    y, new_tail = function(x.bfloat16(), w.bfloat16() if function is frame_mix_conv else w.float(), tail=tail)
    assert y.dtype == new_tail.dtype == torch.bfloat16
    assert relative_error(y, exact) < 2e-2


def test_wrong_arguments_are_refused() -> None:
    x, w, tail = inputs(short_conv, 2, 4)
    for function in (short_conv, short_conv_naive):
        with pytest.raises(ValueError, match="C=5"):
            function(x[..., :4], w)
        with pytest.raises(ValueError, match="the last 3 frames"):
            function(x, w, tail=tail[:, :2])
        with pytest.raises(ValueError, match="non-empty"):
            function(x[:, :0], w)
    for function in (frame_mix_conv, frame_mix_conv_naive):
        with pytest.raises(ValueError, match="non-empty"):
            function(x, w[:, None].expand(-1, 6, -1)[..., :3])

"""Numbers of a caller become arrays only when they are few and can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from wm_env.model.plain_arrays import numbers_of, plain_array

HUGE = np.broadcast_to(np.uint8(7), (10**6, 10**6, 3))  # three bytes that claim to be three terabytes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, 3),
        ([1, 2.5], [1, 2.5]),
        ((np.int64(1), torch.tensor(2)), [1, 2]),
        (torch.tensor([1.0, 2.0], requires_grad=True), [1, 2]),
        (torch.tensor([1.0, 2.0]).bfloat16(), [1, 2]),
        (range(3), [0, 1, 2]),
        ([[torch.tensor([1.0], requires_grad=True)], [np.array([2])]], [[[1]], [[2]]]),
    ],
)
def test_numbers_of_any_kind_become_an_array(given: Any, expected: Any) -> None:
    assert plain_array(given, 16).tolist() == expected


@pytest.mark.parametrize(
    "given",
    [
        HUGE,
        [HUGE],
        torch.zeros(1).expand(10**12),
        range(2**62),
        [0] * 17,
        [[0] * 9, [0] * 9],
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
        [[1], [1, 2]],
        [[[[[[[[[[1]]]]]]]]]],
        "w" * 17,
    ],
    ids=repr,
)
def test_what_is_too_much_or_has_no_values_is_refused_before_it_is_copied(given: Any) -> None:
    with pytest.raises(ValueError):
        plain_array(given, 16)


def test_an_array_is_taken_as_it_is() -> None:
    array = np.arange(4)
    assert numbers_of(array, 4) is array
    with pytest.raises(ValueError, match="holds 4 values, more than the 3"):
        numbers_of(array, 3)

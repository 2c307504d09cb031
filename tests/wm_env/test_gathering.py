"""Answers of several batches, joined as Gymnasium would have written them for one."""

from __future__ import annotations

import numpy as np

from wm_env.distributed.gathering import gather, gather_infos


def test_infos_of_batches_are_those_of_one() -> None:
    joined = gather_infos(
        [{"a": np.array([1, 2]), "_a": np.array([True, False])}, {"b": {"c": np.array([None], object)}}],
        [2, 1],
    )
    assert joined["a"].tolist() == [1, 2, 0] and joined["_a"].tolist() == [True, False, False]
    assert joined["b"]["c"].tolist() == [None, None, None]


def test_observations_are_joined_by_name() -> None:
    joined = gather(
        [{"image": np.zeros((2, 3)), "goal": np.ones(2)}, {"image": np.ones((1, 3)), "goal": np.zeros(1)}]
    )
    assert joined["image"].shape == (3, 3) and joined["goal"].tolist() == [1, 1, 0]

"""Chunks of a call: what may be said, and what the two short forms say."""

from __future__ import annotations

import pytest

from wm_env.model.chunks import ONE, Chunks, causal, cut_at


@pytest.mark.parametrize("starts", [(), (1,), (1, 2), (0, 2, 2), (0, 3, 1), (0, -1)])
def test_starts_that_do_not_begin_with_zero_and_rise_are_refused(starts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must begin with 0 and rise"):
        Chunks(starts)
    with pytest.raises(ValueError, match="must begin with 0 and rise"):
        cut_at(list(starts))


def test_one_chunk_one_a_frame_and_cuts() -> None:
    assert Chunks(starts=(0,), keep_every=False, uniform=None) == ONE
    assert causal(3) == Chunks(starts=(0, 1, 2), keep_every=True)
    assert cut_at([0, 4, 7]) == Chunks(starts=(0, 4, 7), keep_every=False)

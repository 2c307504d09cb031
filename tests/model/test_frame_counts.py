"""Frame counts and chunk boundaries.

See docs/reference/transformer.md#chunks and docs/reference/pipeline.md#frame-counts.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_env.model.camera import clip_windows
from wm_env.model.frame_counts import (
    STRATEGIES,
    check_frames,
    chunk_starts,
    explicit_starts,
    latent_frames,
    pixel_frames,
    snap_frames,
    streaming_bounds,
)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (9, 2), (161, 21), (337, 43), (961, 121)])
def test_latent_counts_of_the_released_lengths(frames: int, latents: int) -> None:
    assert latent_frames(frames) == latents
    assert pixel_frames(latents) == frames
    assert clip_windows(frames, 8).pose[-1] == frames - 1


@given(st.integers(-50, 2000), st.sampled_from([4, 8, 24]))
def test_snapping_gives_the_nearest_length_and_ties_go_up(frames: int, stride: int) -> None:
    snapped = snap_frames(frames, stride)
    check_frames(snapped, stride)
    if frames >= 1:
        assert -stride / 2 < snapped - frames <= stride / 2


@given(st.integers(1, 400), st.integers(1, 400))
def test_snapping_stays_within_the_trajectory(frames: int, bound: int) -> None:
    snapped = snap_frames(frames, 8, bound)
    check_frames(snapped)
    assert snapped <= bound


def test_a_length_the_vae_cannot_make_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ValueError, match=r"frames=100 .* nearest are 97 and 105"):
        check_frames(100)


@pytest.mark.parametrize(
    ("latents", "size", "strategy", "starts"),
    [
        (4, 3, "first_chunk_plus_one", (0,)),
        (10, 3, "first_chunk_plus_one", (0, 4, 7)),
        (9, 3, "first_chunk_plus_one", (0, 4)),  # remainder 2 is merged
        (11, 3, "first_chunk_plus_one", (0, 4, 7)),  # remainder 1 is merged
        (9, 3, "uniform", (0, 3, 6)),  # remainder 0
        (11, 3, "uniform", (0, 3, 6)),
        (10, 4, "uniform", (0, 4)),
        (2, 4, "uniform", (0,)),
        (10, 3, "first_frame", (0, 1, 4, 7)),
        (9, 3, "first_frame", (0, 1, 4)),
        (3, 3, "first_frame", (0, 1)),  # two starts are never merged
        (10, None, "uniform", (0,)),
    ],
)
def test_chunk_starts_of_every_rule(latents: int, size: int | None, strategy: str, starts: tuple) -> None:
    assert chunk_starts(latents, size, strategy) == starts  # type: ignore[arg-type]


@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from(STRATEGIES))
def test_only_a_whole_clip_or_a_first_frame_is_shorter_than_a_chunk(latents, size, strategy) -> None:
    starts = chunk_starts(latents, size, strategy)
    lengths = [b - a for a, b in zip(starts, [*starts[1:], latents], strict=True)]
    assert starts[0] == 0
    assert sum(lengths) == latents
    if len(starts) > 2:
        assert min(lengths[1:]) >= size


def test_explicit_starts_begin_at_zero_end_inside_and_are_never_merged() -> None:
    assert explicit_starts(10, [4, 7, 9, 12]) == (0, 4, 7, 9)


@pytest.mark.parametrize(
    ("latents", "bounds"),
    [(13, (0, 4, 7, 10, 13)), (12, (0, 3, 6, 9, 12)), (11, (0, 5, 8, 11)), (4, (0, 4)), (3, (0, 3))],
)
def test_the_first_streaming_chunk_takes_the_remainder(latents: int, bounds: tuple[int, ...]) -> None:
    assert streaming_bounds(latents, 3) == bounds


def test_streaming_and_training_chunks_agree_at_the_training_lengths() -> None:
    for latents in (43, 121):
        assert streaming_bounds(latents, 3)[:-1] == chunk_starts(latents, 3, "first_chunk_plus_one")


def test_impossible_chunkings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown chunk strategy 'half'"):
        chunk_starts(10, 3, "half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunk size 0"):
        chunk_starts(10, 0, "uniform")
    with pytest.raises(ValueError, match="shorter than one chunk"):
        streaming_bounds(2, 3)

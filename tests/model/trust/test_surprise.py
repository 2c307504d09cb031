"""Denoising errors of true chunks, and the null that they are measured by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_env.bench.walks import Walks, starts
from wm_env.model.embedded import load_embedded
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.state import leaves
from wm_env.model.surprise import levels, watch_chunk
from wm_env.model.surprise_null import TOP, TRUST_IN_MEAN, SurpriseNull, Watched, fit_null


def null(levels: int = 1) -> SurpriseNull:
    """Return log errors as they are: z = log e - unseen - log a."""
    ones, zeros = (1.0,) * levels, (0.0,) * levels
    return SurpriseNull(sigmas=ones, intercept=zeros, unseen=ones, detail=zeros, apart=ones, spread=ones)


def test_a_chunk_that_stands_out_of_its_film_is_surprising() -> None:
    errors = np.ones((1, 4, 1, 64))
    errors[0, 2, 0, :TOP] = np.e**3
    plain = np.zeros((1, 4, 64))
    same = np.ones_like(errors)
    found = null().surprise(Watched(errors, same, plain, plain))[0]
    wanted = [0.0, 0.0, 3.0, -3.0 / (TRUST_IN_MEAN + 3)]
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    # what was never seen is expected to be missed, and so is what the world draws in many ways
    new = plain + 3 * (errors[:, :, 0] > 1)
    assert null().surprise(Watched(errors, same, new, plain))[0, 2] == pytest.approx(0)
    assert null().surprise(Watched(errors, errors, plain, plain))[0, 2] == pytest.approx(0)


def test_the_null_of_its_own_chunks_is_about_zero_and_one() -> None:
    rng = np.random.default_rng(0)
    unseen, detail = rng.random((30, 10, 64)), rng.random((30, 10, 64))
    apart = np.exp(rng.normal(size=(30, 10, 2, 64)))
    logs = -2 + 3 * unseen + 0.5 * detail + 0.7 * rng.normal(size=(30, 10, 64))
    errors = np.exp(np.stack([logs, logs + 1], axis=2) + 0.6 * np.log(apart))
    walks = Watched(errors, apart, unseen, detail)
    found = fit_null((1.0, 0.5), walks)
    np.testing.assert_allclose(found.intercept, [-2, -1], atol=0.05)
    np.testing.assert_allclose(found.unseen, [3, 3], atol=0.05)
    np.testing.assert_allclose(found.apart, [0.6, 0.6], atol=0.02)
    np.testing.assert_allclose(found.spread, [0.7, 0.7], atol=0.02)
    scores = found.surprise(walks)[:, 1:]
    assert abs(scores.mean()) < 0.1 and scores.std() == pytest.approx(1, abs=1e-3)
    assert SurpriseNull.from_json(found.to_json()) == found
    with pytest.raises(ValueError, match="unseen is 3; expected 2 numbers, one a noise level"):
        SurpriseNull.from_json({**found.to_json(), "unseen": 3})


def with_sampler(world: LearnedWorld, sigmas: tuple[float, ...]) -> LearnedWorld:
    return LearnedWorld(
        spec=world.spec, dit=world.dit, vae=world.vae, refiner=world.refiner, text=world.text,
        sampler=SamplerConfig(sigmas=sigmas), memory_reading="composed",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["memory_world", "pure_world"])
def test_watching_commits_as_observing_and_asks_at_the_samplers_upper_levels(
    kind: str, short_walk: Walks, request: pytest.FixtureRequest
) -> None:
    world = with_sampler(load_embedded(request.getfixturevalue(kind)), (1.0, 0.6, 0.3, 0.0))
    _, state = world.begin(starts(world, short_walk))
    frames, c2w = short_walk.frames[:, 1:5], short_walk.c2w[:, 1:5]
    found, after = watch_chunk(world, state, frames, c2w)
    assert levels(world) == (1.0, 0.6)
    assert found.errors.shape == found.apart.shape == (2, 2, 64)
    assert found.unseen.shape == found.detail.shape == (2, 64)
    assert bool((found.errors > 0).all()) and bool((found.apart > 0).all())
    for (_, a), (_, b) in zip(leaves(after), leaves(world.observe(state, frames, c2w)[1]), strict=True):
        assert torch.equal(a, b)
    again, _ = watch_chunk(world, state, frames, c2w)
    assert torch.equal(found.errors, again.errors)
    other = 255 - frames
    assert not torch.equal(watch_chunk(world, state, other, c2w)[0].errors, found.errors)


def test_the_error_is_that_of_the_clean_latent(pure_world: str, short_walk: Walks) -> None:
    """A network that answers v = eps - x0 of another x0 misses by the difference of the two, at any level."""
    world = with_sampler(load_embedded(pure_world), (1.0, 0.5, 0.0))
    _, state = world.begin(starts(world, short_walk))
    chunk, after = world.observe(state, short_walk.frames[:, 1:5], short_walk.c2w[:, 1:5])
    assert chunk.latent is not None

    def answer(x, level, text, camera, past=None, memory=None, chunks=None):  # type: ignore[no-untyped-def]
        s = (level / 1000).view(-1, 1, 1, 1, 1)
        truth = chunk.latent[:, :, None].repeat(len(x) // 2, 1, 1, 1, 1)  # type: ignore[index]
        return (x - (truth + 0.5)) / s, after.dit  # v of a path that ends at x0 + 0.5

    def observed(*args):  # type: ignore[no-untyped-def]
        return chunk, after

    world.observe = observed  # type: ignore[method-assign]
    world.dit.forward = answer  # type: ignore[method-assign]
    try:
        found, _ = watch_chunk(world, state, short_walk.frames[:, 1:5], short_walk.c2w[:, 1:5])
    finally:
        del world.dit.forward
    torch.testing.assert_close(found.errors, torch.full((2, 2, 64), 0.25), atol=1e-4, rtol=0)
    assert float(found.apart.max()) < 1e-6  # wrong by as much in every draw

"""Signals of trust are what their equations say, and reading them changes nothing."""

from __future__ import annotations

import pytest
import torch

from wm_env.bench.walks import Walks, starts
from wm_env.model.composed_view import compose
from wm_env.model.embedded import load_embedded
from wm_env.model.point_memory import start_memory, write_memory
from wm_env.model.rollout import LearnedWorld
from wm_env.model.signals import (
    CELL,
    disagreement,
    residual,
    source_signals,
    start_error,
    state_signals,
    step_with_signals,
    view_signals,
)
from wm_env.model.state import leaves
from wm_env.twin import twin_like


@pytest.fixture(scope="module", params=["memory", "pure"])
def world(request: pytest.FixtureRequest, memory_world: str, pure_world: str) -> LearnedWorld:
    return load_embedded(memory_world if request.param == "memory" else pure_world)


def test_frames_and_states_are_the_same_bit_for_bit(world: LearnedWorld, short_walk: Walks) -> None:
    _, state = world.begin(starts(world, short_walk))
    other = state
    for begin in (1, 5, 9):
        c2w = short_walk.c2w[:, begin : begin + 4]
        plain, state = world.step_chunk(state, c2w)
        chunk, other, signals = step_with_signals(world, other, c2w)
        for a, b in zip(plain, chunk, strict=True):
            assert torch.equal(a, b)  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(leaves(state), leaves(other), strict=True))
    of_state = {"residual", "read", "ray_residual", "ray_read"}
    of_memory = {"unseen", "imagined", "untrue", "age", "mismatch", "depth_mismatch", "refined"}
    wanted = {"detail"} | (of_memory if world.dit.cfg.memory_channels else of_state)
    assert set(signals.frame) == set(signals.cells) == wanted
    for name, cells in signals.cells.items():
        assert cells.shape == (2, 8, 8) and bool(torch.isfinite(cells).all()), name
        torch.testing.assert_close(signals.frame[name], cells.mean((1, 2)))


def test_a_renderer_has_no_signals(world: LearnedWorld, short_walk: Walks) -> None:
    twin = twin_like(world.spec)
    _, state = twin.begin(starts(twin, short_walk))
    _, _, signals = step_with_signals(twin, state, short_walk.c2w[:, 1:5])
    assert signals.frame == {} and start_error(twin, short_walk.frames[:, 0], short_walk.intrinsics) is None


def test_the_residual_is_what_the_memory_does_not_predict() -> None:
    k, S = torch.randn(1, 2, 1, 3, 4), torch.randn(1, 2, 4, 4)
    predicted = torch.einsum("bhtnd,bhdv->bhtnv", k, S)
    torch.testing.assert_close(residual(k, predicted, S), torch.zeros(1, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(residual(k, -predicted, S), torch.full((1, 3), 2.0))
    torch.testing.assert_close(residual(k, predicted, torch.zeros_like(S)), torch.ones(1, 3))


def test_what_was_written_leaves_no_residual(world: LearnedWorld, short_walk: Walks) -> None:
    """Committed over and over, a chunk becomes what the memory predicts."""
    _, state = world.begin(starts(world, short_walk))
    view = world.look(state, short_walk.c2w[:, 1:5])
    latent, dit = world.draw(state, view)
    before = state_signals(world, state, view, latent, dit)["residual"].mean()
    after = world.commit(state, view, latent, world.decode(state, latent)[:, -1], dit)
    for _ in range(12):
        dit = world.after(dit, [after.pending])
    assert state_signals(world, state, view, latent, dit)["residual"].mean() < before


def test_views_are_compared_where_the_memory_shows_something() -> None:
    decoded = torch.zeros(1, 4, 16, 16)
    refined = decoded + 0.25
    seen = torch.ones(1, 5, 16, 16)
    seen[:, :, :, 8:] = 0  # the right half was never seen
    told = view_signals(decoded, refined, seen)
    left, right = torch.tensor([[1.0, 0.0]] * 2)[None], torch.tensor([[0.0, 1.0]] * 2)[None]
    assert torch.equal(told["unseen"], right)
    assert torch.equal(told["mismatch"], left) and torch.equal(told["depth_mismatch"], left)
    torch.testing.assert_close(told["refined"], torch.full((1, 2, 2), 0.25))


def test_what_the_world_drew_is_told_from_what_is_true() -> None:
    camera, pose = torch.tensor([[32.0, 32.0, 32.0, 32.0]]), torch.eye(4, dtype=torch.float64)[None]
    true = start_memory(torch.zeros(1, 4, 64, 64), pose)
    aside = pose.clone()
    aside[:, 0, 3] = 0.01
    found = {}
    for drawn in (False, True):
        memory = write_memory(true, torch.zeros(1, 4, 64, 64), aside, drawn=drawn)
        _, blocks = compose(memory, pose[:, None], camera)
        found[drawn] = source_signals(memory, blocks, pose, camera)
    assert float(found[False]["imagined"].max()) == 0 < float(found[True]["imagined"].mean()) < 1
    assert bool((found[True]["age"] > 0).all() and (found[True]["age"] <= 1).all())


def test_two_draws_of_a_world_without_noise_agree(memory_world: str, short_walk: Walks) -> None:
    world = load_embedded(memory_world)
    _, state = world.begin(starts(world, short_walk))
    assert float(disagreement(world, state, short_walk.c2w[:, 1:5], (1, 1)).max()) == 0
    assert float(disagreement(world, state, short_walk.c2w[:, 1:5], (1, 2)).min()) > 0


def test_the_cells_are_those_of_the_tokens(world: LearnedWorld) -> None:
    assert world.spec.latent_shape is not None
    assert world.spec.frame_size[0] // CELL == world.spec.latent_shape[1]

"""The steps of a learned world: what `step_chunk` is made of, and a chunk committed without being drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_env.model import rollout
from wm_env.model.embedded import load_embedded
from wm_env.model.kinematics import KeyMotion, start_motion, step_keys
from wm_env.model.pixels import to_pixels, to_rgb
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.paths import held_keys
from wm_env.model.state import leaves
from wm_env.model.world import Start

CLOSE = 2e-5  # one call on one frame against one call on two: sums in another order


def start(seed: int) -> Start:
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Start(image=image, intrinsics=(40.0, 40.0, 32.0, 32.0), prompt="one room", noise_seed=seed)


def walk(world: LearnedWorld, keys: str, batch: int = 2) -> list[torch.Tensor]:
    motion, moved = KeyMotion(translation_speed=0.0625, rotation_speed_deg=3.6), start_motion(batch)
    poses = []
    for key in keys:
        path, moved = step_keys(moved, held_keys(key).expand(batch, 8), 4, motion, None)
        poses.append(path)
    return poses


@pytest.fixture(params=["memory", "pure"])
def world(request: pytest.FixtureRequest, memory_world: str, pure_world: str) -> LearnedWorld:
    return load_embedded(memory_world if request.param == "memory" else pure_world)


def test_a_step_is_look_draw_decode_refine_commit(world: LearnedWorld) -> None:
    chunk, whole = world.begin([start(1), start(2)])
    by_hand = whole
    for c2w in walk(world, "wda"):
        chunk, whole = world.step_chunk(whole, c2w)
        view = world.look(by_hand, c2w)
        latent, dit = world.draw(by_hand, view)
        pixels = world.refine(by_hand, world.decode(by_hand, latent), view)
        by_hand = world.commit(by_hand, view, latent, pixels[:, -1], dit)
        assert torch.equal(chunk.frames, to_rgb(pixels)) and torch.equal(chunk.latent, latent)
    for (name, a), (_, b) in zip(leaves(whole), leaves(by_hand), strict=True):
        assert torch.equal(a, b), name


def test_committing_without_drawing_leaves_the_state_that_drawing_leaves(world: LearnedWorld) -> None:
    _, state = world.begin([start(1), start(2)])
    for c2w in walk(world, "wd"):
        view = world.look(state, c2w)
        latent, dit = world.draw(state, view)
        pixels = world.refine(state, world.decode(state, latent), view)
        drawn = world.commit(state, view, latent, pixels[:, -1], dit)
        state = world.commit(state, view, latent, pixels[:, -1], world.after(state.dit, [state.pending]))
    for (name, a), (_, b) in zip(leaves(drawn), leaves(state), strict=True):
        torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE, msg=name)


@pytest.mark.parametrize("at_once", [2, 32])
def test_true_frames_committed_together_leave_the_state_of_one_after_the_other(
    world: LearnedWorld, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "COMMITTED_AT_ONCE", at_once)
    monkeypatch.setattr(world, "memory_reading", "four")  # else depth depends on what is shown together
    _, state = world.begin([start(1), start(2)])
    state = world.set_prompt(state, ["fog", None])  # the pending chunk was drawn under another
    c2w = torch.cat(walk(world, "wdas"), dim=1)
    frames = torch.randint(0, 256, (2, 16, 64, 64, 3), dtype=torch.uint8)
    before = {name: leaf.clone() for name, leaf in leaves(state)}
    shown, together = world.observe(state, frames, c2w)
    single = state
    for part, poses in zip(frames.split(4, dim=1), c2w.split(4, dim=1), strict=True):
        _, single = world.observe(single, part, poses)
    for (name, a), (_, b) in zip(leaves(together), leaves(single), strict=True):
        torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE, msg=name)
    assert torch.equal(shown.frames, frames[:, -4:]) and torch.equal(together.chunk, state.chunk)
    for name, leaf in leaves(state):
        assert torch.equal(before[name], leaf), f"{name} was written into"


def test_a_true_chunk_in_the_history_changes_what_is_drawn_next(world: LearnedWorld) -> None:
    """Real frames can stand in for drawn ones: the next chunk follows them, the state it was given stays."""
    first, second = walk(world, "wd")
    _, state = world.begin([start(1), start(2)])
    before = {name: leaf.clone() for name, leaf in leaves(state)}
    view = world.look(state, first)
    latent, dit = world.draw(state, view)
    pixels = world.refine(state, world.decode(state, latent), view)
    own = world.commit(state, view, latent, pixels[:, -1], dit)
    true = to_pixels(torch.full((2, 64, 64, 3), 200, dtype=torch.uint8), torch.full((2, 64, 64), 2.0))
    told_latent = world.vae.encode_groups(true[:, None].expand(-1, 4, -1, -1, -1))
    told = world.commit(state, view, told_latent, true, dit)
    ours, theirs = (world.step_chunk(s, second)[0].frames for s in (own, told))
    assert not torch.equal(ours, theirs)
    assert torch.equal(told.decode.previous, told_latent)
    for name, leaf in leaves(state):
        assert torch.equal(before[name], leaf), f"{name} was written into"

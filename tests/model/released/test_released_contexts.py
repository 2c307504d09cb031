"""The released pipelines take posed pictures from before an episode, and during one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_released_world import FEW, SIZE, picture, settings, walk
from test_released_world import begun_with as start
from torch import Tensor

from wm_env.bench.context import ContextSettings
from wm_env.bench.context.run import run
from wm_env.env import SanaWMEnv
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.released.presets import load_parts, load_released_world
from wm_env.model.released.rollout import ReleasedWorld, teacher_sampler
from wm_env.model.state import cat, leaves, select
from wm_env.model.world import Context, PosedFrames, Start

Pipelines = Callable[[str], Path]


def film(chunks: int, seed: int = 0) -> np.ndarray:
    """Return frames uint8 `(1 + 24 chunks, H, W, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (1 + 24 * chunks, *SIZE, 3), dtype=np.uint8)


def path(chunks: int) -> Tensor:
    """Return poses `(1 + 24 chunks, 4, 4)` of a walk from the identity."""
    return torch.cat([torch.eye(4, dtype=torch.float64)[None], walk(chunks)[0]])


def after(frames: np.ndarray, c2w: Tensor, seed: int = 3) -> Start:
    """Return a start after posed frames; their poses are made relative to the last."""
    relative = (torch.linalg.inv(c2w[-1]) @ c2w).numpy()
    relative[-1] = np.eye(4)
    seen = PosedFrames(frames, relative)
    return start(frames[-1], seed, context=Context(length=len(frames), load=lambda: seen))


@pytest.fixture(scope="module")
def refined(pipelines: Pipelines) -> ReleasedWorld:
    world = load_released_world("sana-wm-streaming", settings(pipelines("streaming"), "ltx2"))
    return ReleasedWorld(spec=world.spec, parts=world.parts, sampler=FEW)


@pytest.fixture(scope="module")
def guided(pipelines: Pipelines) -> ReleasedWorld:
    parts = load_parts("sana-wm-chunk-causal", settings(pipelines("chunk-causal")))
    spec = load_released_world("sana-wm-streaming", settings(pipelines("streaming"))).spec
    return ReleasedWorld(spec=spec, parts=parts, sampler=teacher_sampler(steps=2))


@pytest.fixture(scope="module")
def plain(refined: ReleasedWorld) -> ReleasedWorld:
    parts = dataclasses.replace(refined.parts, refiner=None, refiner_text=None)
    return ReleasedWorld(spec=refined.spec, parts=parts, sampler=FEW)


@pytest.fixture(params=["plain", "guided"])
def unrefined(request: pytest.FixtureRequest) -> ReleasedWorld:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, ReleasedWorld)
    return made


def test_what_is_shown_enters_the_state_like_what_was_drawn(unrefined: ReleasedWorld) -> None:
    """The oracle is the sampler: a chunk's own latents, shown, leave the state that drawing it left."""
    given: list[Tensor] = []
    hook = unrefined.parts.dit.register_forward_pre_hook(lambda _, told: given.append(told[0]))
    _, state = unrefined.begin([start(picture())])
    drawn, shown, frames = state, state, torch.zeros(1, 24, *SIZE, 3, dtype=torch.uint8)
    for poses in walk(2).split(24, dim=1):
        _, drawn = unrefined.step_chunk(drawn, poses)
        clean = given[-1][:, :, -3:]  # of the last call
        _, shown = unrefined._commit(shown, poses, frames, clean, opening=shown is state)
    hook.remove()
    for (name, a), (_, b) in zip(leaves(drawn), leaves(shown), strict=True):
        if name != "chunk":
            torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    assert shown.chunk.tolist() == [0] and drawn.chunk.tolist() == [2]


@pytest.mark.parametrize("name", ["refined", "guided"])
def test_a_context_is_the_stream_from_its_first_frame(name: str, request: pytest.FixtureRequest) -> None:
    """Begun with all frames, or with the first and shown the rest in the stream's own poses: one state."""
    world: ReleasedWorld = request.getfixturevalue(name)
    frames, c2w = film(2), path(2)
    chunk, state = world.begin([after(frames, c2w)])
    assert chunk.frames.shape == (1, 1, *SIZE, 3) and np.array_equal(chunk.frames[0, 0], frames[-1])
    _, first = world.begin([start(frames[0])])
    with torch.inference_mode():
        _, seen = world.parts.vae.encode_next(torch.from_numpy(frames[None, :1]), None)
        _, other = world._show(first, torch.from_numpy(frames[None, 1:]), c2w[None, 1:], seen)
    names = {name for name, _ in leaves(state)}
    assert names == {name for name, _ in leaves(other)}
    for (name, a), (_, b) in zip(leaves(state), leaves(other), strict=True):
        if name != "origin":
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)
    ahead = walk(1)
    made, _ = world.step_chunk(state, ahead)
    same, _ = world.step_chunk(other, c2w[-1] @ ahead)
    torch.testing.assert_close(made.latent, same.latent, rtol=1e-3, atol=1e-3)


def test_a_context_changes_what_is_drawn_and_states_keep_their_shape(refined: ReleasedWorld) -> None:
    frames, c2w = film(3), path(3)
    alone, with_one, with_three = (
        refined.begin([told])[1]
        for told in (start(frames[-1]), after(frames[48:], c2w[48:]), after(frames, c2w))
    )
    states = (alone, with_one, with_three)
    shapes = [[(name, leaf.shape, leaf.dtype) for name, leaf in leaves(state)] for state in states]
    assert shapes[0] == shapes[1] == shapes[2]
    assert with_three.dit.frame.tolist() == [10] and with_one.dit.frame.tolist() == [4]
    drawn = [refined.step_chunk(state, walk(1))[0].latent for state in states]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_slots_with_contexts_of_different_length_share_a_batch(refined: ReleasedWorld) -> None:
    frames, c2w = film(2), path(2)
    told = [start(frames[-1], 1), after(frames, c2w, 2), after(frames[24:], c2w[24:], 3)]
    chunk, state = refined.begin(told)
    both, moved = refined.step_chunk(state, walk(1, 3))
    told_later = torch.from_numpy(film(1)[None, 1:])
    shown, observed = refined.observe(moved, told_later.expand(3, -1, -1, -1, -1), walk(1, 3))
    for slot, one in enumerate(told):
        begun, own = refined.begin([one])
        assert torch.equal(begun.frames[0], chunk.frames[slot])
        alone, own = refined.step_chunk(own, walk(1))
        assert (both.frames[slot].int() - alone.frames[0].int()).abs().max() <= 1
        _, own = refined.observe(own, told_later, walk(1))
        again = refined.step_chunk(own, walk(1))[0].frames[0]
        batched = refined.step_chunk(select(observed, [slot]), walk(1))[0].frames[0]
        assert (again.int() - batched.int()).abs().max() <= 1
    assert shown.frames.shape == (3, 24, *SIZE, 3) and observed.chunk.tolist() == [1, 1, 1]


def test_frames_shown_to_slots_of_which_one_is_fresh(refined: ReleasedWorld) -> None:
    _, fresh = refined.begin([start(picture())])
    _, old = refined.step_chunk(fresh, walk(1))
    frames = torch.from_numpy(film(1)[None, 1:])
    _, mixed = refined.observe(cat([old, fresh]), frames.expand(2, -1, -1, -1, -1), walk(1, 2))
    for slot, one in enumerate((old, fresh)):
        _, alone = refined.observe(one, frames, walk(1))
        for (name, a), (_, b) in zip(leaves(select(mixed, [slot])), leaves(alone), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)
    assert mixed.dit.frame.tolist() == [7, 4]


def test_gym_starts_after_a_clip_and_is_shown_another(refined: ReleasedWorld) -> None:
    frames, c2w = film(2), path(2).numpy()
    clip = PosedClip(frames[3:], c2w[3:], np.array([60.0, 60.0, 48.0, 32.0]), 16.0, "a kitchen")
    env = SanaWMEnv(world=refined, context=clip, obs_type="rgb_sequence")
    obs, info = env.reset(seed=0)
    assert info["context_frames"] == 25 and np.array_equal(obs[-1], frames[-1])
    env.step(1)
    snap = env.snapshot()
    again = PosedClip(frames[:26], c2w[:26], np.array([60.0, 60.0, 48.0, 32.0]), 16.0)
    seen, info = env.observe(again)
    assert np.array_equal(seen, frames[2:26]) and info["chunk_index"] == 1
    one = env.step(3)[0]
    env.restore(snap)
    plain = env.step(3)[0]
    env.restore(snap)
    env.observe(again)
    assert np.array_equal(env.step(3)[0], one) and not np.array_equal(one, plain)
    with pytest.raises(ValueError, match="25"):
        env.reset(options={"context": PosedClip(frames[:20], c2w[:20], clip.intrinsics, 16.0)})


def test_offloaded_parts_commit_the_same(refined: ReleasedWorld) -> None:
    parts = dataclasses.replace(refined.parts, offload=("text", "vae", "refiner"))
    other = ReleasedWorld(spec=refined.spec, parts=parts, sampler=FEW)
    told = [after(film(1), path(1))]
    a, b = (each.begin(told)[1] for each in (refined, other))
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(leaves(a), leaves(b), strict=True))


def test_predicting_the_rest_of_a_clip_is_measured(
    refined: ReleasedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PosedClip(film(3), path(3).numpy(), np.array([60.0, 60.0, 48.0, 32.0]), 16.0).save(tmp_path / "clip")
    monkeypatch.setattr("wm_env.bench.context.run.resolve_world", lambda name, device: refined)
    settings = ContextSettings(shown=(0, 2), held_out=1, clips=("clip",))
    report, _ = run("sana-wm-streaming", settings, tmp_path / "out", clips=[tmp_path / "clip"])
    assert list(report.rows) == ["1", "49", "repeat the start picture"]
    assert report.rows["49"].psnr != report.rows["1"].psnr

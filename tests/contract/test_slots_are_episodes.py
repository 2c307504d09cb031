"""A slot of a batch is the episode that its seed gives alone, bit for bit, whatever the batch size is."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import wm_env  # noqa: F401  (registers the ids)
from wm_env.kernels.frame_gdn.chunk import frame_gdn_chunk
from wm_env.model.layers import each_clip

STEPS = 3


def alone(world: str, seed: int, keys: np.ndarray, **settings: Any) -> list[np.ndarray]:
    """Return the frames of the start and of every step of one episode."""
    env: Any = gym.make("SanaWM-v0", world=world, **settings).unwrapped
    env.reset(seed=seed)
    frames = [env.state.frames[0].numpy()]
    for key in keys:
        env.step(int(key))
        frames.append(env.state.frames[0].numpy())
    return frames


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_frames_of_a_slot_are_those_of_the_episode_alone(world: str, slots: int) -> None:
    keys = np.random.default_rng(slots).integers(0, 9, size=(STEPS, slots))
    envs: Any = gym.make_vec("SanaWM-v0", num_envs=slots, world=world)
    envs.reset(seed=7)
    seen = [envs.state.frames.numpy()]
    for row in keys:
        envs.step(row)
        seen.append(envs.state.frames.numpy())
    for slot in range(slots):
        for batched, single in zip(seen, alone(world, 7 + slot, keys[:, slot]), strict=True):
            assert np.array_equal(batched[slot], single)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "tiny-pure"])
def test_so_are_those_of_the_embedded_worlds_after_partial_resets(preset: str) -> None:
    slots, rng = 3, np.random.default_rng(1)
    envs: Any = gym.make_vec("SanaWM-v0", num_envs=slots, world=preset)
    envs.reset(seed=0)
    keys = rng.integers(0, 9, size=(6, slots))
    for row in keys[:3]:
        envs.step(row)
    envs.reset(seed=[None, 40, None], options={"reset_mask": np.array([False, True, False])})
    seen = [envs.state.frames.numpy()]
    for row in keys[3:]:
        envs.step(row)
        seen.append(envs.state.frames.numpy())
    whole = alone(preset, 2, keys[:, 2])
    for batched, single in zip(seen[1:], whole[4:], strict=True):
        assert np.array_equal(batched[2], single)
    for batched, single in zip(seen, alone(preset, 40, keys[3:, 1]), strict=True):
        assert np.array_equal(batched[1][-1], single[-1])


def test_the_recurrence_of_a_clip_is_the_same_among_others_whatever_their_layout() -> None:
    generator = torch.Generator().manual_seed(0)

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    clips, heads, frames, number, depth = 4, 5, 2, 7, 8
    names = ("q", "k", "q_norm", "k_norm")
    wide = {name: tokens(clips, frames, number, heads, depth).relu() for name in names}
    wide["v"] = tokens(clips, frames, number, heads, depth)
    beta, g = tokens(clips, heads, frames, number).sigmoid(), -tokens(clips, heads, frames).exp()

    def made(of: slice) -> torch.Tensor:
        given = {name: x[of].permute(0, 3, 1, 2, 4) for name, x in wide.items()}
        out, _ = frame_gdn_chunk(
            **given, beta=beta[of], g=g[of], state=None, eps=1e-6, chunk_starts=[0, 1], every_chunk=False
        )
        return out

    together = made(slice(None))
    for clip in range(clips):
        assert torch.equal(together[clip], made(slice(clip, clip + 1))[0])


def test_each_clip_is_the_call_itself() -> None:
    layer = torch.nn.Linear(6, 4)
    x = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(each_clip(layer, x), layer(x))
    assert torch.equal(each_clip(layer, x)[1], layer(x[1:2])[0])

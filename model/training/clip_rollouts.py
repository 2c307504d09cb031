"""A world walked along true clips: their start pictures, poses and prompts, through the very `rollout.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from wm_env.model.data.clip import Clip
from wm_env.model.geometry import relative_to_first
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import RolloutState, View
from wm_env.model.vae.tiny import GROUP
from wm_env.model.world import Start


class Walked(NamedTuple):
    """One chunk of a walk: the state after it, what was known before it was drawn, and the decoded pixels
    `(B, K, 4, H, W)` before the refiner."""

    state: RolloutState
    view: View
    decoded: Tensor


def begin_along(
    world: LearnedWorld, clip: Clip, captions: Sequence[str], seeds: Sequence[int]
) -> RolloutState:
    """Return the state at the start of clips; seeds: noise seed of each."""
    starts = [
        Start(
            image=rgb[0].numpy(), intrinsics=(k[0], k[1], k[2], k[3]), prompt=captions[row[0]], noise_seed=s
        )
        for rgb, k, row, s in zip(
            clip.rgb, clip.intrinsics.tolist(), clip.caption.tolist(), seeds, strict=True
        )
    ]
    return world.begin(starts)[1]


def chunks_along(
    world: LearnedWorld, state: RolloutState, clip: Clip, captions: Sequence[str]
) -> Iterator[Walked]:
    """Yield every chunk of clips of 1 + 4 n frames from their start on, without gradient.

    A prompt is told when the clip's caption changes.
    """
    texts = [[captions[i] for i in row[::GROUP]] for row in clip.caption.tolist()]  # B lists of n + 1
    c2w = relative_to_first(clip.c2w.double())
    for t in range(1, (clip.rgb.shape[1] - 1) // GROUP + 1):
        if any(text[t] != text[t - 1] for text in texts):
            state = world.set_prompt(state, [row[t] if row[t] != row[t - 1] else None for row in texts])
        view = world.look(state, c2w[:, GROUP * t - 3 : GROUP * t + 1])
        latent, dit = world.draw(state, view)
        decoded = world.decode(state, latent)
        refined = world.refine(state, decoded, view)
        state = world.commit(state, view, latent, refined[:, -1], dit)
        yield Walked(state, view, decoded)


def states_along(
    world: LearnedWorld, clip: Clip, captions: Sequence[str], seeds: Sequence[int]
) -> Iterator[RolloutState]:
    """Yield the state after the start and after each chunk of clips; see `chunks_along`."""
    state = begin_along(world, clip, captions, seeds)
    yield state
    for walked in chunks_along(world, state, clip, captions):
        yield walked.state

"""A world walked along true clips: their start pictures, poses and prompts, through the very `rollout.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wm_env.model.data.clip import Clip
from wm_env.model.geometry import relative_to_first
from wm_env.model.rollout import LearnedWorld, RolloutState
from wm_env.model.vae.tiny import GROUP
from wm_env.model.world import Start


def states_along(
    world: LearnedWorld, clip: Clip, captions: Sequence[str], seeds: Sequence[int]
) -> Iterator[RolloutState]:
    """Yield the state after the start and after each chunk of clips of 1 + 4 n frames, without gradient.

    A prompt is told when the clip's caption changes. seeds: noise seed of each clip.
    """
    texts = [[captions[i] for i in row[::GROUP]] for row in clip.caption.tolist()]  # B lists of n + 1
    starts = [
        Start(image=rgb[0].numpy(), intrinsics=(k[0], k[1], k[2], k[3]), prompt=text[0], noise_seed=seed)
        for rgb, k, text, seed in zip(clip.rgb, clip.intrinsics.tolist(), texts, seeds, strict=True)
    ]
    _, state = world.begin(starts)
    yield state
    c2w = relative_to_first(clip.c2w.double())
    for t in range(1, (clip.rgb.shape[1] - 1) // GROUP + 1):
        if any(text[t] != text[t - 1] for text in texts):
            state = world.set_prompt(state, [row[t] if row[t] != row[t - 1] else None for row in texts])
        _, state = world.step_chunk(state, c2w[:, GROUP * t - 3 : GROUP * t + 1])
        yield state

"""How unexpected true frames are to a world, chunk by chunk, given all before and the camera's motion.

The true chunk's latent x0 is noised to every level s of the world's own sampler, with noise that is a
function of the chunk's number alone, and the network is asked for the velocity, as it is when it draws:

    x_s = (1 - s) x0 + s eps,      e(token, s) = s^2 mean_c |v(x_s, s | past, camera) - (eps - x0)|^2,

which is the squared error of the clean latent that it would go to, averaged over `DRAWS` noises. Then the
chunk is committed as it is. `wm_env.model.surprise_null` makes a number of the errors: how many standard
deviations more than where nothing strange happens. Legend: `B` clips, `S` noise levels, `N` tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.pixels import from_uint8
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import ChunkInput, RolloutState, chunk_noise
from wm_env.model.signals import detail, per_cell
from wm_env.model.state import tree_map

DRAWS = 2
SEED = 7  # of the noise, the same for every clip


class ChunkErrors(NamedTuple):
    """Denoising errors `(B, S, N)` of one true chunk, and of its tokens unseen (0 without a point memory) and
    detail, `(B, N)`."""

    errors: Tensor
    unseen: Tensor
    detail: Tensor


@torch.inference_mode()
def watch_chunk(
    world: LearnedWorld, state: RolloutState, frames: Tensor, c2w: Tensor
) -> tuple[ChunkErrors, RolloutState]:
    """Return the errors of a true chunk, and the state with it committed.

    frames uint8 `(B, K, h, w, 3)`, seen from poses c2w `(B, K, 4, 4)` relative to the start.
    """
    chunk, after = world.observe(state, frames, c2w)
    assert chunk.latent is not None
    view = world.look(state, c2w)
    now = ChunkInput(chunk.latent[:, :, None], view.camera, view.tokens, state.text)
    sigmas = levels(world)
    batch, draws = len(chunk.latent), len(sigmas) * DRAWS
    given = tree_map(lambda leaf: leaf.repeat(draws, *[1] * (leaf.ndim - 1)), now)
    past = tree_map(lambda leaf: leaf.repeat(draws, *[1] * (leaf.ndim - 1)), after.dit)
    number = torch.zeros(1, dtype=torch.int64)
    noises = torch.cat(
        [
            chunk_noise(number + SEED + draw, number + int(state.dit.frame[0]), tuple(now.latent.shape[1:]))
            for draw in range(DRAWS)
        ]
    ).to(world.device)
    # draws are ordered by level, then noise, then slot
    noise = noises[None, :, None].expand(len(sigmas), -1, batch, *noises.shape[1:]).flatten(0, 2)
    sigma = torch.tensor(sigmas, device=world.device).repeat_interleave(DRAWS * batch)
    s = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - s) * given.latent + s * noise
    with world.precision():
        velocity, _ = world.dit(
            noisy, 1000 * sigma[:, None], given.text, given.camera, past, memory=given.memory
        )
    missed = s * (velocity.float() - (noise - given.latent))
    error = missed.square().mean(1)[:, 0].unflatten(0, (len(sigmas), DRAWS, batch)).mean(1)  # (S, B, h, w)
    newest = from_uint8(frames[:, -1].to(world.device)).movedim(-1, 1)
    told = detail(newest).flatten(1)
    unseen = torch.zeros_like(told)
    if view.warped is not None:
        unseen = 1 - per_cell(view.warped[:, -1, 4]).flatten(1)
    return ChunkErrors(error.flatten(2).movedim(0, 1).cpu(), unseen.cpu(), told.cpu()), after


def levels(world: LearnedWorld) -> tuple[float, ...]:
    """Return the noise levels that a world's sampler calls its network at."""
    return tuple(world.sampler.sigmas[:-1])

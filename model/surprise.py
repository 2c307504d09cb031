"""How unexpected true frames are to a world, chunk by chunk, given all before and the camera's motion.

The true chunk's latent x0 is noised to the upper levels s of the world's own sampler (`levels`), with
`DRAWS` noises eps_i that are functions of the chunk's number alone, and the network is asked for the
velocity, as it is when it draws:

    x_s = (1 - s) x0 + s eps_i,              m_i(c) = s (v(x_s, s | past, camera) - (eps_i - x0)),
    e(token, s) = mean_c mean_i m_i(c)^2,    a(token, s) = mean_c var_i m_i(c).

e is the squared error of the clean latent that it would go to; a is how far its draws are apart, which is
what it thinks of its own error: large where it has to invent. Then the chunk is committed as it is.
`wm_env.model.surprise_null` makes a number of both: how many standard deviations more than where nothing
strange happens. Legend: `B` clips, `S` noise levels, `D` draws, `N` tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm_env.model.pixels import from_uint8
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import ChunkInput, RolloutState, chunk_noise
from wm_env.model.signals import detail, per_cell
from wm_env.model.state import tree_map
from wm_env.model.surprise_null import Watched

DRAWS = 4
LEAST_NOISE = 0.5  # below, the latent itself tells what the past should have told
SEED = 7  # of the noise, the same for every clip


@torch.inference_mode()
def watch_chunk(
    world: LearnedWorld, state: RolloutState, frames: Tensor, c2w: Tensor
) -> tuple[Watched[Tensor], RolloutState]:
    """Return what is seen of a true chunk, errors `(B, S, N)`, and the state with it committed.

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
    missed = (s * (velocity.float() - (noise - given.latent)))[:, :, 0].flatten(2)
    missed = missed.unflatten(0, (len(sigmas), DRAWS, batch)).movedim(2, 0)  # (B, S, D, C, N)
    error, apart = missed.square().mean((2, 3)), missed.var(2).mean(2)  # (B, S, N)
    newest = from_uint8(frames[:, -1].to(world.device)).movedim(-1, 1)
    told = detail(newest).flatten(1)
    unseen = torch.zeros_like(told)
    if view.warped is not None:
        unseen = 1 - per_cell(view.warped[:, -1, 4]).flatten(1)
    return Watched(error.cpu(), apart.cpu(), unseen.cpu(), told.cpu()), after


def levels(world: LearnedWorld) -> tuple[float, ...]:
    """Return the noise levels, from `LEAST_NOISE` on, that a world's sampler calls its network at."""
    return tuple(sigma for sigma in world.sampler.sigmas[:-1] if sigma >= LEAST_NOISE)

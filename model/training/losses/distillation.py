"""Two losses that teach a student of K steps what its teacher reaches in many.

The published forms: docs/reference/training.md#ode-regression and
docs/reference/training.md#distribution-matching.

Both work frame by frame on rollouts of the student: y_t are the latents it made, the history of frame t is
y_<t, and every network keeps its own state of that history.

ODE regression, with the teacher's Euler path from noise x_1 over x_s to its end x_0:

    L = mean w |x_s - s v(x_s, s | y_<t) - x_0|^2,    s one of the student's levels

Distribution matching (Yin et al. 2023, arXiv 2311.18828; rollouts as in Huang et al. 2025, arXiv 2506.08009),
with f, r the clean frames that a score network of the student's outputs and the frozen teacher see in
x_s = (1 - s) x + s eps, and x = x_t the student's frame, its last step repeated with gradient:

    g = (f(x_s) - r(x_s)) / mean |x - r(x_s)|,    L = mean w |x - stop(x - g)|^2 / 2
    L_fake = mean w |v_f(x_s, s | y_<t) - (eps - x)|^2

Unlike in the paper the scores are those of a frame given its past, not of a clip seen as a whole: the tiny
worlds have no bidirectional teacher. Legend: `B` clips, `C` channels, `T` latent frames, frame 0 the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.dit import DiT
from wm_env.model.flow import TIMESTEPS, euler_path, shift_sigma
from wm_env.model.rollout_state import chunk_noise
from wm_env.model.state import DiTState
from wm_env.model.text import TextTokens
from wm_env.model.training.batches import WorldBatch
from wm_env.model.training.losses.flow_matching import history_state, velocities


class NoisedSample(NamedTuple):
    """A noisy frame and what to compare a score with: x_s, eps `(B, C, T, h, w)`; sigma `(B, T)`."""

    noisy: Tensor
    eps: Tensor
    sigma: Tensor


def student_levels(steps: int, shift: float) -> tuple[float, ...]:
    """Return K+1 falling noise levels, 1 to 0: uniform, shifted towards 1, in whole timesteps.

    The levels of K steps are among those of any multiple of K.
    """
    if steps < 1 or not shift > 0:
        raise ValueError(f"steps={steps} must be at least 1 and shift={shift} positive")
    uniform = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return tuple(round(s * TIMESTEPS) / TIMESTEPS for s in shift_sigma(uniform, shift).tolist())


def clean_state(model: DiT, batch: WorldBatch, history: Tensor) -> DiTState:
    """Return the states before frames 1..T-1 of a clean history `(B, C, T, h, w)`, as a batch of B (T-1)."""
    tau = torch.zeros(history.shape[0], history.shape[2], device=history.device)
    return history_state(model, batch, history, tau)


def velocity(model: DiT, batch: WorldBatch, x: Tensor, sigma: Tensor, state: DiTState) -> Tensor:
    """Return v `(B, C, T, h, w)` float32 of noisy frames, each from its own state; 0 for frame 0."""
    v = velocities(model, batch, x, sigma, state).float()[:, :, 0]  # (B (T-1), C, h, w)
    v = v.unflatten(0, (x.shape[0], -1)).transpose(1, 2)  # (B, C, T-1, h, w)
    return torch.cat([torch.zeros_like(x[:, :, :1]), v], dim=2)


@torch.no_grad()
def own_path(
    model: DiT, batch: WorldBatch, noise: Tensor, state: DiTState, levels: Sequence[float]
) -> list[Tensor]:
    """Return x at every level `(B, C, T, h, w)`, from noise at the first to the last."""

    def at_level(x: Tensor, s: float) -> Tensor:
        return velocity(model, batch, x, noise.new_full((noise.shape[0], noise.shape[2]), s), state)

    return euler_path(at_level, noise, levels)


def ode_loss(
    student: DiT,
    teacher: DiT,
    batch: WorldBatch,
    own: Tensor,
    levels: Sequence[float],
    teacher_levels: Sequence[float],
    generator: torch.Generator,
    weights: Tensor,
) -> Tensor:
    """Return the ODE regression of frames 1..T-1; own `(B, C, T, h, w)`: the student's rollout.

    levels: the student's; among the teacher's.
    """
    eps = _normal(own, generator)
    with torch.no_grad():
        path = own_path(teacher, batch, eps, clean_state(teacher, batch, own), teacher_levels)
    steps, taken = len(levels) - 1, len(teacher_levels) - 1
    shape = (own.shape[0], own.shape[2])
    level = torch.randint(steps, shape, generator=generator).to(own.device)  # (B, T)
    snapshots = torch.stack(path[: taken : taken // steps])  # (K, B, C, T, h, w)
    at = torch.nn.functional.one_hot(level, steps).movedim(-1, 0).to(own.dtype)  # (K, B, T)
    noisy = (snapshots * at[:, :, None, :, None, None]).sum(0)
    sigma = torch.tensor(levels[:-1], device=own.device)[level]
    v = velocity(student, batch, noisy, sigma, clean_state(student, batch, own))
    end = noisy - sigma[:, None, :, None, None] * v
    return weighted_square(end - path[-1], weights)


def last_step(student: DiT, batch: WorldBatch, own: Tensor, noise: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the rollout's frames again, `(B, C, T, h, w)`, with gradient through the last step alone.

    levels: those of the rollout, 1 to 0. noise: the rollout's. The history, its state and the steps before
    the last carry no gradient.
    """
    with torch.no_grad():
        state = clean_state(student, batch, own)
        x = own_path(student, batch, noise, state, levels[:-1])[-1]
    sigma = x.new_full((x.shape[0], x.shape[2]), levels[-2])
    return x - levels[-2] * velocity(student, batch, x, sigma, state)


def rollout_noise(seeds: Sequence[int], own: Tensor) -> Tensor:
    """Return the noise `(B, C, T, h, w)` that a rollout from these seeds drew; frame 0 drew none."""
    shape = (own.shape[1], 1, *own.shape[3:])
    seed = torch.tensor(seeds)
    drawn = [chunk_noise(seed, torch.full_like(seed, t), shape) for t in range(own.shape[2] - 1)]
    return torch.cat([torch.zeros(len(seeds), *shape), *drawn], dim=2).to(own.device)


def add_noise(x: Tensor, shift: float, generator: torch.Generator) -> NoisedSample:
    """Return `x` noised for a score: level uniform, shifted, within 0.02..0.98, one for every frame."""
    uniform = torch.rand(x.shape[0], x.shape[2], generator=generator).to(x.device)
    sigma = shift_sigma(uniform, shift).clamp(0.02, 0.98)
    eps = _normal(x, generator)
    return NoisedSample(x + (eps - x) * sigma[:, None, :, None, None], eps, sigma)


def seen_clean(scored: NoisedSample, v: Tensor) -> Tensor:
    """Return the clean frames x_s - s v that a velocity implies."""
    return scored.noisy - scored.sigma[:, None, :, None, None] * v


@torch.no_grad()
def teacher_sees(
    teacher: DiT, batch: WorldBatch, own: Tensor, scored: NoisedSample, guidance: float
) -> Tensor:
    """Return the teacher's clean frames, text-guided: u + guidance (c - u), u without any prompt."""

    def see(text: TextTokens) -> Tensor:
        told = batch._replace(text=text)
        state = clean_state(teacher, told, own)
        return seen_clean(scored, velocity(teacher, told, scored.noisy, scored.sigma, state))

    conditional = see(batch.text)
    if guidance == 1.0:
        return conditional
    unconditional = see(TextTokens(batch.text.tokens, torch.zeros_like(batch.text.mask)))
    return unconditional + guidance * (conditional - unconditional)


def matching_loss(x: Tensor, fake: Tensor, real: Tensor, weights: Tensor) -> Tensor:
    """Return the loss whose gradient moves frames `x` of the student from what `fake` sees to `real`.

    All `(B, C, T, h, w)`; the gradient is scaled by 1 / mean|x - real| of its frame.
    """
    frozen = x.detach()
    size = (frozen - real).abs().mean((1, 3, 4), keepdim=True).clamp_min(1e-6)  # (B, 1, T, 1, 1)
    return weighted_square(x - (frozen - (fake - real) / size), weights) / 2


def weighted_square(error: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of w_c e^2 over frames 1..T-1 of errors `(B, C, T, h, w)`; weights `(C,)`."""
    return (error[:, :, 1:].square() * weights.to(error.device)[:, None, None, None]).mean()


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.device)

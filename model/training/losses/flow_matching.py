"""Flow matching for the world model: every frame is denoised from the state its history left behind.

One training clip is used as a rollout would use it (chunks of one latent frame):

    history   c_t = (1 - tau_t) z_t + tau_t e_t         one causal pass, the state before every frame is kept
    target    x_t = (1 - sigma_t) z_t + sigma_t eps_t   denoised from the state before frame t
    loss      mean_t |w (v(x_t, sigma_t | state_t) - (eps_t - z_t))|^2,   t = 1 .. T-1

sigma = sigmoid(mean + std n), or exactly 1 with probability `pure_noise`. Two things make the history look
like a rollout's: noise of a level tau that the model is told, and frames replaced by the model's own one-step
predictions (`own_history`). Frame 0 is the start image as a world is given it, with predicted depth.

The latents have unit variance, yet one of 32 channels carries two thirds of the pixels' energy and most carry
detail that nobody could predict. w_c^2 is the root of a channel's energy in pixels (`channel_weights`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.camera import CameraInput
from wm_env.model.chunks import causal
from wm_env.model.dit import DiT
from wm_env.model.state import DiTState, WindowState, tree_map
from wm_env.model.text import TextTokens
from wm_env.model.training.batches import WorldBatch


@dataclass(frozen=True, kw_only=True)
class WorldLossConfig:
    """How clips become losses; see the module docstring.

    batch, frames: clips per step and latent frames per clip. sigma_mean, sigma_std, pure_noise: noise level
    of the denoised frame. history_noise: largest tau; history_clean: share of clips whose history is clean.
    own_history: probability that a history frame is the model's own prediction. window_dropout: share of
    clips denoised without the softmax window, so that the GDN state has to carry what is needed of the past
    (with the window always there it learns to carry nothing). text_dropout: share of clips without a prompt.
    start_true: share of clips whose frame 0 keeps its true depth.
    """

    batch: int = 4
    frames: int = 8
    sigma_mean: float = 0.6
    sigma_std: float = 1.3
    pure_noise: float = 0.4
    history_noise: float = 0.3
    history_clean: float = 0.2
    own_history: float = 0.0
    window_dropout: float = 0.0
    text_dropout: float = 0.1
    start_true: float = 0.2

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 2:
            raise ValueError(f"batch={self.batch} must be positive and frames={self.frames} at least 2")
        shares = (
            self.pure_noise,
            self.history_noise,
            self.history_clean,
            self.own_history,
            self.text_dropout,
        )
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares and noise levels are in [0, 1]: {self}")


class WorldLoss(NamedTuple):
    """mean: the loss. error: `(B (T-1),)` squared error of every frame. pure: which were pure noise."""

    mean: Tensor
    error: Tensor
    pure: Tensor


def _frames_as_batch(x: Tensor, axis: int) -> Tensor:
    """Return frames 1..T-1 of `x` (time on `axis`) as separate clips of one frame."""
    x = x.movedim(axis, 1)[:, 1:].flatten(0, 1)
    return x.unsqueeze(axis)


def later_frames(x: Tensor) -> Tensor:
    """Return frames 1..T-1 of `(B, C, T, h, w)` as pictures `(B (T-1), C, h, w)`."""
    return _frames_as_batch(x, 2)[:, :, 0]


def history_state(
    model: DiT, batch: WorldBatch, history: Tensor, tau: Tensor, before: DiTState | None = None
) -> DiTState:
    """Return the states before frames 1..T-1 as a batch of B (T-1); tau `(B, T)`: noise of `history`.

    before: state before frame 0, None for the empty one.
    """
    frames = history.shape[2]
    _, states = model(
        history, 1000 * tau, batch.text, batch.camera, before,
        memory=batch.memory, chunks=causal(frames),
    )  # fmt: skip
    return tree_map(lambda leaf: leaf[:, :-1].flatten(0, 1), states)


def without_window(state: DiTState, keep: Tensor) -> DiTState:
    """Return the state with the softmax windows emptied in the slots where `keep` `(B,)` is False."""
    blocks = []
    for block in state.blocks:
        memory = block.attention
        if isinstance(memory, WindowState):
            chunks = tuple(chunk._replace(valid=chunk.valid & keep) for chunk in memory.chunks)
            block = block._replace(attention=WindowState(chunks))
        blocks.append(block)
    return state._replace(blocks=tuple(blocks))


def velocities(model: DiT, batch: WorldBatch, noisy: Tensor, sigma: Tensor, state: DiTState) -> Tensor:
    """Return v `(B (T-1), C, 1, h, w)` of noisy frames `(B, C, T, h, w)`, each from its own state."""
    text = TextTokens(*(x[:, 1:].flatten(0, 1) for x in batch.text))
    camera = CameraInput(
        _frames_as_batch(batch.camera.conditions, 1), _frames_as_batch(batch.camera.plucker, 2)
    )
    memory = None if batch.memory is None else _frames_as_batch(batch.memory, 1)
    velocity, _ = model(
        _frames_as_batch(noisy, 2), 1000 * sigma[:, 1:].flatten()[:, None], text, camera, state, memory=memory
    )
    return velocity


def world_loss(
    model: DiT,
    batch: WorldBatch,
    config: WorldLossConfig,
    generator: torch.Generator,
    weights: Tensor | None = None,
    history: Tensor | None = None,
    before: DiTState | None = None,
) -> WorldLoss:
    """Return the flow-matching loss of a batch; weights `(C,)` are w^2 per channel, None for ones.

    history: latents `(B, C, T, h, w)` that really came before, where they are not the true ones; before: the
    state before frame 0, None for the empty one (`own_walks.py`).
    """
    z = batch.z
    told = z if history is None else history
    count, _, frames = z.shape[:3]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(z.device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(z.device)

    def mix(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return clean + (noise - clean) * level[:, None, :, None, None]

    sigma = torch.sigmoid(config.sigma_mean + config.sigma_std * normal(count, frames))
    sigma = torch.where(uniform(count, frames) < config.pure_noise, 1.0, sigma)
    tau = config.history_noise * uniform(count, frames).square()
    tau = torch.where(uniform(count, 1) < config.history_clean, 0.0, tau)
    eps, history_eps = normal(*z.shape), normal(*z.shape)

    if config.own_history > 0:
        own = (uniform(count, 1) < 0.75) & (uniform(count, frames) < config.own_history)
        with torch.no_grad():
            state = history_state(model, batch, mix(told, history_eps, tau), tau, before)
            ones = torch.ones_like(sigma)
            predicted = _frames_as_batch(eps, 2) - velocities(model, batch, eps, ones, state)
        predicted = predicted[:, :, 0].unflatten(0, (count, frames - 1)).transpose(1, 2)  # (B, C, T-1, h, w)
        predicted = torch.cat([told[:, :, :1], predicted.to(z.dtype)], dim=2)
        told = torch.where(own[:, None, :, None, None], predicted, told)
    state = history_state(model, batch, mix(told, history_eps, tau), tau, before)
    if config.window_dropout > 0:
        keep = torch.rand(count, generator=generator) >= config.window_dropout
        state = without_window(state, keep.repeat_interleave(frames - 1))
    velocity = velocities(model, batch, mix(z, eps, sigma), sigma, state)
    squares = (velocity.float() - _frames_as_batch(eps - z, 2)).square().mean((2, 3, 4))  # (B (T-1), C)
    error = squares.mean(1) if weights is None else (squares * weights.to(squares.device)).mean(1)
    return WorldLoss(error.mean(), error.detach(), sigma[:, 1:].flatten() == 1)

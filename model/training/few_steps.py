"""Drawing in few steps, learned: one step of the student goes where many small ones of its teacher go.

The teacher is a world as the stage before left it, drawing in `path` equal Euler steps. It walks on its own
(own_walks.py); from the states of that walk, with new noise, its path from noise to a latent is followed, and
the student, which starts as a copy, learns the mean velocity between the levels at which it will stand:

    x <- temperature eps;   x <- x - v_teacher(x, s | state) / path, path times         no gradient
    loss = | w (v_student(x_s, s | state) - (x_s - x_s') / (s - s')) |^2,     s > s' neighbours in `levels`

The path from a noise to its latent is a function, so there is nothing to average and no haze to learn: what
one step cannot say is the curvature of the path (progressive distillation, Salimans & Ho, arXiv:2202.00512,
here in one go). A teacher that begins with less noise than it was trained on draws what is likelier, with
fewer specks; the student is given all of the noise and learns to do the same. The state is the student's
own, with gradient, because its weights write that state too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from wm_env.model.dit import DiT
from wm_env.model.training.losses.flow_matching import history_state, velocities
from wm_env.model.training.own_walks import OwnWalk, OwnWalkConfig


@dataclass(frozen=True, kw_only=True)
class FewStepConfig(OwnWalkConfig):
    """levels: noise levels of the student's steps, 1 down to 0, multiples of 1 / path. path: steps of the
    teacher. temperature: of the teacher's noise. reuse: training steps on one walk, each with other noise."""

    levels: tuple[float, ...] = (1.0, 0.75, 0.375, 0.0)
    path: int = 8
    temperature: float = 0.92
    reuse: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path < 1 or self.reuse < 1:
            raise ValueError(f"path={self.path} and reuse={self.reuse} must be at least 1")
        if not 0 < self.temperature <= 1:
            raise ValueError(f"temperature={self.temperature} must be in (0, 1]")
        whole = [level * self.path for level in self.levels]
        falling = all(level > after for level, after in pairwise(self.levels))
        ends = len(self.levels) > 1 and self.levels[0] == 1 and self.levels[-1] == 0
        if not falling or not ends or any(value != round(value) for value in whole):
            raise ValueError(
                f"levels={list(self.levels)} must fall from 1 to 0 in multiples of 1/path = 1/{self.path}"
            )


def equal_levels(path: int) -> tuple[float, ...]:
    """Return the noise levels of `path` equal steps, 1 down to 0."""
    return tuple((path - i) / path for i in range(path + 1))


def path_of(model: DiT, seen: OwnWalk, eps: Tensor, levels: Sequence[float]) -> list[Tensor]:
    """Return what a model makes of noise at every level: `(B, C, T, h, w)` each; frame 0 stays noise.

    Frames are drawn apart, each from the state that the walk's own latents left before it. With gradient,
    where one is asked for.
    """
    clean = torch.zeros(eps.shape[0], eps.shape[2], device=eps.device)
    state = history_state(model, seen.batch, seen.history, clean, seen.before)
    path = [eps]
    for level, after in pairwise(levels):
        velocity = velocities(model, seen.batch, path[-1], torch.full_like(clean, level), state)
        moved = path[-1].clone()
        moved[:, :, 1:] -= (level - after) * _as_clip(velocity.float(), eps.shape[0])
        path.append(moved)
    return path


def few_step_loss(
    student: DiT,
    teacher: DiT,
    seen: OwnWalk,
    config: FewStepConfig,
    eps: Tensor,
    choice: Tensor,
    weights: Tensor,
) -> Tensor:
    """Return the loss of a walk of the teacher.

    eps `(B, C, T, h, w)`: noise. choice `(B, T)` int64: which of the student's steps each frame is asked for.
    weights `(C,)`: w^2 of every channel.
    """
    fine = equal_levels(config.path)
    with torch.no_grad():
        path = torch.stack([eps, *path_of(teacher, seen, config.temperature * eps, fine)[1:]])
    at = torch.tensor([fine.index(level) for level in config.levels], device=eps.device)
    levels = torch.tensor(config.levels, device=eps.device)
    sigma, after = levels[choice], levels[choice + 1]  # (B, T)
    x, aim = _chosen(path, at[choice]), _chosen(path, at[choice + 1])
    wanted = (x - aim) / (sigma - after)[:, None, :, None, None]
    state = history_state(student, seen.batch, seen.history, torch.zeros_like(sigma), seen.before)
    velocity = velocities(student, seen.batch, x, sigma, state)
    squares = (_as_clip(velocity.float(), len(eps)) - wanted[:, :, 1:]).square().mean((2, 3, 4))  # (B, C)
    return (squares * weights.to(squares.device)).mean()


def _as_clip(frames: Tensor, count: int) -> Tensor:
    """Return frames `(B (T-1), C, 1, h, w)` as clips `(B, C, T-1, h, w)`."""
    return frames[:, :, 0].unflatten(0, (count, -1)).transpose(1, 2)


def _chosen(path: Tensor, index: Tensor) -> Tensor:
    """Return `(B, C, T, h, w)` of a path `(n, B, C, T, h, w)`, each frame of its own place `(B, T)` in it."""
    where = index[None, :, None, :, None, None].expand(1, *path.shape[1:])
    return path.gather(0, where)[0]

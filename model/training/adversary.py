"""Drawing in few steps what cannot be told from the truth: a judge beside the few-step loss.

A student that goes in few steps where its teacher went in many (few_steps.py) keeps what its teacher lacks
and loses some more. Here it draws whole frames from the states of its own walks, with gradient through all of
its steps, and a network that is trained beside it says which latents are of rendered rooms:

    x_S = the student's path from eps,    x_T = its teacher's from temperature eps   same noise and state
    L_student = k | w (x_S - x_T) |^2 + strength softplus(J(z) - J(x_S))
    L_judge   = softplus(J(x_S) - J(z)) + penalty / 2 (|grad J(z)|^2 + |grad J(x_S)|^2)

The first term ties every picture to its noise, its camera and what the memory shows, which the judge is not
told; k is 1 where the memory shows something and `loose` elsewhere. The second asks that floors, walls and
their contrast be those of true frames, of which z is the one at the same pose. Relativistic pairs and both
gradient penalties: Huang et al., arXiv:2501.05441. The judge sees the rays of every token, so that a ceiling
belongs where the camera looks up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from wm_env.model.dit import DiT
from wm_env.model.point_memory import TOKEN_STRIDE
from wm_env.model.state import cat
from wm_env.model.training.few_steps import FewStepConfig, equal_levels, path_of
from wm_env.model.training.losses.flow_matching import later_frames
from wm_env.model.training.own_walks import OwnWalk

STORED = 0.01  # deviation of a judge's stored weights: AdamW at rate r moves them by r / STORED of it a step
KEPT = 12  # steps whose pairs are kept for that
SHARE = 0.001  # weight of the judge's own loss: AdamW does not see it, the bound on the common gradient does


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig(FewStepConfig):
    """strength: of what the judge says, after `ramp` steps in which it grows from 0. loose: weight of the tie
    to the teacher where the memory shows nothing. penalty: of the judge's gradients. width: its channels.
    again: steps of the last `KEPT` whose pairs the judge is shown once more in every step."""

    reuse: int = 3
    strength: float = 0.1
    ramp: int = 60
    loose: float = 0.2
    penalty: float = 1.0
    width: int = 96
    again: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.ramp, self.width) < 1:
            raise ValueError(f"ramp and width of at least 1 are needed: {self}")
        if min(self.strength, self.penalty, self.again) < 0 or not 0 <= self.loose <= 1:
            raise ValueError(f"strength, penalty, again >= 0 and loose in [0, 1] are needed: {self}")

    def strength_at(self, step: int) -> float:
        """Return the strength of a step, 0 the first."""
        return self.strength * min(1.0, step / self.ramp)


class Convolution(nn.Module):
    """A 3 x 3 convolution whose stored weights have one deviation whatever its width."""

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2.0)) -> None:
        super().__init__()
        self.weight = nn.Parameter(STORED * torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(9 * inputs) / STORED

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=1)


class Block(nn.Module):
    """A residual block of two convolutions, the second of which starts small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(width, width), Convolution(width, width, gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))
        return x + added


class Judge(nn.Module):
    """Says of latents how true they look: higher for truer, differences alone matter.

    scale `(C,)`: the weight that every channel is seen with. rays: channels of a Plücker map.
    """

    scale: Tensor

    def __init__(self, scale: Tensor, rays: int, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.begin = Convolution(len(scale) + rays, width)
        self.fine = nn.Sequential(Block(width), Block(width))
        self.coarse = nn.Sequential(Block(width))
        self.end = Convolution(width, 1, gain=1.0)

    def forward(self, z: Tensor, rays: Tensor) -> Tensor:
        """Return a number `(n,)` for latents `(n, C, h, w)` seen along Plücker maps `(n, P, h, w)`."""
        x = self.begin(torch.cat([z * self.scale[:, None, None], rays], dim=1))
        x = self.coarse(F.avg_pool2d(self.fine(x), 2))
        told: Tensor = self.end(F.leaky_relu(x, 0.2)).mean((1, 2, 3))
        return told


class Pairs(NamedTuple):
    """Latents of true frames and drawn ones `(n, C, h, w)` at the same poses, and their Plücker maps."""

    real: Tensor
    fake: Tensor
    rays: Tensor


class AdversaryLoss(NamedTuple):
    """total: what is descended. pairs: what the judge was shown of this step. anchor, fooled: parts of the
    student's loss. right: share of pairs that the judge tells apart. slope: mean length of its gradient."""

    total: Tensor
    pairs: Pairs
    anchor: float
    fooled: float
    right: float
    slope: float


def adversary_loss(
    student: DiT,
    judge: Judge,
    teacher: DiT,
    seen: OwnWalk,
    config: AdversaryConfig,
    eps: Tensor,
    weights: Tensor,
    step: int,
    earlier: Sequence[Pairs] = (),
) -> AdversaryLoss:
    """Return the loss of both networks on a walk, in a step of the run.

    eps `(B, C, T, h, w)`: noise. weights `(C,)`: w^2 of every channel. earlier: pairs of steps before, which
    the judge is shown again. Its parameters get no gradient from the student's part.
    """
    with torch.no_grad():
        aim = path_of(teacher, seen, config.temperature * eps, equal_levels(config.path))[-1]
    drawn = path_of(student, seen, eps, config.levels)[-1]
    squares = torch.einsum("bcthw,c->bthw", (drawn - aim).square(), weights.to(drawn) / len(weights))
    tie = config.loose + (1 - config.loose) * shown(seen)
    anchor = (tie * squares)[:, 1:].mean()
    with torch.autocast(drawn.device.type, enabled=False):
        real, fake = later_frames(seen.batch.z).float(), later_frames(drawn).float()
        pairs = Pairs(real, fake.detach(), later_frames(seen.batch.camera.plucker).float())
        own, slope, right = judge_loss(judge, cat([pairs, *earlier]), config.penalty)
        given = {name: parameter.detach() for name, parameter in judge.named_parameters()}
        told = functional_call(judge, given, (torch.cat([real, fake]), pairs.rays.repeat(2, 1, 1, 1)))
        fooled = F.softplus(told[: len(real)] - told[len(real) :]).mean()
    total = anchor + config.strength_at(step) * fooled + SHARE * own
    return AdversaryLoss(total, pairs, float(anchor.detach()), float(fooled.detach()), right, slope)


def shown(seen: OwnWalk) -> Tensor:
    """Return the share `(B, T, h, w)` of every token's pixels that the memory shows; 0 without a memory."""
    z, memory = seen.batch.z, seen.batch.memory
    if memory is None:
        return torch.zeros_like(z[:, 0])
    mask = memory[..., -(TOKEN_STRIDE**2) :].mean(-1)  # (B, T, N), the last of the view's channels
    return mask.unflatten(-1, z.shape[-2:])


def judge_loss(judge: Judge, pairs: Pairs, penalty: float) -> tuple[Tensor, float, float]:
    """Return the judge's own loss, its mean slope and the share of pairs that it tells apart."""
    both = torch.cat([pairs.real, pairs.fake]).requires_grad_(True)
    told = judge(both, pairs.rays.repeat(2, 1, 1, 1))
    (gradient,) = torch.autograd.grad(told.sum(), both, create_graph=True)
    lengths = gradient.square().sum((1, 2, 3))  # (2n,)
    apart = told[: len(pairs.real)] - told[len(pairs.real) :]
    loss = F.softplus(-apart).mean() + penalty * lengths.mean()  # 1/2 of each of two means
    return loss, float(lengths.detach().sqrt().mean()), float((apart > 0).float().mean())

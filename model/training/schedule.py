"""How long a training is and how fast it learns: its declared length, where it stands, its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the loop needs to know.

    total_steps: declared length; the learning rate depends on the share of the run that is done (`done`).
    total_seconds: length in seconds of training beside it, None for no limit: what is over first counts. A
        run with one depends on the machine.
    lr, muon_lr: peak rates of AdamW and Muon; `slow_factor` scales lr for parameters ruled "slow".
    warmup_steps: linear warm-up; then constant for `constant_fraction` of the run, then linear to
        `final_lr_fraction` of the peak.
    ema_decay: limit of the exponential moving average (shorter at the start); 0 for none.
    microbatches: draws of the step function whose mean gradient is one step (distributed.py).
    eval_seconds: evaluate whenever so many seconds of training are over, beside `eval_every` steps.
    patience: after so many evaluations without a new best `val_loss` (by 0.2%) the rest of the constant part
        is left out and the rate falls; 0 never.
    """

    total_steps: int
    lr: float = 1e-3
    muon_lr: float = 1e-3
    slow_factor: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 50
    constant_fraction: float = 0.4
    final_lr_fraction: float = 0.02
    grad_clip: float = 1.0
    ema_decay: float = 0.998
    seed: int = 0
    microbatches: int = 1
    log_every: int = 20
    eval_every: int = 500
    save_every_seconds: float = 120.0
    total_seconds: float | None = None
    eval_seconds: float | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("total_steps", "log_every", "eval_every", "microbatches"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must not be negative")
        for name in ("total_seconds", "eval_seconds"):
            value = self.__dict__[name]
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive, or None")
        if not 0 <= self.constant_fraction <= 1 or not 0 <= self.ema_decay < 1 or self.lr <= 0:
            raise ValueError(f"constant_fraction in [0,1], ema_decay in [0,1) and lr > 0 are needed: {self}")


class Clock(NamedTuple):
    """Where a run stands. step: steps taken; seconds: of training; skipped: share of the schedule left out;
    warm_from: step at which the optimizers began without moments."""

    step: int = 0
    seconds: float = 0.0
    skipped: float = 0.0
    warm_from: int = 0

    def done(self, config: LoopConfig) -> float:
        """Return the share of the run that is over, by steps or by seconds, 1 at its end."""
        by_time = self.seconds / config.total_seconds if config.total_seconds else 0.0
        return max(self.step / config.total_steps, by_time) + self.skipped


class Plateau(NamedTuple):
    """Whether the held-out loss still falls. best: the lowest; worse: evaluations since it was reached."""

    best: float = math.inf
    worse: int = 0

    def after(self, metrics: Mapping[str, float], clock: Clock, config: LoopConfig) -> tuple[Plateau, Clock]:
        """Return both after an evaluation: `LoopConfig.patience` worse ones end the constant part."""
        if not config.patience or "val_loss" not in metrics:
            return self, clock
        better = metrics["val_loss"] < 0.998 * self.best
        found = Plateau(metrics["val_loss"] if better else self.best, 0 if better else self.worse + 1)
        left = config.constant_fraction - clock.done(config)
        if found.worse >= config.patience and left > 0:
            clock = clock._replace(skipped=clock.skipped + left)
        return found, clock


def lr_scale(clock: Clock, config: LoopConfig) -> float:
    """Return the factor on the peak learning rate: warm-up, constant, linear decay."""
    warm = min(1.0, (clock.step - clock.warm_from + 1) / max(1, config.warmup_steps))
    done = clock.done(config)
    if done <= config.constant_fraction:
        return warm
    left = (1 - done) / max(1e-9, 1 - config.constant_fraction)
    return warm * (config.final_lr_fraction + (1 - config.final_lr_fraction) * max(0.0, left))

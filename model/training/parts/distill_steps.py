"""One step of distillation on rollouts of the student: what `distill.py` repeats.

`Distillation` says how, `DistillationContext` holds what is not trained, `ode_step` and `dmd_step` return the
losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wm_env.model.data.latents import LatentClip, LatentShards
from wm_env.model.dit import DiT
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.text import HashTextEncoder, TextTokens
from wm_env.model.training.batches import WorldBatch
from wm_env.model.training.losses.distillation import (
    add_noise,
    clean_state,
    last_step,
    matching_loss,
    ode_loss,
    own_path,
    rollout_noise,
    seen_clean,
    student_levels,
    teacher_sees,
    velocity,
    weighted_square,
)
from wm_env.model.training.parts.self_forcing import roll_out_latents, true_batch
from wm_env.model.training.precision import bf16_supported
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.transformer import channel_weights

Method = Literal["ode", "dmd"]
METHODS: tuple[Method, ...] = ("ode", "dmd")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What is distilled and how.

    steps: K. shift: of the noise levels (see `student_levels`). teacher_steps: Euler steps of the teacher, a
    multiple of K (ode, and the held-out gap to the teacher). batch, frames: clips per step and latent
    frames per clip, the start included. student_every: dmd trains the student in one of so many
    steps, its score network in all. guidance: text guidance of the teacher's score. score_shift: of the
    noise levels at which scores are compared. In dmd the score network learns at `loop.slow_factor`.
    """

    method: Method
    loop: LoopConfig
    steps: int = 1
    shift: float = 2.0
    teacher_steps: int = 4
    batch: int = 4
    frames: int = 13
    student_every: int = 5
    guidance: float = 1.0
    score_shift: float = 2.0
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose one of {METHODS}")
        if min(self.batch, self.student_every) < 1 or self.frames < 2:
            raise ValueError(f"batch, student_every >= 1 and frames >= 2 are needed: {self}")
        if self.guidance < 0 or not self.score_shift > 0:
            raise ValueError(f"guidance >= 0 and score_shift > 0 are needed: {self}")
        if self.teacher_steps < 1 or self.teacher_steps % len(self.levels[1:]):
            raise ValueError(f"teacher_steps={self.teacher_steps} must be a multiple of steps={self.steps}")

    @property
    def levels(self) -> tuple[float, ...]:
        """Noise levels of the student, 1 to 0."""
        return student_levels(self.steps, self.shift)

    @property
    def teacher_levels(self) -> tuple[float, ...]:
        """Noise levels of the teacher; the student's are among them."""
        return student_levels(self.teacher_steps, self.shift)


class StudentAndCritic(nn.Module):
    """The student and, for dmd, the score network of its outputs, as one module of one resumable run."""

    def __init__(self, student: DiT, fake: DiT | None) -> None:
        super().__init__()
        self.student, self.fake = student, fake


class DistillationContext:
    """What a run holds beside its weights: the frozen teacher, worlds around the student, and the data.

    `worlds[k]` is the student's world whose sampler stops after k + 1 steps; the last is the whole one.
    """

    def __init__(
        self,
        world: LearnedWorld,
        networks: StudentAndCritic,
        teacher: DiT,
        shards: LatentShards,
        config: Distillation,
    ) -> None:
        self.config, self.teacher, self.shards = config, teacher, shards
        levels = config.levels
        cuts = [(*levels[: k + 1], 0.0) for k in range(config.steps)]
        self.worlds = [with_sampler(world, networks.student, SamplerConfig(sigmas=cut)) for cut in cuts]
        encoder = HashTextEncoder(width=teacher.cfg.caption_channels)
        self.captions: TextTokens = encoder.encode(shards.captions)
        self.weights = channel_weights(world.vae, torch.from_numpy(shards.z[:16, 1]).float())

    def roll_out(
        self, world: LearnedWorld, sample: LatentClip, seeds: list[int]
    ) -> tuple[Tensor, WorldBatch]:
        """Return the latents `(B, C, T, h, w)` that `world` makes of the clips, and their conditioning."""
        own = roll_out_latents(world, sample.clip, self.shards.captions, seeds)
        return own.z, true_batch(sample, own, self.captions)

    def draw(self, generator: torch.Generator) -> tuple[LatentClip, list[int]]:
        """Return windows of random clips from anywhere in them, and a noise seed for each."""

        def integer(high: int) -> list[int]:
            drawn: list[int] = torch.randint(high, (self.config.batch,), generator=generator).tolist()
            return drawn

        clips, first = integer(len(self.shards)), integer(self.shards.groups - self.config.frames + 1)
        return self.shards.read(clips, first, self.config.frames), integer(2**31)


def with_sampler(world: LearnedWorld, dit: DiT, sampler: SamplerConfig) -> LearnedWorld:
    """Return the world with another transformer and sampler around the same other parts."""
    return LearnedWorld(
        spec=world.spec, dit=dit, vae=world.vae, refiner=world.refiner, text=world.text, sampler=sampler
    )


def ode_step(
    networks: StudentAndCritic, setting: DistillationContext, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one step of ODE regression."""
    config = setting.config
    sample, seeds = setting.draw(generator)
    own, batch = setting.roll_out(setting.worlds[-1], sample, seeds)
    with _precision(config):
        loss = ode_loss(
            networks.student,
            setting.teacher,
            batch,
            own,
            config.levels,
            config.teacher_levels,
            generator,
            setting.weights,
        )
    return loss, {}


def dmd_step(
    networks: StudentAndCritic, setting: DistillationContext, generator: torch.Generator, number: int
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one step of distribution matching: of both networks, or of the score alone."""
    assert networks.fake is not None
    config, weights = setting.config, setting.weights
    steps = int(torch.randint(1, config.steps + 1, (), generator=generator))
    world = setting.worlds[steps - 1]
    sample, seeds = setting.draw(generator)
    own, batch = setting.roll_out(world, sample, seeds)
    scored = add_noise(own, config.score_shift, generator)
    with _precision(config):
        state = clean_state(networks.fake, batch, own)
        v = velocity(networks.fake, batch, scored.noisy, scored.sigma, state)
        fake_loss = weighted_square(v - (scored.eps - own), weights)
        metrics = {"fake": float(fake_loss.detach())}
        if number % config.student_every:
            return fake_loss, metrics
        real = teacher_sees(setting.teacher, batch, own, scored, config.guidance)
        x = last_step(networks.student, batch, own, rollout_noise(seeds, own), world.sampler.sigmas)
        loss = matching_loss(x, seen_clean(scored, v.detach()), real, weights)
    return fake_loss + loss, {**metrics, "match": float(loss.detach())}


def _precision(config: Distillation) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.bf16 and bf16_supported(torch.device("cpu")))


@torch.no_grad()
def teacher_gap(setting: DistillationContext, student: DiT, clips: int = 8) -> float:
    """Return how far the student ends from the teacher on held-out clips, of the same noise and true history.

    Mean weighted square of the difference of latents; the start of every clip, up to `frames`.
    """
    count = min(clips, len(setting.shards))
    sample = setting.shards.read(range(count), [0] * count, setting.config.frames)
    own, batch = setting.roll_out(setting.worlds[-1], sample, list(range(count)))
    noise = rollout_noise(range(count), own)
    ends = []
    for dit, walked in ((student, setting.config.levels), (setting.teacher, setting.config.teacher_levels)):
        ends.append(own_path(dit, batch, noise, clean_state(dit, batch, batch.z), walked)[-1])
    return float(weighted_square(ends[0] - ends[1], setting.weights))

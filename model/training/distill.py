"""Distillation: a world of fewer denoising steps from a world of many.

    teacher --ode--> student of K steps --dmd--> student of K steps

Every training step rolls the student out along true starts, cameras and prompts through the very `rollout.py`
that the environment uses, and corrects it on that rollout by one of the losses of `distill_losses.py`:

    ode   regression onto the ends of the teacher's Euler paths
    dmd   matching of distributions: a second network learns the score of the student's outputs beside it, and
          every `student_every`-th step moves the student to where the frozen teacher's score says

In dmd a rollout ends its denoising after a random number k <= K of steps, the last of which jumps to the
clean frame: it is the rollout of the sampler (s_0 .. s_{k-1}, 0). Nothing is taken from the true latents.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wm_env.model.checkpoint import load_checkpoint, load_into, save_checkpoint
from wm_env.model.data.latents import LatentClip, LatentShards
from wm_env.model.dit import DiT
from wm_env.model.embedded import load_world, world_path, write_parts
from wm_env.model.rollout import LearnedWorld, SamplerConfig
from wm_env.model.text import HashTextEncoder, TextTokens
from wm_env.model.training.distill_losses import (
    add_noise,
    clean_state,
    euler_path,
    finer_levels,
    last_step,
    matching_loss,
    ode_loss,
    rollout_noise,
    seen_clean,
    student_levels,
    teacher_sees,
    velocity,
    weighted_square,
)
from wm_env.model.training.flow_matching import WorldBatch, channel_weights, parameter_rule
from wm_env.model.training.loop import LoopConfig, Report, Rule, Run
from wm_env.model.training.self_forcing import evaluate as evaluate_rollouts
from wm_env.model.training.self_forcing import roll_out_latents, true_batch
from wm_env.model.training.vae import bf16_supported
from wm_env.model.training.world import export_world

Method = Literal["ode", "dmd"]
METHODS: tuple[Method, ...] = ("ode", "dmd")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What is distilled and how.

    steps: K. shift: of the student's levels (see `student_levels`). substeps: the teacher's Euler steps
    within each of the student's (ode, and the held-out gap to the teacher). batch, frames: clips per step
    and latent frames per clip, the start included. student_every: dmd trains the student in one of so many
    steps, its score network in all. guidance: text guidance of the teacher's score. score_shift: of the
    noise levels at which scores are compared. In dmd the score network learns at `loop.slow_factor`.
    """

    method: Method
    loop: LoopConfig
    steps: int = 1
    shift: float = 2.0
    substeps: int = 4
    batch: int = 4
    frames: int = 13
    student_every: int = 5
    guidance: float = 1.0
    score_shift: float = 2.0
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose one of {METHODS}")
        if min(self.batch, self.substeps, self.student_every) < 1 or self.frames < 2:
            raise ValueError(f"batch, substeps, student_every >= 1 and frames >= 2 are needed: {self}")
        if self.guidance < 0 or not self.score_shift > 0:
            raise ValueError(f"guidance >= 0 and score_shift > 0 are needed: {self}")
        student_levels(self.steps, self.shift)

    @property
    def levels(self) -> tuple[float, ...]:
        return student_levels(self.steps, self.shift)


def preset(name: str, method: Method, steps: int = 1) -> Distillation:
    """Return the distillation named `tiny` (minutes on one core) or `smoke` (seconds, for tests)."""
    if name == "tiny" and method == "ode":
        loop = LoopConfig(
            total_steps=200, lr=3e-4, muon_lr=3e-4, warmup_steps=10, constant_fraction=0.5, ema_decay=0.98,
            log_every=10, eval_every=100,
        )  # fmt: skip
        return Distillation(method=method, steps=steps, loop=loop)
    if name == "tiny":
        loop = LoopConfig(
            total_steps=300, lr=1e-4, slow_factor=1.0, betas=(0.0, 0.999), weight_decay=0.0, warmup_steps=10,
            constant_fraction=1.0, grad_clip=10.0, ema_decay=0.98, log_every=10, eval_every=100,
        )  # fmt: skip
        return Distillation(method=method, steps=steps, loop=loop)
    if name == "smoke":
        rate, total = (2e-3, 12) if method == "ode" else (1e-3, 20)
        loop = LoopConfig(
            total_steps=total, lr=rate, muon_lr=rate, slow_factor=3.0, betas=(0.0, 0.999), warmup_steps=2,
            log_every=4, eval_every=total, constant_fraction=1.0, grad_clip=10.0, ema_decay=0.6,
        )  # fmt: skip
        return Distillation(
            method=method, steps=steps, loop=loop, batch=2, frames=4, substeps=3, student_every=2, bf16=False
        )
    raise ValueError(f"unknown preset {name!r}; there are tiny and smoke")


class Pupil(nn.Module):
    """The student and, for dmd, the score network of its outputs, as one module of one resumable run."""

    def __init__(self, student: DiT, fake: DiT | None) -> None:
        super().__init__()
        self.student, self.fake = student, fake


class Lesson:
    """What a run holds beside its weights: the frozen teacher, worlds around the student, and the data.

    `worlds[k]` is the student's world whose sampler stops after k + 1 steps; the last is the whole one.
    """

    def __init__(
        self, world: LearnedWorld, pupil: Pupil, teacher: DiT, shards: LatentShards, config: Distillation
    ) -> None:
        self.config, self.teacher, self.shards = config, teacher, shards
        levels = config.levels
        cuts = [(*levels[: k + 1], 0.0) for k in range(config.steps)]
        self.worlds = [with_sampler(world, pupil.student, SamplerConfig(sigmas=cut)) for cut in cuts]
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


def ode_step(pupil: Pupil, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one step of ODE regression."""
    config = lesson.config
    sample, seeds = lesson.draw(generator)
    own, batch = lesson.roll_out(lesson.worlds[-1], sample, seeds)
    with _precision(config):
        loss = ode_loss(
            pupil.student,
            lesson.teacher,
            batch,
            own,
            config.levels,
            config.substeps,
            generator,
            lesson.weights,
        )
    return loss, {}


def dmd_step(
    pupil: Pupil, lesson: Lesson, generator: torch.Generator, number: int
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one step of distribution matching: of both networks, or of the score alone."""
    assert pupil.fake is not None
    config, weights = lesson.config, lesson.weights
    steps = int(torch.randint(1, config.steps + 1, (), generator=generator))
    world = lesson.worlds[steps - 1]
    sample, seeds = lesson.draw(generator)
    own, batch = lesson.roll_out(world, sample, seeds)
    scored = add_noise(own, config.score_shift, generator)
    with _precision(config):
        state = clean_state(pupil.fake, batch, own)
        v = velocity(pupil.fake, batch, scored.noisy, scored.sigma, state)
        fake_loss = weighted_square(v - (scored.eps - own), weights)
        metrics = {"fake": float(fake_loss.detach())}
        if number % config.student_every:
            return fake_loss, metrics
        real = teacher_sees(lesson.teacher, batch, own, scored, config.guidance)
        x = last_step(pupil.student, batch, own, rollout_noise(seeds, own), world.sampler.sigmas)
        loss = matching_loss(x, seen_clean(scored, v.detach()), real, weights)
    return fake_loss + loss, {**metrics, "match": float(loss.detach())}


def _precision(config: Distillation) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.bf16 and bf16_supported(torch.device("cpu")))


@torch.no_grad()
def teacher_gap(lesson: Lesson, student: DiT, clips: int = 8) -> float:
    """Return how far the student ends from the teacher on held-out clips, of the same noise and true history.

    Mean weighted square of the difference of latents; the start of every clip, up to `frames`.
    """
    count = min(clips, len(lesson.shards))
    sample = lesson.shards.read(range(count), [0] * count, lesson.config.frames)
    own, batch = lesson.roll_out(lesson.worlds[-1], sample, list(range(count)))
    noise = rollout_noise(range(count), own)
    levels = lesson.config.levels
    ends = []
    for dit, walked in ((student, levels), (lesson.teacher, finer_levels(levels, lesson.config.substeps))):
        ends.append(euler_path(dit, batch, noise, clean_state(dit, batch, batch.z), walked)[-1])
    return float(weighted_square(ends[0] - ends[1], lesson.weights))


def load_teacher(teacher: Path, world: Path | None) -> tuple[LearnedWorld, Path, str]:
    """Return the teacher's world, the path of that world, and the SHA-256 of the teacher's weights.

    teacher: a preset, a world folder, or a `dit.safetensors`, which takes its other parts from `world`.
    """
    if (teacher.suffix == ".safetensors") != (world is not None):
        raise ValueError(
            f"teacher {teacher} and world {world}: a dit.safetensors needs a world for its other parts, "
            "a world folder takes none"
        )
    where = teacher if world is None else world
    loaded, sha = load_world(where), load_checkpoint(world_path(where))[1]["sha256"]
    if world is not None:
        tensors, card = load_checkpoint(teacher)
        load_into(loaded.dit, tensors, str(teacher))
        sha = card["sha256"]
    return loaded, where, sha


def distill(
    *,
    data: Path,
    latents: Path,
    teacher: Path,
    out: Path,
    config: Distillation,
    world: Path | None = None,
    init: Path | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    report: Report | None = None,
) -> Run:
    """Train a slice of a run and return it; write `out/dit.safetensors` and `out/world`, a world folder.

    data, latents: folders with `train/` and `val/`, latents made by the teacher's autoencoder. teacher,
    world: see `load_teacher`. init: a `dit.safetensors` that the student starts from (dmd after ode) instead
    of from the teacher; the score network always starts from the teacher.
    """
    loaded, parts, teacher_sha = load_teacher(teacher, world)
    vae_sha = load_checkpoint(world_path(parts))[1]["parts"]["vae"]["sha256"]
    shards, val = (LatentShards(data / split, latents / split, vae_sha) for split in ("train", "val"))
    if config.frames > shards.groups:
        raise ValueError(f"frames={config.frames} are more than the clips' {shards.groups} latent frames")
    master = loaded.dit
    student, fake = copy.deepcopy(master), copy.deepcopy(master) if config.method == "dmd" else None
    init_sha = None
    if init is not None:
        tensors, card = load_checkpoint(init)
        load_into(student, tensors, str(init))
        init_sha = card["sha256"]
    pupil = Pupil(student, fake)
    pupil.requires_grad_(True)
    lesson = Lesson(loaded, pupil, master, shards, config)
    held_out = Lesson(loaded, pupil, master, val, config)

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        with sdpa_kernel([SDPBackend.MATH]):
            if config.method == "ode":
                return ode_step(pupil, lesson, generator)
            return dmd_step(pupil, lesson, generator, number)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {"gap": teacher_gap(held_out, student), **evaluate_rollouts(held_out.worlds[-1], val)}

    sampler = held_out.worlds[-1].sampler
    run = Run(
        model=pupil,
        step_fn=step,
        config=config.loop,
        out=out,
        settings={
            **{key: value for key, value in asdict(config).items() if key != "loop"},
            "sampler": asdict(sampler),
            "dit": asdict(student.cfg),
            "teacher": {"world": loaded.spec.name, "sha256": teacher_sha, "sigmas": loaded.sampler.sigmas},
            "vae_sha256": vae_sha,
            "init_sha256": init_sha,
        },
        evaluate=evaluate,
        rule=_rule(config.method),
    )
    run.advance(seconds=seconds, steps=steps, report=report)
    weights = run.ema_weights()
    prefix = "student."
    tensors = {n.removeprefix(prefix): tensor for n, tensor in weights.items() if n.startswith(prefix)}
    save_checkpoint(out / "dit.safetensors", tensors, {"part": "dit", **run.card()})
    _export(
        loaded, parts, f"{config.steps}step", sampler, out / "world", out / "dit.safetensors", run.metrics
    )
    return run


def export_undistilled(world: Path, steps: int, out: Path, shift: float = 2.0) -> None:
    """Write the world folder `out`: `world` itself with that many Euler steps, for comparison."""
    sampler = SamplerConfig(sigmas=student_levels(steps, shift))
    _export(load_world(world), world, f"{steps}euler", sampler, out, None, {})


def _export(
    loaded: LearnedWorld,
    world: Path,
    suffix: str,
    sampler: SamplerConfig,
    out: Path,
    dit: Path | None,
    metrics: dict[str, float],
) -> None:
    """Write the parts of `world` as the world folder `out`, with another transformer if `dit` is given."""
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(world, Path(folder))
        export_world(
            name=f"{loaded.spec.name}-{suffix}", dit=dit or parts["dit"], vae=parts["vae"],
            refiner=parts.get("refiner"), out=out, sampler=sampler,
            trained_steps=loaded.spec.trained_steps, metrics=metrics,
        )  # fmt: skip


def _rule(method: Method) -> Callable[[str, nn.Parameter], Rule]:
    """Return who trains what: decays stay as the teacher's; the matrices of an ode student go to Muon."""

    def rule(name: str, parameter: nn.Parameter) -> Rule:
        if name.startswith("fake."):
            return "slow"
        found = parameter_rule(name.removeprefix("student."), parameter)
        if found == "slow":
            return "frozen"
        return found if method == "ode" else "adamw"

    return rule

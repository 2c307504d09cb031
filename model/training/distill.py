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
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wm_env.model.data.latents import LatentShards
from wm_env.model.embedded import latents_of, load_embedded, world_path, write_parts
from wm_env.model.rollout import LearnedWorld, SamplerConfig
from wm_env.model.storage.checkpoint import load_checkpoint, load_into, save_checkpoint
from wm_env.model.training.distill_losses import student_levels
from wm_env.model.training.distill_steps import (
    Distillation,
    Lesson,
    Method,
    Pupil,
    dmd_step,
    ode_step,
    teacher_gap,
)
from wm_env.model.training.flow_matching import parameter_rule
from wm_env.model.training.loop import LoopConfig, Report, Rule, Run
from wm_env.model.training.self_forcing import evaluate as evaluate_rollouts
from wm_env.model.training.world import export_world


def preset(name: str, method: Method, steps: int = 1, teacher_steps: int = 4) -> Distillation:
    """Return the distillation named `tiny` (minutes on one core) or `smoke` (seconds, for tests)."""
    if name == "tiny" and method == "ode":
        loop = LoopConfig(
            total_steps=200, lr=3e-4, muon_lr=3e-4, warmup_steps=10, constant_fraction=0.5, ema_decay=0.98,
            log_every=10, eval_every=100,
        )  # fmt: skip
        return Distillation(method=method, steps=steps, teacher_steps=teacher_steps, loop=loop)
    if name == "tiny":
        loop = LoopConfig(
            total_steps=200, lr=3e-5, slow_factor=4.0, betas=(0.9, 0.999), weight_decay=0.0, warmup_steps=10,
            constant_fraction=1.0, grad_clip=10.0, ema_decay=0.98, log_every=10, eval_every=100,
        )  # fmt: skip
        return Distillation(method=method, steps=steps, teacher_steps=teacher_steps, loop=loop)
    if name == "smoke":
        rate, total = (2e-3, 12) if method == "ode" else (1e-3, 20)
        loop = LoopConfig(
            total_steps=total, lr=rate, muon_lr=rate, slow_factor=3.0, betas=(0.0, 0.999), warmup_steps=2,
            log_every=4, eval_every=total, constant_fraction=1.0, grad_clip=10.0, ema_decay=0.6,
        )  # fmt: skip
        return Distillation(
            method=method,
            steps=steps,
            teacher_steps=teacher_steps,
            loop=loop,
            batch=2,
            frames=4,
            student_every=2,
            bf16=False,
        )
    raise ValueError(f"unknown preset {name!r}; there are tiny and smoke")


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
    loaded, sha = load_embedded(where), load_checkpoint(world_path(where))[1]["sha256"]
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
    accepted = latents_of(parts)
    shards, val = (LatentShards(data / split, latents / split, *accepted) for split in ("train", "val"))
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
            "vae_sha256": accepted[0],
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
    _export(load_embedded(world), world, f"{steps}euler", sampler, out, None, {})


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

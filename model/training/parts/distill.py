"""Distillation: a world of fewer denoising steps from a world of many.

    teacher --ode--> student of K steps --dmd--> student of K steps

Every training step rolls the student out along true starts, cameras and prompts through the very `rollout.py`
that the environment uses, and corrects it on that rollout by one of the losses of `losses/distillation.py`:

    ode   regression onto the ends of the teacher's Euler paths
    dmd   matching of distributions: a second network learns the score of the student's outputs beside it, and
          every `student_every`-th step moves the student to where the frozen teacher's score says

In dmd a rollout ends its denoising after a random number k <= K of steps, the last of which jumps to the
clean frame: it is the rollout of the sampler (s_0 .. s_{k-1}, 0). Nothing is taken from the true latents.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wm_env.model.data.latents import LatentShards
from wm_env.model.embedded import latents_of, load_embedded, world_path
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.storage.checkpoint import load_checkpoint, load_into
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.distillation import student_levels
from wm_env.model.training.optimizers import ParameterGroup
from wm_env.model.training.parts.distill_steps import (
    Distillation,
    DistillationContext,
    Method,
    StudentAndCritic,
    dmd_step,
    ode_step,
    teacher_gap,
)
from wm_env.model.training.parts.self_forcing import evaluate as evaluate_rollouts
from wm_env.model.training.run import Run
from wm_env.model.training.transformer import parameter_rule
from wm_env.model.training.world_folder import export_changed


def check(config: Distillation, inputs: Inputs) -> None:
    """Raise `ValueError` for inputs that do not go with the training."""
    if inputs.teacher is not None:
        _goes_with(inputs.teacher, inputs.world)
    elif inputs.world is not None:
        raise ValueError(
            f"--world {inputs.world} has the other parts of a --teacher dit.safetensors; give it"
        )
    if config.method == "ode" and config.guidance != 1.0:
        raise ValueError(f"guidance={config.guidance} is of the score that dmd matches; use a dmd preset")


def _goes_with(teacher: Path, world: Path | None) -> None:
    if (teacher.suffix == ".safetensors") != (world is not None):
        raise ValueError(
            f"teacher {teacher} and world {world}: a dit.safetensors needs a world for its other parts, "
            "a world folder takes none"
        )


def load_teacher(teacher: Path, world: Path | None) -> tuple[LearnedWorld, Path, str]:
    """Return the teacher's world, the path of that world, and the SHA-256 of the teacher's weights.

    teacher: a preset, a world folder, or a `dit.safetensors`, which takes its other parts from `world`.
    """
    _goes_with(teacher, world)
    where = teacher if world is None else world
    loaded, sha = load_embedded(where), load_checkpoint(world_path(where))[1]["sha256"]
    if world is not None:
        tensors, card = load_checkpoint(teacher)
        load_into(loaded.dit, tensors, str(teacher))
        sha = card["sha256"]
    return loaded, where, sha


def build(config: Distillation, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves `dit.safetensors` and the student's world.

    inputs: `data`, and `latents` made by the teacher's autoencoder; `teacher` and `world`, see
    `load_teacher`; `init`, a `dit.safetensors` that the student starts from (dmd after ode) instead of from
    the teacher; the score network always starts from the teacher.
    """
    data, latents, out = inputs.need("data"), inputs.need("latents"), resources.out
    loaded, parts, teacher_sha = load_teacher(inputs.need("teacher"), inputs.world)
    accepted = latents_of(parts)
    shards, val = (LatentShards(data / split, latents / split, *accepted) for split in ("train", "val"))
    if config.frames > shards.groups:
        raise ValueError(f"frames={config.frames} are more than the clips' {shards.groups} latent frames")
    master = loaded.dit
    student, fake = copy.deepcopy(master), copy.deepcopy(master) if config.method == "dmd" else None
    init_sha = None
    if inputs.init is not None:
        tensors, card = load_checkpoint(inputs.init)
        load_into(student, tensors, str(inputs.init))
        init_sha = card["sha256"]
    networks = StudentAndCritic(student, fake)
    networks.requires_grad_(True)
    setting = DistillationContext(loaded, networks, master, shards, config)
    held_out = DistillationContext(loaded, networks, master, val, config)

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        with sdpa_kernel([SDPBackend.MATH]):
            if config.method == "ode":
                return ode_step(networks, setting, generator)
            return dmd_step(networks, setting, generator, number)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {"gap": teacher_gap(held_out, student), **evaluate_rollouts(held_out.worlds[-1], val)}

    sampler = held_out.worlds[-1].sampler

    def leave(weights: Path, metrics: Mapping[str, float]) -> None:
        name = f"{loaded.spec.name}-{config.steps}step"
        changed = {"dit": weights}
        export_changed(parts, changed, name=name, out=out / "world", sampler=sampler, metrics=metrics)

    return Run(
        model=networks,
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
        export=Export(name="dit", change=students, entries={"part": "dit"}, world=leave),
    )


def students(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the student's weights, by the names of a transformer."""
    prefix = "student."
    return {n.removeprefix(prefix): tensor for n, tensor in weights.items() if n.startswith(prefix)}


def export_undistilled(world: Path, steps: int, out: Path, shift: float = 2.0) -> None:
    """Write the world folder `out`: `world` itself with that many Euler steps, for comparison."""
    sampler = SamplerConfig(sigmas=student_levels(steps, shift))
    export_changed(world, {}, name=f"{load_embedded(world).spec.name}-{steps}euler", out=out, sampler=sampler)


def _rule(method: Method) -> Callable[[str, nn.Parameter], ParameterGroup]:
    """Return who trains what: decays stay as the teacher's; the matrices of an ode student go to Muon."""

    def rule(name: str, parameter: nn.Parameter) -> ParameterGroup:
        if name.startswith("fake."):
            return "slow"
        found = parameter_rule(name.removeprefix("student."), parameter)
        if found == "slow":
            return "frozen"
        return found if method == "ode" else "adamw"

    return rule

"""`wm-env train distill`: a world of fewer denoising steps from a world of many."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wm_env.cli.train import _bar, _run_folder, _summary


@dataclass(frozen=True, kw_only=True)
class TrainDistill:
    """Train a student that takes few denoising steps; OUT/dit.safetensors, and OUT/world to load.

    First --method ode, then, from its result (--init), --method dmd.
    """

    data: Path
    """Folder with train/ and val/ clips."""
    latents: Path
    """Folder with their latents (`wm-env train latents`), made by the teacher's autoencoder."""
    teacher: Path
    """World preset, world folder, or a dit.safetensors (then give --world)."""
    out: Path
    """Run folder: losses, state, weights, card, world."""
    world: Path | None = None
    """World preset or folder with the other parts of a teacher that is a dit.safetensors."""
    init: Path | None = None
    """dit.safetensors that the student starts from; the teacher by default."""
    denoising_steps: Literal[4, 2, 1] = 1
    """Network calls a chunk that the student takes."""
    teacher_steps: int = 4
    """Network calls a chunk that the teacher takes; a multiple of the student's."""
    method: Literal["ode", "dmd"] = "ode"
    """ode: regression onto the teacher's paths; dmd: matching of distributions on the student's rollouts."""
    preset: Literal["tiny", "smoke"] = "tiny"
    """tiny: 10 to 30 minutes on one CPU core; smoke: seconds."""
    total_steps: int | None = None
    """Declared length; the learning rate depends on it. The preset's by default."""
    learning_rate: float | None = None
    """Peak rate; the preset's by default."""
    guidance: float = 1.0
    """Text guidance of the teacher's score (dmd)."""
    steps: int | None = None
    """Stop after this many training steps."""
    seconds: float | None = None
    """Stop after this many seconds; continue later with --resume."""
    seed: int = 0
    """Seed of batches and noise."""
    resume: bool = False
    """Continue the run in OUT."""
    threads: int = 1
    """CPU threads; two processes are faster than one with two."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        from wm_env.model.training import distill

        if self.method == "ode" and self.guidance != 1.0:
            raise ValueError(f"guidance={self.guidance} belongs to --method dmd")
        _run_folder(self.out, self.resume)
        torch.set_num_threads(self.threads)
        config = distill.preset(self.preset, self.method, self.denoising_steps, self.teacher_steps)
        loop = dataclasses.replace(config.loop, seed=self.seed)
        if self.total_steps is not None:
            loop = dataclasses.replace(loop, total_steps=self.total_steps)
        if self.learning_rate is not None:
            loop = dataclasses.replace(loop, lr=self.learning_rate, muon_lr=self.learning_rate)
        run = distill.distill(
            data=self.data,
            latents=self.latents,
            teacher=self.teacher,
            world=self.world,
            init=self.init,
            out=self.out,
            config=dataclasses.replace(config, guidance=self.guidance, loop=loop),
            seconds=self.seconds,
            steps=self.steps,
            report=_bar("step"),
        )
        return _summary(run, self.out)

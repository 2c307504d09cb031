"""Distillation: the rollout's own frames get the gradient, losses point the right way, students load."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from wm_env.model.data.latents import LatentShards
from wm_env.model.embedded import load_embedded, write_parts
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.storage.checkpoint import load_checkpoint, load_into, save_checkpoint
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.distillation import (
    add_noise,
    last_step,
    matching_loss,
    rollout_noise,
    student_levels,
)
from wm_env.model.training.parts.distill import export_undistilled
from wm_env.model.training.parts.distill_steps import DistillationContext, StudentAndCritic, teacher_gap
from wm_env.model.training.table import preset, train
from wm_env.model.training.world_folder import export_world

SMOKE_GAP = 0.011  # weighted square to the ends of 6 steps: 0.0130 of the teacher's own 2, 0.0092 after
SMOKE_MATCHED = 0.2  # the same, of a student that is off: 0.36 before
CLOSE = 2e-4  # a frame computed alone against one of a batch, float32


@pytest.fixture(scope="module")
def teacher(clips: Path, latents: Path, vae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world folder of a finished smoke training."""
    out, vae = tmp_path_factory.mktemp("teacher"), vae_run / "vae.safetensors"
    inputs = Inputs(data=clips, latents=latents, vae=vae)
    train("world", preset("world", "smoke"), inputs, Resources(out=out / "run"))
    export_world(
        name="teacher", dit=out / "run" / "dit.safetensors", vae=vae, refiner=None,
        out=out / "world", sampler=SamplerConfig(), trained_steps=3,
    )  # fmt: skip
    return out / "world"


def setting_of(
    teacher: Path, clips: Path, latents: Path, vae_run: Path, split: str = "train"
) -> DistillationContext:
    """The setting of a student of two steps that is still its teacher."""
    world = load_embedded(teacher)
    sha = load_vae(vae_run / "vae.safetensors")[1]["sha256"]
    shards = LatentShards(clips / split, latents / split, sha)
    networks = StudentAndCritic(copy.deepcopy(world.dit), None)
    return DistillationContext(
        world, networks, world.dit, shards, preset("distill", "smoke-dmd", steps=2, teacher_steps=6)
    )


def test_levels_fall_from_noise_to_clean_and_the_teacher_passes_through_them() -> None:
    assert student_levels(4, 8.0) == (1.0, 0.96, 0.889, 0.727, 0.0)  # the released student's list
    assert student_levels(1, 2.0) == (1.0, 0.0)
    fine = student_levels(6, 2.0)
    assert fine[::3] == student_levels(2, 2.0) and list(fine) == sorted(set(fine), reverse=True)
    with pytest.raises(ValueError, match="teacher_steps=6 must be a multiple of steps=4"):
        preset("distill", "smoke", steps=4, teacher_steps=6)
    with pytest.raises(ValueError, match="at least 1"):
        student_levels(0, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("taken", [1, 2])
def test_the_step_with_gradient_gives_the_frames_of_the_rollout(
    taken: int, teacher: Path, clips: Path, latents: Path, vae_run: Path
) -> None:
    """Whatever step a rollout leaves after, repeating that step in training ends where the rollout did."""
    setting = setting_of(teacher, clips, latents, vae_run)
    world = setting.worlds[taken - 1]
    assert len(world.sampler.sigmas) == taken + 1
    sample, seeds = setting.draw(torch.Generator().manual_seed(1))
    own, batch = setting.roll_out(world, sample, seeds)
    world.dit.requires_grad_(True)
    x = last_step(world.dit, batch, own, rollout_noise(seeds, own), world.sampler.sigmas)
    assert (x - own)[:, :, 1:].abs().max() < CLOSE * own.abs().max()
    x[:, :, 1:].sum().backward()
    assert all(p.grad is not None for name, p in world.dit.named_parameters() if name.startswith("head"))


def test_matching_brings_a_gaussian_to_where_the_real_score_is() -> None:
    """x = m + eps with scores known in closed form: m must go from -1 to the real mean 2."""
    real_mean, mean = 2.0, torch.tensor(-1.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        x = mean + torch.randn(8, 1, 4, 2, 2, generator=generator)
        scored = add_noise(x.detach(), 2.0, generator)
        s = scored.sigma[:, None, :, None, None]

        def clean(centre: float, s: torch.Tensor = s, noisy: torch.Tensor = scored.noisy) -> torch.Tensor:
            """E[x | x_s] for x ~ N(centre, 1), x_s = (1 - s) x + s eps."""
            return centre + (1 - s) * (noisy - (1 - s) * centre) / ((1 - s) ** 2 + s**2)

        optimizer.zero_grad()
        matching_loss(x, clean(float(mean.detach())), clean(real_mean), torch.ones(1)).backward()
        optimizer.step()
    assert abs(float(mean.detach()) - real_mean) < 0.3


def test_the_gradient_of_matching_is_scaled_by_how_far_each_frame_is_off() -> None:
    generator = torch.Generator().manual_seed(0)
    x, fake, real = (torch.randn(2, 3, 4, 2, 2, generator=generator) for _ in range(3))
    real = real * torch.tensor([1.0, 1.0, 5.0, 20.0])[:, None, None]  # frames that are off by more and more
    weights = torch.tensor([2.0, 0.7, 0.3])
    x.requires_grad_(True)
    matching_loss(x, fake, real, weights).backward()
    assert x.grad is not None and not x.grad[:, :, 0].any()
    for clip in range(2):
        for t in range(1, 4):
            size = (x.detach()[clip, :, t] - real[clip, :, t]).abs().mean()
            step = weights[:, None, None] * (fake[clip, :, t] - real[clip, :, t]) / size
            assert torch.allclose(x.grad[clip, :, t], step / x[:, :, 1:].numel(), atol=1e-7)


@pytest.mark.slow
def test_smoke_regression_brings_two_steps_closer_to_many_than_the_teacher_itself(
    teacher: Path, clips: Path, latents: Path, vae_run: Path, tmp_path: Path
) -> None:
    held_out = setting_of(teacher, clips, latents, vae_run, "val")
    untrained = teacher_gap(held_out, held_out.teacher)
    config = preset("distill", "smoke", steps=2, teacher_steps=6)
    inputs = Inputs(data=clips, latents=latents, teacher=teacher)
    run = train("distill", config, inputs, Resources(out=tmp_path))
    assert run.finished
    assert run.metrics["gap"] < SMOKE_GAP < untrained
    card = load_checkpoint(tmp_path / "dit.safetensors")[1]
    assert card["settings"]["sampler"]["sigmas"] == list(config.levels)
    world = load_embedded(tmp_path / "world")
    assert world.sampler == SamplerConfig(sigmas=config.levels)
    assert world.spec.name == "teacher-2step"


@pytest.mark.slow
def test_smoke_matching_pulls_a_student_back_that_is_off(
    teacher: Path, clips: Path, latents: Path, vae_run: Path, tmp_path: Path
) -> None:
    """A wrong bias shifts all that the student draws; only its score beside the teacher's can tell."""
    tensors, card = load_checkpoint(write_parts(teacher, tmp_path / "parts")["dit"])
    tensors["head.bias"][:4] -= 0.8
    save_checkpoint(tmp_path / "off.safetensors", tensors, card)
    held_out = setting_of(teacher, clips, latents, vae_run, "val")
    off = copy.deepcopy(held_out.teacher)
    load_into(off, tensors, "off")
    off_file = tmp_path / "off.safetensors"
    inputs = Inputs(data=clips, latents=latents, teacher=teacher, init=off_file)
    config = preset("distill", "smoke-dmd", steps=2, teacher_steps=6)
    whole = train("distill", config, inputs, Resources(out=tmp_path / "whole"), steps=4)
    for _ in range(2):
        run = train("distill", config, inputs, Resources(out=tmp_path / "cut"), steps=2)
    for name, tensor in whole.ema_weights().items():
        assert torch.equal(tensor, run.ema_weights()[name]), name  # both networks resume exactly
    run = train("distill", config, inputs, Resources(out=tmp_path / "cut"))
    assert run.metrics["gap"] < SMOKE_MATCHED < teacher_gap(held_out, off)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "losses.jsonl").read_text().splitlines()]
    fake = [line["train"]["fake"] for line in lines if "train" in line]
    assert fake[-1] < fake[0]
    teacher_weights, _ = load_checkpoint(write_parts(teacher, tmp_path / "again")["dit"])
    for name, tensor in teacher_weights.items():
        if "A_log" in name or "dt_bias" in name:
            assert torch.equal(run.ema_weights()[f"student.{name}"], tensor), name  # the memory's decays


@pytest.mark.slow
def test_the_teacher_can_be_exported_with_other_steps(teacher: Path, tmp_path: Path) -> None:
    export_undistilled(teacher, 4, tmp_path)
    world, own = load_embedded(tmp_path), load_embedded(teacher)
    assert (world.spec.name, world.sampler.sigmas) == ("teacher-4euler", student_levels(4, 2.0))
    assert all(torch.equal(a, b) for a, b in zip(world.dit.parameters(), own.dit.parameters(), strict=True))


@pytest.mark.slow
def test_a_teacher_of_parts_needs_their_world(
    teacher: Path, clips: Path, latents: Path, tmp_path: Path
) -> None:
    smoke, place = preset("distill", "smoke"), Resources(out=tmp_path)
    inputs = Inputs(data=clips, latents=latents, teacher=teacher)
    with pytest.raises(ValueError, match=r"dit\.safetensors needs a world"):
        train("distill", smoke, dataclasses.replace(inputs, teacher=tmp_path / "dit.safetensors"), place)
    long = dataclasses.replace(smoke, frames=40)
    with pytest.raises(ValueError, match="frames=40 are more than"):
        train("distill", long, inputs, place)
    with pytest.raises(ValueError, match="unknown method"):
        preset("distill", "smoke", method="gan")

"""The kinds of stages in which a world walks: what it draws is its own past."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from wm_env.model.config import DiTConfig
from wm_env.model.data.stream import Plan, Stream, StreamConfig, captions, plan_group, standing
from wm_env.model.dit import DiT
from wm_env.model.embedded import load_embedded
from wm_env.model.pixels import to_rgb
from wm_env.model.png import write_png
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.state import tree_map
from wm_env.model.training.adversary import KEPT, AdversaryConfig, Judge, Pairs, adversary_loss
from wm_env.model.training.clip_stream import clips_of_plan
from wm_env.model.training.few_steps import FewStepConfig, equal_levels, few_step_loss, path_of
from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.made import SHEET, Made, grid
from wm_env.model.training.imagination.recipe import Recipe, RefinerLossConfig, Stage
from wm_env.model.training.imagination.stages import (
    JUDGE,
    Place,
    assemble,
    embedded_refiner,
    plain,
    start_transformer,
)
from wm_env.model.training.losses.flow_matching import later_frames, world_loss
from wm_env.model.training.optimizers import default_rule
from wm_env.model.training.own_walks import OwnWalk, OwnWalkConfig, WalkSource
from wm_env.model.training.parts.refiner import refiner_loss
from wm_env.model.training.parts.refiner_rollouts import Rollout, goal, roll_out
from wm_env.model.training.precision import fast_attention
from wm_env.model.training.transformer import channel_weights, parameter_rule
from wm_env.model.vae.tiny import GROUP


def _walker(name: str | None, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> LearnedWorld:
    """Return the world that stage `name` left, which walks."""
    assert name is not None  # the recipe's reader has checked it
    return load_embedded(
        assemble(name, recipe, place, carried, refiner=None),
        device=place.device,
        dtype="bfloat16" if bf16 else "float32",
    )


def rollouts(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage on the world's own walks (own_walks.py)."""
    shape, config = recipe.settings_of(stage), stage.losses(OwnWalkConfig)
    world = _walker(stage.start, recipe, place, carried, bf16)
    model = start_transformer(stage, recipe, place, carried)
    world.dit = model  # the rollouts are those of the weights as they are
    source = WalkSource(config, place.workers)
    weights = channel_weights(world.vae, source.held_latents(world))

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, DiT)
        seen = source.draw(world, number, generator)
        with fast_attention(world.device, bf16):
            loss = world_loss(module, seen.batch, config, generator, weights, seen.history, seen.before)
        return loss.mean, {}

    @torch.no_grad()
    def evaluate(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, DiT)
        own = copy.copy(world)
        own.dit = module
        found = {}
        for name, drawn in (("val_loss", 0), ("val_late", config.drawn)):
            seen = source.held(own, drawn)
            draws = torch.Generator().manual_seed(2)
            with fast_attention(world.device, bf16):
                loss = world_loss(module, seen.batch, config, draws, weights, seen.history, seen.before)
            found[name] = float(loss.mean)
        return found

    loss = {**plain(config), "stream": plain(source.stream)}
    return Made(
        model=model,
        step=step,
        evaluate=evaluate,
        settings={"dit": dataclasses.asdict(shape), "loss": loss},
        rule=parameter_rule,
        close=source.close,
    )


class _Taught:
    """What stages with a teacher share: walks that several steps use, and what the teacher draws held out.

    world: the one that walks, with its sampler; temperature: of the noise of its walks.
    """

    def __init__(
        self, world: LearnedWorld, teacher: DiT, config: FewStepConfig, temperature: float, workers: int,
        bf16: bool,
    ) -> None:  # fmt: skip
        self.world, self.config, self.bf16 = world, config, bf16
        self.source = WalkSource(config, workers, temperature)
        self.weights = channel_weights(world.vae, self.source.held_latents(world))
        self.held = self.source.held(world, config.drawn)
        generator = torch.Generator().manual_seed(2)
        self.noise = torch.randn(self.held.history.shape, generator=generator).to(world.device)
        with fast_attention(world.device, bf16), torch.no_grad():
            levels = equal_levels(config.path)
            self.aim = path_of(teacher, self.held, config.temperature * self.noise, levels)[-1]
        self._walks: dict[int, OwnWalk] = {}  # the newest one, by number

    def walk(self, step: int) -> OwnWalk:
        """Return the walk of a step; the first step that uses it decides which weights walk."""
        number = step // self.config.reuse
        if number not in self._walks:
            self._walks.clear()
            drawn = self.source.draw(self.world, number, torch.Generator().manual_seed(number))
            self._walks[number] = drawn
        return self._walks[number]

    @torch.no_grad()
    def drawn(self, student: DiT) -> tuple[Tensor, float]:
        """Return what a student draws held out, and how far that is from what the teacher draws."""
        with fast_attention(self.world.device, self.bf16):
            drawn = path_of(student, self.held, self.noise, self.config.levels)[-1]
        error = (drawn - self.aim)[:, :, 1:].square().mean((0, 2, 3, 4))  # (C,)
        return drawn, float((error * self.weights.to(error)).mean())

    def frames(self, z: Tensor) -> Tensor:
        """Return the last frame `(n, h, w, 3)` uint8 of every latent but the first of `(B, C, T, h, w)`."""
        latents = later_frames(z).float()
        vae = self.world.vae
        return to_rgb(vae.decode(latents, vae.start_decoding(latents))[0][:, -1])

    def settings(self, shape: DiTConfig) -> dict[str, Any]:
        """Return what decides a run, as JSON values."""
        loss = {**plain(self.config), "stream": plain(self.source.stream)}
        return {"dit": dataclasses.asdict(shape), "loss": loss}


def few_steps(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage that learns to draw in few steps what its start draws in many (few_steps.py)."""
    shape, config = recipe.settings_of(stage), stage.losses(FewStepConfig)
    world = _walker(stage.start, recipe, place, carried, bf16)
    world.sampler = SamplerConfig(sigmas=equal_levels(config.path))
    teacher, device = world.dit, world.device
    taught = _Taught(world, teacher, config, config.temperature, place.workers, bf16)
    sheet = place.out / stage.name / "sheet.png"

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, DiT)
        seen = taught.walk(number)
        eps = torch.randn(seen.history.shape, generator=generator).to(device)
        places = (len(eps), eps.shape[2])
        choice = torch.randint(len(config.levels) - 1, places, generator=generator).to(device)
        with fast_attention(device, bf16):
            return few_step_loss(module, teacher, seen, config, eps, choice, taught.weights), {}

    @torch.no_grad()
    def evaluate(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, DiT)
        drawn, error = taught.drawn(module)
        rows = (taught.held.batch.z, taught.aim, drawn)
        write_png(sheet, grid([taught.frames(z)[-SHEET:] for z in rows]), scale=2)
        return {"val_loss": error}

    return Made(
        model=start_transformer(stage, recipe, place, carried),
        step=step,
        evaluate=evaluate,
        settings=taught.settings(shape),
        rule=parameter_rule,
        close=taught.source.close,
    )


def adversary(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage that learns to draw what a judge takes for true frames (adversary.py).

    The judge is a part of the run's model, so that it is saved and resumed with it, and none of the weights
    that the stage leaves. Walks are those of the weights as they are, and the judge is shown some pairs of
    earlier steps again: a run that was cut draws the walk that it was using anew and begins without pairs.
    """
    shape, config = recipe.settings_of(stage), stage.losses(AdversaryConfig)
    teacher = _walker(stage.teacher, recipe, place, carried, bf16).dit
    world = _walker(stage.start, recipe, place, carried, bf16)
    world.sampler = SamplerConfig(sigmas=tuple(config.levels))
    device, model = world.device, start_transformer(stage, recipe, place, carried)
    taught = _Taught(world, teacher, config, 1.0, place.workers, bf16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        judge = Judge(taught.weights.sqrt(), 6 * GROUP, config.width)
    model.add_module(JUDGE, judge)
    world.dit = model
    sheet = place.out / stage.name / "sheet.png"
    kept: deque[Pairs] = deque(maxlen=KEPT)

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, DiT)
        seen = taught.walk(number)
        eps = torch.randn(seen.history.shape, generator=generator).to(device)
        places = torch.randperm(len(kept), generator=generator)[: config.again].tolist()
        again = [kept[place] for place in places]
        with fast_attention(device, bf16):
            loss = adversary_loss(module, judge, teacher, seen, config, eps, taught.weights, number, again)
        kept.append(loss.pairs)
        told = ("anchor", "fooled", "right", "slope")
        return loss.total, {name: getattr(loss, name) for name in told}

    @torch.no_grad()
    def evaluate(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, DiT)
        own = copy.copy(world)
        own.dit = module
        walked = taught.source.held(own, config.drawn)
        drawn, error = taught.drawn(module)
        truth, shown = taught.frames(walked.batch.z), taught.frames(walked.history)
        rows = (truth, taught.frames(taught.aim), taught.frames(drawn), shown)
        write_png(sheet, grid([row[-SHEET:] for row in rows]), scale=2)
        contrast = shown.float().std((1, 2)).mean() / truth.float().std((1, 2)).mean()
        return {"val_loss": error, "val_contrast": float(contrast)}

    return Made(
        model=model,
        step=step,
        evaluate=evaluate,
        settings=taught.settings(shape),
        rule=parameter_rule,
        close=taught.source.close,
    )


def refiner(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage of the pixel refiner on rollouts of the world that the stage `start` left.

    The goal is the truth where the memory shows something, and what was decoded elsewhere, so that the
    refiner leaves alone what the transformer imagined (refiner_rollouts.py). Where a camera stands, what the
    memory shows is exact as long as nothing happens; the four views of a chunk tell that it stands.
    """
    config = stage.losses(RefinerLossConfig)
    refiner, shape = embedded_refiner(recipe.autoencoder)
    world = _walker(stage.start, recipe, place, carried, bf16)
    assert world.refiner is not None
    world.refiner.load_state_dict(refiner.state_dict())
    model = world.refiner.requires_grad_(True)  # the one that the rollouts use
    stream = StreamConfig(seed=2, group=config.batch)
    plans = {"train": Stream(stream, workers=place.workers)}

    def rolled(plan: Plan, generator: torch.Generator) -> Rollout:
        last = stream.latents - config.chunks - 1
        first = torch.randint(0, last + 1, (config.batch,), generator=generator)
        plan = standing(plan, torch.rand(config.batch, generator=generator) < config.still, first)
        clip = clips_of_plan(plan, first, config.chunks + 1, world.vae, stream.size).clip
        seeds = torch.randint(2**31, (config.batch,), generator=generator).tolist()
        return roll_out(world, tree_map(lambda x: x.cpu(), clip), captions(), seeds)

    held = rolled(plan_group(0, dataclasses.replace(stream, split="val")), torch.Generator().manual_seed(1))

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        if plans["train"].next != number:
            plans["train"].close()
            plans["train"] = Stream(stream, number, place.workers)
        seen = rolled(next(plans["train"]), generator)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bf16):
            return refiner_loss(model, seen.decoded, seen.seen, goal(seen), generator), {}

    @torch.no_grad()
    def evaluate(module: nn.Module) -> dict[str, float]:
        loss = refiner_loss(model, held.decoded, held.seen, goal(held), torch.Generator().manual_seed(3))
        return {"val_loss": float(loss)}

    return Made(
        model=model,
        step=step,
        evaluate=evaluate,
        settings={"refiner": shape, "loss": plain(config), "stream": plain(stream)},
        rule=default_rule,
        close=lambda: plans["train"].close(),
    )

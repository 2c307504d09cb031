"""The kinds of stages in which a world walks: what it draws is its own past."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_env.model.data.stream import Plan, Stream, StreamConfig, captions, plan_group, standing
from wm_env.model.dit import DiT
from wm_env.model.embedded import load_embedded
from wm_env.model.pixels import to_rgb
from wm_env.model.png import write_png
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.state import tree_map
from wm_env.model.training.adversary import AdversaryConfig, Judge, adversary_loss
from wm_env.model.training.clip_stream import clips_of_plan
from wm_env.model.training.few_steps import FewStepConfig, equal_levels, few_step_loss, path_of
from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.made import SHEET, Made, grid
from wm_env.model.training.imagination.recipe import Recipe, Stage
from wm_env.model.training.imagination.stages import (
    JUDGE,
    Place,
    assemble,
    embedded_refiner,
    plain,
    start_transformer,
)
from wm_env.model.training.losses.flow_matching import world_loss
from wm_env.model.training.optimizers import default_rule
from wm_env.model.training.own_walks import OwnWalk, OwnWalkConfig, WalkSource
from wm_env.model.training.parts.refiner import refiner_loss
from wm_env.model.training.parts.refiner_rollouts import Rollout, goal, roll_out
from wm_env.model.training.precision import fast_attention
from wm_env.model.training.transformer import channel_weights, parameter_rule
from wm_env.model.vae.tiny import GROUP


def _walker(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> LearnedWorld:
    """Return the world that the stage `start` left, which walks."""
    assert stage.start is not None  # the recipe's reader has checked it
    return load_embedded(
        assemble(stage.start, recipe, place, carried, refiner=None),
        device=place.device,
        dtype="bfloat16" if bf16 else "float32",
    )


def rollouts(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage on the world's own walks (own_walks.py)."""
    shape, config = recipe.settings_of(stage), OwnWalkConfig(**stage.loss)
    world = _walker(stage, recipe, place, carried, bf16)
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


def few_steps(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage that learns to draw in few steps what its start draws in many (few_steps.py)."""
    shape, config = recipe.settings_of(stage), FewStepConfig(**stage.loss)
    world = _walker(stage, recipe, place, carried, bf16)
    teacher, device = world.dit, world.device
    world.sampler = SamplerConfig(sigmas=equal_levels(config.path))
    source = WalkSource(config, place.workers, config.temperature)
    weights = channel_weights(world.vae, source.held_latents(world))
    sheet = place.out / stage.name / "sheet.png"
    walks: dict[int, OwnWalk] = {}  # the newest one, by number

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, DiT)
        walk = number // config.reuse
        if walk not in walks:
            walks.clear()
            walks[walk] = source.draw(world, walk, torch.Generator().manual_seed(walk))
        seen = walks[walk]
        eps = torch.randn(seen.history.shape, generator=generator).to(device)
        places = (len(eps), eps.shape[2])
        choice = torch.randint(len(config.levels) - 1, places, generator=generator).to(device)
        with fast_attention(device, bf16):
            return few_step_loss(module, teacher, seen, config, eps, choice, weights), {}

    held = source.held(world, config.drawn)
    noise = torch.randn(held.history.shape, generator=torch.Generator().manual_seed(2)).to(device)
    with fast_attention(device, bf16):
        aim = path_of(teacher, held, config.temperature * noise, equal_levels(config.path))[-1]

    def pictures(z: Tensor) -> Tensor:
        last = z[:, :, 1:].transpose(1, 2).flatten(0, 1)[-SHEET:].float()  # (n, C, h, w)
        return to_rgb(world.vae.decode(last, world.vae.start_decoding(last))[0][:, -1])

    @torch.no_grad()
    def evaluate(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, DiT)
        with fast_attention(device, bf16):
            drawn = path_of(module, held, noise, config.levels)[-1]
        write_png(sheet, grid([pictures(held.batch.z), pictures(aim), pictures(drawn)]), scale=2)
        error = (drawn - aim)[:, :, 1:].square().mean((0, 2, 3, 4))  # (C,)
        return {"val_loss": float((error * weights.to(device)).mean())}

    loss = {**plain(config), "stream": plain(source.stream)}
    return Made(
        model=start_transformer(stage, recipe, place, carried),
        step=step,
        evaluate=evaluate,
        settings={"dit": dataclasses.asdict(shape), "loss": loss},
        rule=parameter_rule,
        close=source.close,
    )


def adversary(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage that learns to draw what a judge takes for true frames (adversary.py).

    The judge is a part of the run's model, so that it is saved and resumed with it, and none of the weights
    that the stage leaves.
    """
    shape, config = recipe.settings_of(stage), AdversaryConfig(**stage.loss)
    assert stage.teacher is not None  # the recipe's reader has checked it
    teacher = load_embedded(
        assemble(stage.teacher, recipe, place, carried, refiner=None),
        device=place.device, dtype="bfloat16" if bf16 else "float32",
    ).dit  # fmt: skip
    world = _walker(stage, recipe, place, carried, bf16)
    device, model = world.device, start_transformer(stage, recipe, place, carried)
    world.sampler = SamplerConfig(sigmas=tuple(config.levels))
    source = WalkSource(config, place.workers)
    weights = channel_weights(world.vae, source.held_latents(world))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        judge = Judge(weights.sqrt(), 6 * GROUP, config.width)
    model.add_module(JUDGE, judge)
    world.dit = model  # the walks are those of the weights as they are
    sheet = place.out / stage.name / "sheet.png"
    walks: dict[int, OwnWalk] = {}  # the newest one, by number

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, DiT)
        walk = number // config.reuse
        if walk not in walks:
            walks.clear()
            walks[walk] = source.draw(world, walk, torch.Generator().manual_seed(walk))
        seen = walks[walk]
        eps = torch.randn(seen.history.shape, generator=generator).to(device)
        with fast_attention(device, bf16):
            loss = adversary_loss(module, judge, teacher, seen, config, eps, weights, number)
        return loss.total, {key: value for key, value in loss._asdict().items() if key != "total"}

    held = source.held(world, config.drawn)
    noise = torch.randn(held.history.shape, generator=torch.Generator().manual_seed(2)).to(device)
    with fast_attention(device, bf16), torch.no_grad():
        aim = path_of(teacher, held, config.temperature * noise, equal_levels(config.path))[-1]

    def pictures(z: Tensor, first: int, count: int) -> Tensor:
        last = z[:, :, 1:].transpose(1, 2).flatten(0, 1)[first:][:count].float()  # (n, C, h, w)
        return to_rgb(world.vae.decode(last, world.vae.start_decoding(last))[0][:, -1])

    @torch.no_grad()
    def evaluate(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, DiT)
        own = copy.copy(world)
        own.dit = module
        walked = source.held(own, config.drawn)
        with fast_attention(device, bf16):
            drawn = path_of(module, held, noise, config.levels)[-1]
        truth, shown = (pictures(z, 0, 10**6).float() for z in (walked.batch.z, walked.history))
        rows = [held.batch.z, aim, drawn, walked.history]
        write_png(sheet, grid([pictures(z, -SHEET, SHEET) for z in rows]), scale=2)
        error = (drawn - aim)[:, :, 1:].square().mean((0, 2, 3, 4))  # (C,)
        contrast = shown.std((1, 2)).mean() / truth.std((1, 2)).mean()
        return {"val_loss": float((error * weights.to(device)).mean()), "val_contrast": float(contrast)}

    loss = {**plain(config), "stream": plain(source.stream)}
    return Made(
        model=model,
        step=step,
        evaluate=evaluate,
        settings={"dit": dataclasses.asdict(shape), "loss": loss},
        rule=parameter_rule,
        close=source.close,
    )


@dataclass(frozen=True, kw_only=True)
class RefinerLossConfig:
    """Rollouts of a step: `batch` walks of `chunks` chunks, of a share `still` of which the camera stands."""

    batch: int = 4
    chunks: int = 12
    still: float = 0.25

    def __post_init__(self) -> None:
        if self.batch < 1 or self.chunks < 1 or not 0 <= self.still <= 1:
            raise ValueError(f"batch and chunks of at least 1 and still in [0, 1] are needed: {self}")


def refiner(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage of the pixel refiner on rollouts of the world that the stage `start` left.

    The goal is the truth where the memory shows something, and what was decoded elsewhere, so that the
    refiner leaves alone what the transformer imagined (refiner_rollouts.py). Where a camera stands, what the
    memory shows is exact as long as nothing happens; the four views of a chunk tell that it stands.
    """
    assert stage.start is not None  # the recipe's reader has checked it
    config = RefinerLossConfig(**stage.loss)
    refiner, shape = embedded_refiner(recipe.autoencoder)
    folder = assemble(stage.start, recipe, place, carried, refiner=None)
    world = load_embedded(folder, device=place.device, dtype="bfloat16" if bf16 else "float32")
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

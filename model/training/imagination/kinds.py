"""The kinds of stages: each builds a `Run` from a recipe's stage and what lies in the training's folder."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wm_env.model.data.stream import Plan, Stream, StreamConfig, captions, plan_group
from wm_env.model.dit import DiT
from wm_env.model.embedded import load_embedded
from wm_env.model.pixels import to_rgb
from wm_env.model.png import write_png
from wm_env.model.point_memory import TOKEN_STRIDE
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.state import tree_map
from wm_env.model.storage.checkpoint import check_tensors
from wm_env.model.training.clip_stream import StreamSource, clips_of_plan
from wm_env.model.training.export import Export
from wm_env.model.training.few_steps import FewStepConfig, equal_levels, few_step_loss, path_of
from wm_env.model.training.images import ImageConfig, ImagePool, draw_images, image_loss, image_step
from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.recipe import Recipe, Stage
from wm_env.model.training.imagination.stages import (
    Place,
    assemble,
    autoencoder,
    embedded_refiner,
    part_of,
    plain,
    start_transformer,
)
from wm_env.model.training.losses.flow_matching import WorldLossConfig, world_loss
from wm_env.model.training.optimizers import ParameterGroup, default_rule
from wm_env.model.training.own_walks import OwnWalk, OwnWalkConfig, WalkSource
from wm_env.model.training.parts.refiner import refiner_loss
from wm_env.model.training.parts.refiner_rollouts import Rollout, goal, roll_out
from wm_env.model.training.precision import bf16_supported, fast_attention
from wm_env.model.training.run import EvalFn, Run, StepFn
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.transformer import channel_weights, parameter_rule

SAVE_SECONDS = 45.0  # nothing more than a minute of work may be lost
SHEET = 16  # pictures in a row of a contact sheet
FEW_STEPS = ((1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.75, 0.5, 0.25, 0.0))


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a kind makes of a stage: the model at its start, and what `Run` needs of it.

    settings: what decides the run, as JSON values. close: ends helper processes.
    """

    model: nn.Module
    step: StepFn
    evaluate: EvalFn
    settings: Mapping[str, Any]
    rule: Callable[[str, nn.Parameter], ParameterGroup]
    close: Callable[[], None]


def build(stage: Stage, recipe: Recipe, place: Place, carried: Carried) -> Run:
    """Return a stage's run, as far as it has come; it leaves its part, worlds are the driver's."""
    device = torch.device(place.device)
    bf16 = bf16_supported(device)
    kinds = {
        "images": _images,
        "clips": _clips,
        "rollouts": _rollouts,
        "few_steps": _few_steps,
        "refiner": _refiner,
    }
    made = kinds[stage.kind](stage, recipe, place, carried, bf16)
    out, clock = place.out / stage.name, None
    if not (out / "state.pt").is_file() and stage.name in carried.stages:
        weights = carried.weights(stage.name)
        check_tensors(weights, made.model.state_dict(), f"{stage.name}.safetensors in {place.carry}")
        made.model.load_state_dict(weights)
        clock = carried.clock(stage.name)
    loop = LoopConfig(
        total_steps=10_000_000, total_seconds=place.total * stage.share, slow_factor=0.01,
        save_every_seconds=SAVE_SECONDS, eval_every=10_000_000,
        eval_seconds=max(20.0, min(600.0, place.total * stage.share / 12)),
        **{"warmup_steps": 50, **stage.loop},
    )  # fmt: skip
    return Run(
        model=made.model.to(device),
        step_fn=made.step,
        config=loop,
        out=out,
        settings={**made.settings, "bf16": bf16},
        evaluate=made.evaluate,
        rule=made.rule,
        facts={"part": part_of(stage)},
        begin=clock,
        export=Export(name=part_of(stage), entries={"part": part_of(stage)}),
        close=made.close,
    )


def _images(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage on single images."""
    shape, (vae, sha256) = recipe.settings_of(stage), autoencoder(recipe, place)
    config = ImageConfig(**stage.loss)
    val = dataclasses.replace(
        config, stream=dataclasses.replace(config.stream, split="val"), pool=3 * config.entries_of_group
    )
    pool = ImagePool(config, vae, shape.caption_channels, place.workers)
    held = ImagePool(val, vae, shape.caption_channels)
    examples = held.images(0)
    weights = channel_weights(vae, examples.z[:64].float())
    batch = held.batch(examples, torch.Generator().manual_seed(3), dropout=False)
    sheet = place.out / stage.name / "sheet.png"

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DiT)
        with fast_attention(held.device, bf16):
            error = image_loss(model, batch, config, torch.Generator().manual_seed(9), weights)
            some = tree_map(lambda x: x[:SHEET], batch)
            drawn = [draw_images(model, some, sigmas) for sigmas in FEW_STEPS]
        side = config.stream.size // TOKEN_STRIDE
        view = nn.functional.pixel_shuffle(some.memory[:, 0].mT.unflatten(-1, (side, side)), TOKEN_STRIDE)
        rows = [to_rgb(examples.frame[:SHEET]), to_rgb(view)]
        rows += [to_rgb(vae.decode(z, vae.start_decoding(z))[0][:, -1]) for z in drawn]
        write_png(sheet, grid(rows), scale=2)
        return {"val_loss": float(error.mean())}

    return Made(
        model=start_transformer(stage, recipe, place, carried),
        step=image_step(pool, bf16, weights),
        evaluate=evaluate,
        settings={"dit": dataclasses.asdict(shape), "loss": plain(config), "vae_sha256": sha256},
        rule=parameter_rule,
        close=pool.close,
    )


def _clips(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage on walks."""
    shape, (vae, sha256) = recipe.settings_of(stage), autoencoder(recipe, place)
    config = WorldLossConfig(**stage.loss)
    stream = StreamConfig(seed=1)
    source = StreamSource(stream, config, vae, shape.caption_channels, stage.memory, place.workers)
    quiet = dataclasses.replace(
        config, batch=6, frames=8, history_noise=0.05, own_history=0.0, text_dropout=0.0, pure_noise=0.5,
        window_dropout=0.0,
    )  # fmt: skip
    held = StreamSource(
        dataclasses.replace(stream, split="val"), quiet, vae, shape.caption_channels, stage.memory
    )
    generator = torch.Generator().manual_seed(1)
    batches = [held.draw(number, generator, corrupt=False) for number in range(4)]
    weights = channel_weights(vae, batches[0].z[:, :, 1])

    def step(model: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, DiT)
        batch = source.draw(number, generator)
        with fast_attention(source.device, bf16):
            return world_loss(model, batch, config, generator, weights).mean, {}

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DiT)
        own = torch.Generator().manual_seed(2)
        with fast_attention(source.device, bf16):
            losses = [world_loss(model, batch, quiet, own, weights) for batch in batches]
        pure = torch.cat([loss.error[loss.pure] for loss in losses])
        mean = sum(float(loss.mean) for loss in losses) / len(losses)
        return {"val_loss": mean, "val_pure": float(pure.mean())}

    loss = {**plain(config), "stream": plain(stream)}
    return Made(
        model=start_transformer(stage, recipe, place, carried),
        step=step,
        evaluate=evaluate,
        settings={"dit": dataclasses.asdict(shape), "loss": loss, "vae_sha256": sha256},
        rule=parameter_rule,
        close=source.close,
    )


def _walker(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> LearnedWorld:
    """Return the world that the stage `start` left, which walks."""
    assert stage.start is not None  # the recipe's reader has checked it
    return load_embedded(
        assemble(stage.start, recipe, place, carried, refiner=None),
        device=place.device,
        dtype="bfloat16" if bf16 else "float32",
    )


def _rollouts(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
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


def _few_steps(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
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


@dataclass(frozen=True, kw_only=True)
class RefinerLossConfig:
    """Rollouts of a step: `batch` walks of `chunks` chunks."""

    batch: int = 4
    chunks: int = 12


def _refiner(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage of the pixel refiner on rollouts of the world that the stage `start` left.

    The goal is the truth where the memory shows something, and what was decoded elsewhere, so that the
    refiner leaves alone what the transformer imagined (refiner_rollouts.py).
    """
    assert stage.start is not None  # the recipe's reader has checked it
    config = RefinerLossConfig(**stage.loss)
    refiner, shape = embedded_refiner(recipe.autoencoder)
    folder = assemble(stage.start, recipe, place, carried, refiner=None)
    world = load_embedded(folder, device=place.device)
    assert world.refiner is not None
    world.refiner.load_state_dict(refiner.state_dict())
    model = world.refiner.requires_grad_(True)  # the one that the rollouts use
    stream = StreamConfig(seed=2, group=config.batch)
    plans = {"train": Stream(stream, workers=place.workers)}

    def rolled(plan: Plan, generator: torch.Generator) -> Rollout:
        last = stream.latents - config.chunks - 1
        first = torch.randint(0, last + 1, (config.batch,), generator=generator)
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


def grid(rows: Sequence[Tensor]) -> np.ndarray:
    """Return pictures uint8 `(n, H, W, 3)` of several rows as one image."""
    lines = [torch.cat(list(row.cpu()), dim=1) for row in rows]
    return torch.cat(lines, dim=0).numpy()

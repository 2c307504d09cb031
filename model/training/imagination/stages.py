"""The kinds of stages: each builds a `Run` from a recipe's stage and what lies in the training's folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wm_env.model.data.stream import Plan, Stream, StreamConfig, captions, plan_group
from wm_env.model.dit import DiT
from wm_env.model.embedded import embedded_vae, load_embedded, write_parts
from wm_env.model.pixels import to_rgb
from wm_env.model.png import write_png
from wm_env.model.point_memory import TOKEN_STRIDE
from wm_env.model.refiner.tiny import TinyRefiner
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.state import tree_map
from wm_env.model.storage.checkpoint import check_tensors, load_checkpoint, save_checkpoint
from wm_env.model.training.clip_stream import StreamSource, clips_of_plan
from wm_env.model.training.export import Export
from wm_env.model.training.images import ImageConfig, ImagePool, draw_images, image_loss, image_step
from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.recipe import Recipe, Stage
from wm_env.model.training.losses.flow_matching import WorldLossConfig, world_loss
from wm_env.model.training.optimizers import ParameterGroup, default_rule
from wm_env.model.training.parts.refiner import refiner_loss
from wm_env.model.training.parts.refiner_rollouts import Rollout, goal, roll_out
from wm_env.model.training.precision import bf16_supported, fast_attention
from wm_env.model.training.run import EvalFn, Run, StepFn
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.transformer import channel_weights, parameter_rule, set_half_lives
from wm_env.model.training.world_folder import export_world
from wm_env.model.vae.tiny import TinyVAE

SAVE_SECONDS = 45.0  # nothing more than a minute of work may be lost
SHEET = 16  # pictures in a row of a contact sheet
FEW_STEPS = ((1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.75, 0.5, 0.25, 0.0))
SAMPLER = SamplerConfig(sigmas=(1.0, 0.5, 0.0))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a recipe runs. total: seconds of training in all. workers: processes that plan clips ahead."""

    out: Path
    total: float
    carry: Path | None = None
    device: str = "cpu"
    workers: int = 0


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
    made = {"images": _images, "clips": _clips, "refiner": _refiner}[stage.kind](
        stage, recipe, place, carried, bf16
    )
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


def part_of(stage: Stage) -> str:
    """Return the part of a world that a stage trains: its averaged weights are `PART.safetensors`."""
    return "refiner" if stage.kind == "refiner" else "dit"


def weights_file(name: str, recipe: Recipe, place: Place, carried: Carried) -> Path:
    """Return the averaged weights of a finished stage as a checkpoint, made of the carried file if needed."""
    stage = next(s for s in recipe.stages if s.name == name)
    path = place.out / name / f"{part_of(stage)}.safetensors"
    if not path.is_file():
        if stage.kind == "refiner":
            settings: dict[str, Any] = {"refiner": embedded_refiner(recipe.autoencoder)[1]}
        else:
            settings = {"dit": dataclasses.asdict(recipe.settings_of(stage))}
        facts = {"part": part_of(stage), "settings": settings, **carried.stages[name]}
        save_checkpoint(path, carried.weights(name), facts)
    return path


def start_transformer(stage: Stage, recipe: Recipe, place: Place, carried: Carried) -> DiT:
    """Return a stage's transformer with the weights it starts from, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiT(recipe.settings_of(stage))
    begun = (place.out / stage.name / "state.pt").is_file() or stage.name in carried.stages
    if stage.start is None or begun:
        return model
    before = next(s for s in recipe.stages if s.name == stage.start)
    weights, _ = load_checkpoint(weights_file(stage.start, recipe, place, carried))
    model.load_state_dict(without_memory(weights) if before.memory and not stage.memory else weights)
    if stage.kind == "clips" and before.kind != "clips":
        set_half_lives(model, recipe.half_lives)
    return model


def autoencoder(recipe: Recipe, place: Place) -> tuple[TinyVAE, str]:
    """Return the autoencoder that all stages keep, on the training's device, and its world's SHA-256."""
    vae, sha256 = embedded_vae(recipe.autoencoder)
    return vae.to(place.device), sha256


def embedded_refiner(world: str) -> tuple[TinyRefiner, dict[str, Any]]:
    """Return the refiner of an embedded world, on the CPU, and its settings as JSON values."""
    refiner = load_embedded(world).refiner
    if refiner is None:
        raise ValueError(f"world {world!r} has no refiner to start from; the recipe needs one that has")
    return refiner, _settings(refiner.config)


def without_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a transformer that is never shown anything by its memory, without that input.

    What the memory's input makes of an empty view is a constant, so it goes into the bias of the latents'.
    """
    first, second = weights["memory_in.0.bias"], weights["memory_in.2.weight"]
    constant = second @ nn.functional.silu(first) + weights["memory_in.2.bias"]
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("memory_in.")}
    return {**kept, "latent_in.bias": kept["latent_in.bias"] + constant}


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
        settings={"dit": dataclasses.asdict(shape), "loss": _settings(config), "vae_sha256": sha256},
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

    loss = {**_settings(config), "stream": _settings(stream)}
    return Made(
        model=start_transformer(stage, recipe, place, carried),
        step=step,
        evaluate=evaluate,
        settings={"dit": dataclasses.asdict(shape), "loss": loss, "vae_sha256": sha256},
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
        settings={"refiner": shape, "loss": _settings(config), "stream": _settings(stream)},
        rule=default_rule,
        close=lambda: plans["train"].close(),
    )


def grid(rows: Sequence[Tensor]) -> np.ndarray:
    """Return pictures uint8 `(n, H, W, 3)` of several rows as one image."""
    lines = [torch.cat(list(row.cpu()), dim=1) for row in rows]
    return torch.cat(lines, dim=0).numpy()


def _settings(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def assemble(transformer: str, recipe: Recipe, place: Place, carried: Carried, refiner: str | None) -> Path:
    """Write the world of a transformer's stage, and of a refiner's stage if one is named; return its folder.

    The other parts are those of the base world.
    """
    stage = next(s for s in recipe.stages if s.name == transformer)
    parts = write_parts(recipe.autoencoder, place.out / "parts")
    own = parts.get("refiner") if refiner is None else weights_file(refiner, recipe, place, carried)
    folder = place.out / "worlds" / transformer
    export_world(
        name=transformer,
        dit=weights_file(transformer, recipe, place, carried),
        vae=parts["vae"],
        refiner=own if stage.memory else None,
        out=folder,
        sampler=SAMPLER,
        trained_steps=WorldLossConfig(**stage.loss).frames - 1,
        metrics=carried.stages.get(transformer, {}).get("metrics", {}),
    )
    load_embedded(folder)  # strict: what was written is a world
    return folder

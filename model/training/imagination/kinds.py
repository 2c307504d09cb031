"""The kinds of stages: each builds a `Run` from a recipe's stage and what lies in the training's folder."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from wm_env.model.data.stream import StreamConfig
from wm_env.model.dit import DiT
from wm_env.model.pixels import to_rgb
from wm_env.model.png import write_png
from wm_env.model.point_memory import TOKEN_STRIDE
from wm_env.model.state import tree_map
from wm_env.model.storage.checkpoint import check_tensors
from wm_env.model.training.clip_stream import StreamSource
from wm_env.model.training.export import Export
from wm_env.model.training.images import ImageConfig, ImagePool, draw_images, image_loss, image_step
from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.made import SHEET, Made, grid
from wm_env.model.training.imagination.recipe import Recipe, Stage
from wm_env.model.training.imagination.stages import (
    Place,
    autoencoder,
    part_of,
    plain,
    start_transformer,
    without_judge,
)
from wm_env.model.training.imagination.walking import adversary, few_steps, refiner, rollouts
from wm_env.model.training.losses.flow_matching import WorldLossConfig, world_loss
from wm_env.model.training.precision import bf16_supported, fast_attention
from wm_env.model.training.run import Run
from wm_env.model.training.transformer import channel_weights, parameter_rule

FEW_STEPS = ((1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.75, 0.5, 0.25, 0.0))


def build(stage: Stage, recipe: Recipe, place: Place, carried: Carried) -> Run:
    """Return a stage's run, as far as it has come; it leaves its part, worlds are the driver's."""
    device = torch.device(place.device)
    bf16 = bf16_supported(device)
    kinds = {
        "images": _images,
        "clips": _clips,
        "rollouts": rollouts,
        "few_steps": few_steps,
        "adversary": adversary,
        "refiner": refiner,
    }
    made = kinds[stage.kind](stage, recipe, place, carried, bf16)
    out, clock = place.out / stage.name, None
    if not (out / "state.pt").is_file() and stage.name in carried.stages:
        weights = carried.weights(stage.name)
        check_tensors(weights, made.model.state_dict(), f"{stage.name}.safetensors in {place.carry}")
        made.model.load_state_dict(weights)
        clock = carried.clock(stage.name)
    return Run(
        model=made.model.to(device),
        step_fn=made.step,
        config=stage.looped(place.total),
        out=out,
        settings={**made.settings, "bf16": bf16},
        evaluate=made.evaluate,
        rule=made.rule,
        facts={"part": part_of(stage)},
        begin=clock,
        export=Export(name=part_of(stage), change=without_judge, entries={"part": part_of(stage)}),
        close=made.close,
    )


def _images(stage: Stage, recipe: Recipe, place: Place, carried: Carried, bf16: bool) -> Made:
    """Return a stage on single images."""
    shape, (vae, sha256) = recipe.settings_of(stage), autoencoder(recipe, place)
    config = stage.losses(ImageConfig)
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
    config = stage.losses(WorldLossConfig)
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

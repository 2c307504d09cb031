"""What lies in a training's folder: weights that a stage starts from, parts it keeps, worlds it leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wm_env.model.dit import DiT
from wm_env.model.embedded import embedded_vae, load_embedded, write_parts
from wm_env.model.refiner.tiny import TinyRefiner
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.storage.checkpoint import load_checkpoint, save_checkpoint
from wm_env.model.training.few_steps import FewStepConfig
from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.recipe import LOSSES, Recipe, Stage
from wm_env.model.training.own_walks import OwnWalkConfig
from wm_env.model.training.transformer import set_half_lives
from wm_env.model.training.world_folder import export_world
from wm_env.model.vae.tiny import TinyVAE

SAMPLER = SamplerConfig(sigmas=(1.0, 0.5, 0.0))
JUDGE = "judge"  # what a run trains beside its part, and does not leave (walking.py)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a recipe runs. total: seconds of training in all. workers: processes that plan clips ahead."""

    out: Path
    total: float
    carry: Path | None = None
    device: str = "cpu"
    workers: int = 0


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
        save_checkpoint(path, without_judge(carried.weights(name)), facts)
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
    if stage.kind == "clips" and before.kind == "images":
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
    return refiner, plain(refiner.config)


def without_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a transformer that is never shown anything by its memory, without that input.

    What the memory's input makes of an empty view is a constant, so it goes into the bias of the latents'.
    """
    first, second = weights["memory_in.0.bias"], weights["memory_in.2.weight"]
    constant = second @ nn.functional.silu(first) + weights["memory_in.2.bias"]
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("memory_in.")}
    return {**kept, "latent_in.bias": kept["latent_in.bias"] + constant}


def without_judge(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that a stage leaves, of those that its run trains."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{JUDGE}.")}


def plain(config: Any) -> dict[str, Any]:
    """Return a dataclass as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def trained_steps(stage: Stage) -> int:
    """Return the longest walk, in chunks, that a stage of walks has shown its world."""
    config: Any = stage.losses(LOSSES[stage.kind])
    return (config.drawn if isinstance(config, OwnWalkConfig) else 0) + config.frames - 1


def history_of(name: str, recipe: Recipe, place: Place, carried: Carried) -> list[dict[str, Any]]:
    """Return what a stage's weights were trained in, from the first stage on: name, kind, steps, seconds and
    metrics of each, of this machine or of the one that its file came from."""
    found: list[dict[str, Any]] = []
    stages = {stage.name: stage for stage in recipe.stages}
    here: str | None = name
    while here is not None:
        card = place.out / here / "card.json"
        facts = carried.stages.get(here, {})
        if card.is_file():
            run = json.loads(card.read_text(encoding="utf-8"))
            facts = {"steps": run["steps"], "seconds": run["wall_seconds"], "metrics": run["metrics"]}
        own = {key: facts.get(key) for key in ("steps", "seconds", "metrics")}
        found.insert(0, {"name": here, "kind": stages[here].kind, **own})
        here = stages[here].start
    return found


def sampler_of(stage: Stage) -> SamplerConfig:
    """Return how the world of a stage draws: in the steps that it was taught, or in two."""
    config: Any = stage.losses(LOSSES[stage.kind])
    return SamplerConfig(sigmas=tuple(config.levels)) if isinstance(config, FewStepConfig) else SAMPLER


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
        sampler=sampler_of(stage),
        trained_steps=trained_steps(stage),
        metrics=carried.stages.get(transformer, {}).get("metrics", {}),
        prompts="captions",  # of rendered rooms, and nothing else
        stages=history_of(transformer, recipe, place, carried),
    )
    load_embedded(folder)  # strict: what was written is a world
    return folder

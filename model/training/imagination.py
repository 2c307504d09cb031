"""The embedded worlds from one command: stages of one recipe, each a `Run`, within a budget of time.

    python -m wm_env.model.training imagine --total 18m --budget 9m --out OUT --carry CARRY --device cuda

The recipe (recipes/imagination.toml) lists stages; stage s trains for `share` of the total time and starts
from the averaged weights of the stage it names:

    images      single latent frames of ever new rooms (images.py): what a room looks like
    clips       walks through ever new rooms (clip_stream.py): the camera, the state, the past

A command trains from where the last one stopped until its budget is over. What it leaves:

    OUT/STAGE/            the run of a stage: state, losses, card; resumed exactly
    OUT/STAGE/sheet.png   pictures of the averaged weights, drawn anew at every evaluation
    OUT/worlds/NAME/      a world that `gym.make` takes, after every stage that says `world = true`
    CARRY/                bfloat16 averages and `progress.json`: enough to go on on another machine, where
                          optimizers begin without moments; a file below 15 MiB per unfinished chain of stages
"""

from __future__ import annotations

import dataclasses
import json
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn

from wm_env.model.config import DiTConfig, tiny
from wm_env.model.data.stream import StreamConfig
from wm_env.model.dit import DiT
from wm_env.model.embedded import embedded_vae, load_embedded, write_parts
from wm_env.model.memory import MEMORY_CHANNELS, TOKEN_STRIDE
from wm_env.model.pixels import to_rgb
from wm_env.model.png import write_png
from wm_env.model.rollout import SamplerConfig
from wm_env.model.state import tree_map
from wm_env.model.storage.atomic import write_atomic
from wm_env.model.storage.checkpoint import check_tensors, load_checkpoint
from wm_env.model.training.clip_stream import StreamSource
from wm_env.model.training.flow_matching import (
    WorldLossConfig,
    channel_weights,
    fast_attention,
    parameter_rule,
    set_half_lives,
    world_loss,
)
from wm_env.model.training.images import ImageConfig, ImagePool, draw_images, image_loss, image_step
from wm_env.model.training.loop import Clock, LoopConfig, Run
from wm_env.model.training.vae import bf16_supported
from wm_env.model.training.world import export_world
from wm_env.model.vae.tiny import TinyVAE

RECIPE = Path(__file__).parent / "recipes" / "imagination.toml"
KINDS = ("images", "clips")
SAVE_SECONDS = 45.0  # nothing more than a minute of work may be lost
SHEET = 16  # pictures in a row of a contact sheet
FEW_STEPS = ((1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.75, 0.5, 0.25, 0.0))
SAMPLER = SamplerConfig(sigmas=(1.0, 0.5, 0.0))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a recipe: `loop` and `loss` are fields of `LoopConfig` and of the kind's loss config.

    share: of the total time. start: the stage whose averaged weights it starts from, None for new ones.
    memory: clips with the point memory's views. world: leaves a world folder.
    """

    name: str
    kind: str
    share: float
    loop: Mapping[str, Any]
    loss: Mapping[str, Any]
    start: str | None = None
    memory: bool = True
    world: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages in order, the transformer they train and the world whose autoencoder they keep."""

    stages: tuple[Stage, ...]
    dit: DiTConfig
    autoencoder: str
    half_lives: tuple[float, ...]

    def settings_of(self, stage: Stage) -> DiTConfig:
        """Return the shape of a stage's transformer; one without the point memory has no window either."""
        if stage.memory:
            return self.dit
        return dataclasses.replace(self.dit, memory_channels=0, window_chunks=0)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a recipe runs. total: seconds of training in all. workers: processes that plan clips ahead."""

    out: Path
    total: float
    carry: Path | None = None
    device: str = "cpu"
    workers: int = 0


def read_recipe(path: Path, device: str) -> Recipe:
    """Return the recipe of a TOML file with what it says for `device` ("cpu", "cuda"); see the module's head.

    Raises `ValueError` naming the file and what is unknown or missing in it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        _only(values, ("autoencoder", "half_lives", "dit", "stages"), "the file")
        stages = tuple(_stage(table, device) for table in values["stages"])
        shape = dataclasses.replace(tiny(MEMORY_CHANNELS), **values.get("dit", {}))
        names = [stage.name for stage in stages]
        for number, stage in enumerate(stages):
            if stage.start is not None and stage.start not in names[:number]:
                raise ValueError(
                    f"stage {stage.name!r} starts from {stage.start!r}, which no stage before it is"
                )
        if len(set(names)) < len(names) or not abs(sum(s.share for s in stages) - 1) < 1e-6:
            raise ValueError(f"stages {names} need names of their own and shares that sum to 1")
        return Recipe(
            stages=stages,
            dit=shape,
            autoencoder=values["autoencoder"],
            half_lives=tuple(values["half_lives"]),
        )
    except KeyError as error:
        raise ValueError(f"recipe {path}: {error.args[0]!r} is missing") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"recipe {path}: {error}") from error


def _stage(table: Mapping[str, Any], device: str) -> Stage:
    known = [field.name for field in dataclasses.fields(Stage)]
    _only(table, (*known, "cuda"), f"stage {table.get('name')!r}")
    own = {key: value for key, value in table.items() if key != "cuda"}
    special = table.get("cuda", {}) if torch.device(device).type == "cuda" else {}
    _only(special, ("loop", "loss"), f"[cuda] of stage {table.get('name')!r}")
    for part in ("loop", "loss"):
        own[part] = {**own.get(part, {}), **special.get(part, {})}
    stage = Stage(**own)
    if stage.kind not in KINDS:
        raise ValueError(
            f"stage {stage.name!r} is of unknown kind {stage.kind!r}; there are {', '.join(KINDS)}"
        )
    return stage


def _only(found: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ValueError(f"{where} holds unknown {', '.join(unknown)}; known are {', '.join(known)}")


class Carried:
    """What a folder carries from machine to machine: `STAGE.safetensors` and `progress.json`."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.stages: dict[str, dict[str, Any]] = {}
        if folder is not None and (folder / "progress.json").is_file():
            self.stages = json.loads((folder / "progress.json").read_text(encoding="utf-8"))["stages"]

    def weights(self, stage: str) -> dict[str, Tensor]:
        """Return the averaged weights of a stage, float32."""
        assert self.folder is not None
        tensors = load_tensors((self.folder / f"{stage}.safetensors").read_bytes())
        return {name: tensor.float() for name, tensor in tensors.items()}

    def clock(self, stage: str) -> Clock:
        """Return where a stage stood; its optimizers begin anew there."""
        facts = self.stages[stage]
        return Clock(facts["steps"], facts["seconds"], facts["skipped"], warm_from=facts["steps"])

    def keep(self, stage: str, run: Run, superseded: Sequence[str]) -> None:
        """Write where `stage` stands; files of `superseded` stages, no longer needed, go."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in run.ema_weights().items()
        }
        write_atomic(self.folder / f"{stage}.safetensors", tensor_bytes(weights))
        clock = run.clock
        self.stages[stage] = {
            "steps": clock.step, "seconds": round(clock.seconds, 1), "skipped": clock.skipped,
            "finished": run.finished, "metrics": run.metrics,
        }  # fmt: skip
        text = json.dumps({"stages": self.stages}, indent=2) + "\n"
        write_atomic(self.folder / "progress.json", text.encode())
        for old in superseded:
            (self.folder / f"{old}.safetensors").unlink(missing_ok=True)


Log = Callable[[str], None]


def imagine(place: Place, recipe: Recipe, budget: float | None = None, log: Log = print) -> bool:
    """Train from where the folder stands until `budget` seconds are over or all is done; return if it is.

    Raises `ValueError` for a folder of another recipe, before any training.
    """
    deadline = None if budget is None else time.monotonic() + budget
    place.out.mkdir(parents=True, exist_ok=True)
    _same_recipe(place, recipe)
    carried = Carried(place.carry)
    vae, sha256 = embedded_vae(recipe.autoencoder)
    vae = vae.to(place.device)
    for number, stage in enumerate(recipe.stages):
        if _finished(place, carried, stage):
            continue
        log(f"{stage.name}: {place.total * stage.share / 60:.1f} minutes in all")
        run, close = _build(stage, recipe, place, carried, vae, sha256)
        left = None if deadline is None else max(0.01, deadline - time.monotonic())  # a step at least
        superseded = _superseded(recipe, number)
        run.on_save = lambda run, stage=stage, old=superseded: carried.keep(stage.name, run, old)  # type: ignore[misc]
        try:
            run.advance(seconds=left, report=_reporter(stage, run, log))
        finally:
            close()
        run.export(place.out / stage.name / "dit.safetensors", part="dit")
        if stage.world:
            _write_world(stage, recipe, place, run)
        if not run.finished:
            share = run.clock.done(run.config)
            log(f"{stage.name}: {share:.0%} done after {run.step} steps; the same command goes on")
            return False
        log(f"{stage.name}: done after {run.step} steps, {run.metrics}")
    return True


def _same_recipe(place: Place, recipe: Recipe) -> None:
    """Refuse a folder that another recipe has begun; remember this one in a new folder."""
    own = json.loads(json.dumps({"total": place.total, **dataclasses.asdict(recipe)}, default=str))
    kept = place.out / "recipe.json"
    if kept.is_file():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before != own:
            different = [key for key in own if before.get(key) != own[key]]
            raise ValueError(
                f"{place.out} was begun with another recipe ({', '.join(different)} differ); "
                "give it again, or another folder"
            )
    write_atomic(kept, (json.dumps(own, indent=2) + "\n").encode())


def _finished(place: Place, carried: Carried, stage: Stage) -> bool:
    """Return whether a stage is done: here, or on the machine that its file came from."""
    card = place.out / stage.name / "card.json"
    here = card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("finished", False)
    return bool(here or carried.stages.get(stage.name, {}).get("finished", False))


def _superseded(recipe: Recipe, number: int) -> list[str]:
    """Return the stages whose weights nothing from stage `number` on, but itself, starts from."""
    needed = {stage.start for stage in recipe.stages[number + 1 :]}
    return [stage.name for stage in recipe.stages[:number] if stage.name not in needed and not stage.world]


def _weights_of(name: str, place: Place, carried: Carried) -> dict[str, Tensor]:
    """Return the averaged weights of a finished stage."""
    path = place.out / name / "dit.safetensors"
    return load_checkpoint(path)[0] if path.is_file() else carried.weights(name)


def _build(
    stage: Stage, recipe: Recipe, place: Place, carried: Carried, vae: TinyVAE, sha256: str
) -> tuple[Run, Callable[[], None]]:
    """Return a stage's run, as far as it has come, and what ends its helpers."""
    out, shape, device = place.out / stage.name, recipe.settings_of(stage), torch.device(place.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiT(shape)
    begun = (out / "state.pt").is_file()
    if stage.start is not None and not begun and stage.name not in carried.stages:
        before = next(s for s in recipe.stages if s.name == stage.start)
        weights = _weights_of(stage.start, place, carried)
        model.load_state_dict(without_memory(weights) if before.memory and not stage.memory else weights)
        if stage.kind == "clips" and before.kind != "clips":
            set_half_lives(model, recipe.half_lives)
    clock = None
    if not begun and stage.name in carried.stages:
        weights = carried.weights(stage.name)
        check_tensors(weights, model.state_dict(), f"{stage.name}.safetensors in {place.carry}")
        model.load_state_dict(weights)
        clock = carried.clock(stage.name)
    model.to(device)
    bf16 = bf16_supported(device)
    loop = LoopConfig(
        total_steps=10_000_000, total_seconds=place.total * stage.share, slow_factor=0.01,
        save_every_seconds=SAVE_SECONDS, eval_every=10_000_000,
        eval_seconds=max(20.0, min(600.0, place.total * stage.share / 12)),
        **{"warmup_steps": 50, **stage.loop},
    )  # fmt: skip
    make = _images if stage.kind == "images" else _clips
    step, evaluate, loss, close = make(stage, shape, place, vae, bf16)
    run = Run(
        model=model,
        step_fn=step,
        config=loop,
        out=out,
        settings={"dit": dataclasses.asdict(shape), "loss": loss, "vae_sha256": sha256, "bf16": bf16},
        evaluate=evaluate,
        rule=parameter_rule,
        facts={"part": "dit"},
        begin=clock,
    )
    return run, close


def without_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a transformer that is never shown anything by its memory, without that input.

    What the memory's input makes of an empty view is a constant, so it goes into the bias of the latents'.
    """
    first, second = weights["memory_in.0.bias"], weights["memory_in.2.weight"]
    constant = second @ nn.functional.silu(first) + weights["memory_in.2.bias"]
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("memory_in.")}
    return {**kept, "latent_in.bias": kept["latent_in.bias"] + constant}


Parts = tuple[Any, Callable[[nn.Module], dict[str, float]], dict[str, Any], Callable[[], None]]


def _images(stage: Stage, shape: DiTConfig, place: Place, vae: TinyVAE, bf16: bool) -> Parts:
    """Return step function, evaluation, settings and end of a stage on single images."""
    config = ImageConfig(**stage.loss)
    val = dataclasses.replace(
        config, stream=dataclasses.replace(config.stream, split="val"), pool=3 * config.entries_of_group
    )
    pool = ImagePool(config, vae, shape.caption_channels, place.workers)
    held = ImagePool(val, vae, shape.caption_channels)
    examples = held.images(0)
    weights = channel_weights(vae, examples.z.float())
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

    return image_step(pool, bf16, weights), evaluate, _settings(config), pool.close


def _clips(stage: Stage, shape: DiTConfig, place: Place, vae: TinyVAE, bf16: bool) -> Parts:
    """Return step function, evaluation, settings and end of a stage on walks."""
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

    return step, evaluate, {**_settings(config), "stream": _settings(stream)}, source.close


def grid(rows: Sequence[Tensor]) -> np.ndarray:
    """Return pictures uint8 `(n, H, W, 3)` of several rows as one image."""
    lines = [torch.cat(list(row.cpu()), dim=1) for row in rows]
    return torch.cat(lines, dim=0).numpy()


def _settings(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _reporter(stage: Stage, run: Run, log: Log) -> Callable[[int, int, float], None]:
    """Return a report for `Run.advance` that logs a line every half a minute."""
    told = time.monotonic()

    def report(step: int, _: int, loss: float) -> None:
        nonlocal told
        if time.monotonic() - told > 30:
            told = time.monotonic()
            log(
                f"{stage.name}: step {step}, {run.clock.done(run.config):.1%}, loss {loss:.3f}, {run.metrics}"
            )

    return report


def _write_world(stage: Stage, recipe: Recipe, place: Place, run: Run) -> None:
    """Write the world of a stage beside those of the other stages, with the other parts of the base world."""
    folder = place.out / "parts"
    parts = write_parts(recipe.autoencoder, folder)
    export_world(
        name=stage.name, dit=place.out / stage.name / "dit.safetensors", vae=parts["vae"],
        refiner=parts.get("refiner") if stage.memory else None, out=place.out / "worlds" / stage.name,
        sampler=SAMPLER, trained_steps=WorldLossConfig(**stage.loss).frames - 1, metrics=run.metrics,
    )  # fmt: skip
    load_embedded(place.out / "worlds" / stage.name)  # strict: what was written is a world

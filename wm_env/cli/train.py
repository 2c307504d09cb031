"""`wm-env train data|vae|depth|latents|refiner|world|self-forcing`: the trainings of the embedded weights.

Each is also `python -m wm_env.model.training ...` on a machine without the command line's dependencies.
Every command resumes: rendering and encoding skip what exists, trainings continue with `--resume`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from tqdm import tqdm

from wm_env.model.storage.atomic import check_folder

if TYPE_CHECKING:
    from wm_env.model.training.loop import LoopConfig


def _bar(unit: str) -> Callable[..., None]:
    """Return `report(done, total, loss=None)` that draws a progress bar from the first call on."""
    bars: list[tqdm] = []

    def report(done: int, total: int, loss: float | None = None) -> None:
        if not bars:
            bars.append(tqdm(unit=unit, total=total, initial=done - 1))
        if loss is not None:
            bars[0].set_postfix(loss=f"{loss:.4f}", refresh=False)
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return report


def _run_folder(out: Path, resume: bool) -> None:
    """Raise unless `out` can take a run: new without `resume`."""
    if (out / "state.pt").exists() and not resume:
        raise ValueError(f"{out} already holds a run; add --resume to continue it or choose another --out")
    check_folder(out)


def _summary(run: Any, out: Path) -> dict[str, Any]:
    print(f"{out}: step {run.step} of {run.config.total_steps}, {run.metrics}")
    return {"out": str(out), "finished": run.finished, **run.card()}


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """Render clips of procedural scenes (frames, depth, poses, captions with events) into OUT/SPLIT."""

    out: Path
    """Folder of the data set."""
    split: Literal["train", "val", "heldout"] = "train"
    """Scene split; no scene is in two."""
    clips: int = 4000
    """Clips in all; shards that exist are kept. 64 are plenty for val."""
    frames: int = 69
    """Pixel frames of a clip, 4k+1."""
    rank: int = 0
    """Number of this worker, of several that fill OUT together."""
    of: int = 1
    """How many workers there are."""
    on_the_fly: bool = False
    """Write only the recipe: trainings that read OUT render the clips when they need them."""
    seed: int = 0
    """First scene seed; clip i has seed SEED + i."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        from wm_env.model.data.procedural import RenderConfig, render_shards
        from wm_env.model.data.rendered import write_recipe

        torch.set_num_threads(1)
        config = RenderConfig(split=self.split, clips=self.clips, frames=self.frames, first_seed=self.seed)
        if self.on_the_fly:
            write_recipe(self.out / self.split, config)
        else:
            render_shards(self.out / self.split, config, _bar("shard"), rank=self.rank, of=self.of)
        return {"out": str(self.out / self.split), **dataclasses.asdict(config)}


@dataclass(frozen=True, kw_only=True)
class TrainVAE:
    """Train the RGB-D autoencoder and its depth network; OUT/vae.safetensors is the result."""

    data: Path
    """Folder with train/ and val/ clips (`wm-env train data`)."""
    out: Path
    """Run folder: losses, state, weights, card."""
    preset: Literal["tiny", "smoke"] = "tiny"
    """tiny: the embedded weights, about 15 minutes on one CPU core; smoke: seconds."""
    init: Path | None = None
    """vae.safetensors to adapt to these clips (of a world: `wm-env train parts`); its sizes are kept."""
    steps: int | None = None
    """Stop after this many steps; the preset's length by default."""
    seconds: float | None = None
    """Stop after this many seconds; continue later with --resume."""
    kl: float = 0.0
    """Weight of the KL term that fixes the scale of the raw latents, e.g. 1e-4; 0 for none."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    resume: bool = False
    """Continue the run in OUT."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """CPU threads; two processes are faster than one with two."""
    render_workers: int = 0
    """Processes that render, for data made with --on-the-fly; 0 renders between the steps."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        from wm_env.model.training import vae

        _run_folder(self.out, self.resume)
        torch.set_num_threads(self.threads)
        if self.kl < 0:
            raise ValueError(f"--kl {self.kl} is a weight and cannot be negative")
        config = dataclasses.replace(vae.preset(self.preset), kl=self.kl)
        config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, seed=self.seed))
        run = vae.train_vae(
            data=self.data,
            out=self.out,
            config=config,
            init=self.init,
            seconds=self.seconds,
            steps=self.steps,
            device=self.device,
            render_workers=self.render_workers,
            report=_bar("step"),
        )
        return _summary(run, self.out)


@dataclass(frozen=True, kw_only=True)
class TrainDepth:
    """Train the depth network of an autoencoder further, its codec frozen, into OUT/vae.safetensors."""

    data: Path
    """Folder with train/ and val/ clips."""
    vae: Path
    """vae.safetensors to start from."""
    out: Path
    """Run folder: losses, state, weights, card."""
    preset: Literal["tiny", "smoke"] = "tiny"
    """tiny: the embedded weights, about 5 minutes on one CPU core; smoke: seconds."""
    steps: int | None = None
    """Stop after this many steps; the preset's length by default."""
    seconds: float | None = None
    """Stop after this many seconds; continue later with --resume."""
    seed: int = 0
    """Seed of the batches."""
    resume: bool = False
    """Continue the run in OUT."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """CPU threads; two processes are faster than one with two."""
    render_workers: int = 0
    """Processes that render, for data made with --on-the-fly; 0 renders between the steps."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        from wm_env.model.training import depth

        _run_folder(self.out, self.resume)
        torch.set_num_threads(self.threads)
        config = depth.preset(self.preset)
        config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, seed=self.seed))
        run = depth.train_depth(
            data=self.data,
            vae_path=self.vae,
            out=self.out,
            config=config,
            seconds=self.seconds,
            steps=self.steps,
            device=self.device,
            render_workers=self.render_workers,
            report=_bar("step"),
        )
        return _summary(run, self.out)


@dataclass(frozen=True, kw_only=True)
class TrainLatents:
    """Encode clips with a trained autoencoder into OUT/SPLIT, for `train refiner` and `train world`."""

    data: Path
    """Folder with SPLIT/ clips."""
    vae: Path
    """vae.safetensors of `train vae`."""
    out: Path
    """Folder of the latents."""
    split: Literal["train", "val", "heldout"] = "train"
    """Which clips."""
    seed: int = 0
    """Accepted for uniformity; nothing is random here."""
    device: str = "cpu"
    """Torch device."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        from wm_env.model.data.latents import encode_shards
        from wm_env.model.training.vae import load_vae

        torch.set_num_threads(1)
        vae, card = load_vae(self.vae)
        source, target = self.data / self.split, self.out / self.split
        encode_shards(vae.to(self.device), card["sha256"], source, target, _bar("shard"))
        return {"out": str(target), "vae_sha256": card["sha256"]}


@dataclass(frozen=True, kw_only=True)
class TrainRefiner:
    """Train the pixel refiner, into OUT/refiner.safetensors.

    First on imitated errors (--latents, --vae), then, given --world, on that world's own rollouts.
    """

    data: Path
    """Folder with train/ and val/ clips."""
    latents: Path | None = None
    """Folder with their latents (`wm-env train latents`)."""
    vae: Path | None = None
    """vae.safetensors that made the latents."""
    world: Path | None = None
    """World folder whose refiner is trained further, on its rollouts."""
    lora: int = 0
    """With --world: rank of corrections to its frozen refiner, merged into the result; 0 trains all of it."""
    out: Path
    """Run folder: losses, state, weights, card."""
    preset: Literal["tiny", "tiny-flow", "smoke", "smoke-flow"] = "tiny"
    """tiny: the embedded weights, about 10 minutes on one CPU core; tiny-flow: three calls instead of one
    (without --world); smoke ones take seconds."""
    total_steps: int | None = None
    """Declared length, over which the learning rate falls; default: the preset's."""
    steps: int | None = None
    """Stop after this many steps; the declared length by default."""
    seconds: float | None = None
    """Stop after this many seconds; continue later with --resume."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    resume: bool = False
    """Continue the run in OUT."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """CPU threads; two processes are faster than one with two."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        from wm_env.model.training import refiner

        if (self.world is None) != (self.latents is not None and self.vae is not None):
            raise ValueError("give --latents and --vae to train on imitated errors, or --world alone")
        if self.lora and self.world is None:
            raise ValueError(f"--lora {self.lora} corrects a trained refiner; give its --world")
        _run_folder(self.out, self.resume)
        torch.set_num_threads(self.threads)
        if self.world is not None:
            return self._on_rollouts(self.world)
        assert self.latents is not None
        assert self.vae is not None
        config = refiner.preset(self.preset)
        config = dataclasses.replace(config, loop=self._loop(config.loop))
        run = refiner.train_refiner(
            data=self.data,
            latents=self.latents,
            vae_path=self.vae,
            out=self.out,
            config=config,
            seconds=self.seconds,
            steps=self.steps,
            device=self.device,
            report=_bar("step"),
        )
        return _summary(run, self.out)

    def _loop(self, preset: LoopConfig) -> LoopConfig:
        total = preset.total_steps if self.total_steps is None else self.total_steps
        return dataclasses.replace(preset, seed=self.seed, total_steps=total)

    def _on_rollouts(self, world: Path) -> dict[str, Any]:
        from wm_env.model.training import refiner_rollouts

        config = dataclasses.replace(refiner_rollouts.preset(self.preset), lora=self.lora)
        config = dataclasses.replace(config, loop=self._loop(config.loop))
        run = refiner_rollouts.train_on_rollouts(
            data=self.data,
            world=world,
            out=self.out,
            config=config,
            seconds=self.seconds,
            steps=self.steps,
            device=self.device,
            report=_bar("step"),
        )
        return _summary(run, self.out)


@dataclass(frozen=True, kw_only=True)
class TrainWorld:
    """Train the transformer of an embedded world; OUT/dit.safetensors, and OUT/world to load."""

    data: Path
    """Folder with train/ and val/ clips."""
    vae: Path
    """vae.safetensors that made the latents."""
    out: Path
    """Run folder: losses, state, weights, card."""
    latents: Path | None = None
    """Folder with their latents (`wm-env train latents`); not needed for data that is rendered when read."""
    preset: Literal["base", "tiny-pure", "tiny", "smoke", "smoke-memory"] | None = None
    """base comes first; tiny-pure and tiny (the default) start from it (--init); smoke ones take seconds."""
    config: Path | None = None
    """Recipe instead of a preset: architecture, loop and stages in one .toml or .json file."""
    init: Path | None = None
    """dit.safetensors to start from."""
    refiner: Path | None = None
    """refiner.safetensors for OUT/world; a world with memory can only be loaded with one."""
    lora: int = 0
    """Rank of corrections to the frozen --init, merged into the result; 0 trains all weights."""
    recompute: bool = False
    """Compute every block again in the backward pass: less memory, more time, the same gradients."""
    microbatches: int = 1
    """Batches drawn for one step; their mean gradient is used."""
    steps: int | None = None
    """Stop after this many steps; the preset's length by default."""
    seconds: float | None = None
    """Stop after this many seconds; continue later with --resume."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    resume: bool = False
    """Continue the run in OUT."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """CPU threads; two processes are faster than one with two."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        from wm_env.model.rollout import SamplerConfig
        from wm_env.model.training import world
        from wm_env.model.training.recipe import chosen, with_options

        config = with_options(
            chosen(self.preset, self.config),
            lora=self.lora,
            recompute=self.recompute,
            microbatches=self.microbatches,
        )
        memory = bool(config.dit.memory_channels)
        if self.refiner is not None and not memory:
            raise ValueError(f"--refiner {self.refiner}: a world without memory has none; leave it out")
        _run_folder(self.out, self.resume)
        torch.set_num_threads(self.threads)
        config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, seed=self.seed))
        run = world.train_world(
            data=self.data,
            latents=self.latents,
            vae=self.vae,
            out=self.out,
            config=config,
            init=self.init,
            seconds=self.seconds,
            steps=self.steps,
            device=self.device,
            report=_bar("step"),
        )
        if not memory or self.refiner is not None:
            world.export_world(
                name=self.out.name,
                dit=self.out / "dit.safetensors",
                vae=self.vae,
                refiner=self.refiner,
                out=self.out / "world",
                sampler=SamplerConfig(),
                trained_steps=config.stages[-1].frames - 1,
                metrics=run.metrics,
            )
        return _summary(run, self.out)


@dataclass(frozen=True, kw_only=True)
class TrainSelfForcing:
    """Train a world further on its own rollouts: to the mean of what is true, or to the likeliest.

    OUT/dit.safetensors, and OUT/world to load."""

    data: Path
    """Folder with train/ and val/ clips."""
    latents: Path
    """Folder with their latents (`wm-env train latents`)."""
    world: Path
    """World folder (or preset) whose transformer is trained on and whose other parts make the rollouts."""
    out: Path
    """Run folder: losses, state, weights, card."""
    preset: Literal["tiny", "tiny-vivid", "smoke"] = "tiny"
    """tiny: squares (the mean). tiny-vivid: the likeliest in true contrast, after tiny. smoke: seconds."""
    init: Path | None = None
    """dit.safetensors to start from instead of the world's."""
    far_data: Path | None = None
    """Long clips (e.g. 261 frames): a share of the steps learns in the middle of long rollouts."""
    far_latents: Path | None = None
    """Their latents."""
    far: float | None = None
    """That share, in [0, 1]; default: the preset's."""
    total_steps: int | None = None
    """Declared length, over which the learning rate falls; default: the preset's."""
    learning_rate: float | None = None
    """Peak rate of both optimizers; default: the preset's."""
    steps: int | None = None
    """Stop after this many steps."""
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
        from wm_env.model.training import self_forcing

        if (self.far_data is None) != (self.far_latents is None):
            raise ValueError("--far-data and --far-latents go together; give both or none")
        _run_folder(self.out, self.resume)
        torch.set_num_threads(self.threads)
        config = self_forcing.preset(self.preset)
        loop = dataclasses.replace(config.loop, seed=self.seed)
        if self.total_steps is not None:
            loop = dataclasses.replace(loop, total_steps=self.total_steps)
        if self.learning_rate is not None:
            loop = dataclasses.replace(loop, lr=self.learning_rate, muon_lr=self.learning_rate)
        config = dataclasses.replace(config, loop=loop, far=config.far if self.far is None else self.far)
        run = self_forcing.train_self_forcing(
            data=self.data,
            latents=self.latents,
            world=self.world,
            out=self.out,
            config=config,
            far=None
            if self.far_data is None or self.far_latents is None
            else (self.far_data, self.far_latents),
            init=self.init,
            seconds=self.seconds,
            steps=self.steps,
            report=_bar("step"),
        )
        return _summary(run, self.out)

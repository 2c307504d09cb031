"""Training of the embedded transformers: presets, a resumable run, and the export of a whole world.

The embedded worlds come from these runs (see docs/training.md for the commands):

    base        the plain path, short clips
    tiny-pure   from base: longer clips, own predictions in the history
    tiny        from base, the same, with the point memory as an input

both of the last go on with self_forcing.py, on whole rollouts of their own, while the learning rate falls.
`export_world` puts the averaged weights, the autoencoder and (for `tiny`) the refiner into one file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wm_env.model.config import DiTConfig
from wm_env.model.data.rendered import open_latents
from wm_env.model.dit import DiT
from wm_env.model.embedded import write_parts
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.state import tree_map
from wm_env.model.storage.atomic import scratch_folder
from wm_env.model.storage.checkpoint import load_checkpoint
from wm_env.model.text import HashTextEncoder
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.batches import BatchSource, WorldBatch
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.lora import add_lora, lora_rule, merged
from wm_env.model.training.losses.clip import ClipLossConfig, clip_loss
from wm_env.model.training.losses.flow_matching import WorldLoss, WorldLossConfig, world_loss
from wm_env.model.training.optimizers import ParameterGroup
from wm_env.model.training.precision import bf16_supported, fast_attention
from wm_env.model.training.recipe import DATA, only_known, read
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.transformer import channel_weights, parameter_rule, set_half_lives
from wm_env.model.training.world_folder import BASE, export_world
from wm_env.model.vae.tiny import TinyVAE


@dataclass(frozen=True, kw_only=True)
class WorldTraining:
    """A run: architecture, losses and the step (as a share of the run) up to which each loss applies.

    half_lives: where the decay gates start, in latent frames per head; empty for where `init` left them.
    lora: rank of corrections to a frozen start, 0 to train all weights. recompute: keep each block's input
    alone for the backward pass; less memory, a forward pass more, the same gradients.
    """

    dit: DiTConfig
    loop: LoopConfig
    stages: tuple[WorldLossConfig | ClipLossConfig, ...]
    ends: tuple[float, ...]
    half_lives: tuple[float, ...] = ()
    bf16: bool = True
    lora: int = 0
    recompute: bool = False

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.ends) or list(self.ends) != sorted(self.ends) or self.ends[-1] != 1.0:
            raise ValueError(f"every stage needs an end, rising to 1.0; got {self.ends}")

    def stage(self, step: int) -> int:
        """Return the stage that `step` belongs to."""
        done = step / self.loop.total_steps
        return next((i for i, end in enumerate(self.ends) if done < end), len(self.ends) - 1)


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """The fields of `WorldTraining` that a recipe gives as they are."""

    dit: DiTConfig
    loop: LoopConfig
    half_lives: tuple[float, ...] = ()
    bf16: bool = True
    lora: int = 0
    recompute: bool = False


KINDS = {"rollout": WorldLossConfig, "clip": ClipLossConfig}


def training_of(values: Mapping[str, Any]) -> WorldTraining:
    """Return the training of a recipe's values; a stage is `until`, `kind` and fields of its loss's config.

    Raises `ValueError` naming what is unknown, missing or impossible.
    """
    stages = [_stage(stage, number) for number, stage in enumerate(values.get("stages", ()), 1)]
    own = {key: value for key, value in values.items() if key not in ("stages", DATA)}
    fields = {field.name for field in dataclasses.fields(WorldTraining)} - {"ends"}
    only_known(own, fields, "the file")
    found = read(_Plain, own)
    losses, ends = zip(*stages, strict=True) if stages else ((), ())
    return WorldTraining(stages=losses, ends=ends, **vars(found))


def _stage(values: Mapping[str, Any], number: int) -> tuple[WorldLossConfig | ClipLossConfig, float]:
    where = f"stage {number}"
    if not isinstance(values, Mapping) or "until" not in values:
        raise ValueError(f"{where} needs until = the share of the run at which it ends")
    kind = values.get("kind", "rollout")
    if kind not in KINDS:
        raise ValueError(f"{where} has kind {kind!r}; choose one of {', '.join(KINDS)}")
    settings = {name: value for name, value in values.items() if name not in ("kind", "until")}
    return read(KINDS[kind], settings, where), float(values["until"])


def build_dit(config: WorldTraining) -> DiT:
    """Return the transformer of a run with the run's seeded initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        return DiT(config.dit, recompute=config.recompute)


def check(config: WorldTraining, inputs: Inputs) -> None:
    """Raise `ValueError` for inputs that do not go with the training."""
    if config.lora and inputs.init is None:
        raise ValueError(
            f"lora={config.lora} corrects trained weights; give the dit.safetensors to start from (--init)"
        )
    if inputs.refiner is not None and not config.dit.memory_channels:
        raise ValueError(f"--refiner {inputs.refiner}: a world without memory has none; leave it out")


def build(config: WorldTraining, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves `dit.safetensors` (averaged) and the world.

    inputs: `data`; `latents`, None for data that is rendered when read; `vae`, the autoencoder that made
    them; `init`, a `dit.safetensors` to start from, where inputs it lacks (the memory) start silent;
    `refiner` for the world, that of the embedded one where the transformer has a memory and none is given.
    """
    check(config, inputs)
    memory = bool(config.dit.memory_channels)
    out, device, vae = resources.out, torch.device(resources.device), inputs.need("vae")
    autoencoder, vae_card = load_vae(vae)
    data = Data(inputs.need("data"), inputs.latents, autoencoder.eval(), vae_card["sha256"])
    model = build_dit(config).to(device)
    init_sha = None if inputs.init is None else _start_from(model, inputs.init)
    if config.half_lives:
        set_half_lives(model, config.half_lives)
    if config.lora:
        add_lora(model, config.lora, seed=config.loop.seed)
    sources = data.sources("train", config)
    bf16 = config.bf16 and bf16_supported(device)
    weights = channel_weights(autoencoder, torch.from_numpy(sources[0].shards.z[:16, 1]).float())
    lora: dict[str, Any] = {"lora": config.lora} if config.lora else {}
    rule: Callable[[str, nn.Parameter], ParameterGroup] = lora_rule if config.lora else parameter_rule

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, DiT)
        stage = config.stage(number)
        batch = tree_map(lambda x: x.to(device), sources[stage].draw(generator))
        with fast_attention(device, bf16):
            return stage_loss(module, batch, config.stages[stage], generator, weights).mean, {}

    def leave(path: Path, metrics: Mapping[str, float]) -> None:
        with scratch_folder(out, "parts") as folder:
            refiner = inputs.refiner
            if memory and refiner is None:
                refiner = write_parts(BASE, folder)["refiner"]
            export_world(
                name=out.name, dit=path, vae=vae, refiner=refiner, out=out / "world",
                sampler=SamplerConfig(), trained_steps=config.stages[-1].frames - 1, metrics=metrics,
            )  # fmt: skip

    return Run(
        model=model,
        step_fn=step,
        config=config.loop,
        out=out,
        settings={
            "dit": dataclasses.asdict(config.dit),
            "stages": [dataclasses.asdict(stage) for stage in config.stages],
            "ends": list(config.ends),
            "half_lives": list(config.half_lives),
            "vae_sha256": vae_card["sha256"],
            "init_sha256": init_sha,
            "bf16": bf16,
            **lora,
        },
        evaluate=_evaluator(config, data, weights),
        rule=rule,
        facts={"data": {"clips": len(sources[0].shards), "latent_frames": sources[0].shards.groups}},
        group=resources.group,
        export=Export(
            name="dit", change=merged if config.lora else dict, entries={"part": "dit"}, world=leave
        ),
    )


def stage_loss(
    model: DiT,
    batch: WorldBatch,
    stage: WorldLossConfig | ClipLossConfig,
    generator: torch.Generator,
    weights: Tensor,
) -> WorldLoss:
    """Return the loss of a batch by the config of its stage."""
    if isinstance(stage, ClipLossConfig):
        return clip_loss(model, batch, stage, generator, weights)
    return world_loss(model, batch, stage, generator, weights)


def _start_from(model: DiT, path: Path) -> str:
    tensors, card = load_checkpoint(path)
    own = model.state_dict()
    for name, tensor in own.items():
        if name.startswith("memory_in.") and name not in tensors:
            tensors[name] = tensor
    model.load_state_dict(tensors, strict=True)
    return card["sha256"]


class Data(NamedTuple):
    """The clips of a run: their folders, and the autoencoder (eval mode) with its SHA-256."""

    clips: Path
    latents: Path | None
    vae: TinyVAE
    sha256: str

    def sources(self, split: str, config: WorldTraining) -> list[BatchSource]:
        """Return where every stage draws its batches from."""
        folder = (self.latents or self.clips) / split
        shards = open_latents(self.clips / split, folder, self.vae, self.sha256)
        captions = HashTextEncoder(width=config.dit.caption_channels).encode(shards.captions)
        memory = bool(config.dit.memory_channels)
        return [BatchSource(shards, captions, stage, memory) for stage in config.stages]


def _evaluator(
    config: WorldTraining, data: Data, weights: Tensor, batches: int = 6
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that measures the loss on fixed validation batches: mixed noise, and pure noise."""
    source, first = data.sources("val", config)[0], config.stages[0]
    fields = ("batch", "frames", "text_dropout", "start_true")
    drawn = WorldLossConfig(**{field: getattr(first, field) for field in fields})
    base = first if isinstance(first, WorldLossConfig) else drawn
    kept = dataclasses.replace(base, history_noise=0.05, own_history=0.0, text_dropout=0.0, pure_noise=0.5)
    source = BatchSource(source.shards, source.captions, kept, source.memory)

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DiT)
        generator = torch.Generator().manual_seed(1)
        totals: dict[str, list[float]] = {"val_loss": [], "val_pure": []}
        for _ in range(batches):
            batch = source.draw(generator, corrupt=False)
            batch = tree_map(lambda x: x.to(model.latent_in.weight.device), batch)
            loss = world_loss(model, batch, kept, generator, weights)
            totals["val_loss"].append(float(loss.mean))
            totals["val_pure"] += loss.error[loss.pure].tolist()
        return {name: sum(values) / len(values) for name, values in totals.items() if values}

    return evaluate

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wm_env.model.config import DiTConfig, tiny
from wm_env.model.data.rendered import open_latents
from wm_env.model.dit import DiT
from wm_env.model.embedded import EmbeddedConfig
from wm_env.model.memory import MEMORY_CHANNELS
from wm_env.model.refiner.tiny import TinyRefinerConfig
from wm_env.model.rollout import SamplerConfig
from wm_env.model.state import tree_map
from wm_env.model.storage.checkpoint import load_checkpoint, save_checkpoint
from wm_env.model.text import HashTextEncoder
from wm_env.model.training.clip_loss import ClipLossConfig, clip_step
from wm_env.model.training.distributed import SOLO, Group
from wm_env.model.training.flow_matching import (
    BatchSource,
    WorldLossConfig,
    channel_weights,
    parameter_rule,
    set_half_lives,
    step_function,
    world_loss,
)
from wm_env.model.training.loop import LoopConfig, Report, Rule, Run
from wm_env.model.training.lora import add_lora, lora_rule, merged
from wm_env.model.training.vae import bf16_supported, load_vae, vae_config
from wm_env.model.vae.tiny import TinyVAE

HALF_LIVES = (8.0, 32.0, 100.0, 300.0, 1000.0)  # latent frames (a quarter of a second), one per head
SLOW = 0.01  # the decay gates' share of the learning rate
PRESETS = ("base", "tiny-pure", "tiny", "smoke", "smoke-memory")


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


def preset(name: str) -> WorldTraining:
    """Return a training by name; see the module docstring. `smoke` and `smoke-memory` take seconds."""
    if name == "base":
        loop = LoopConfig(
            total_steps=1500,
            lr=1.2e-3,
            muon_lr=1.2e-3,
            slow_factor=SLOW,
            constant_fraction=1.0,
            eval_every=200,
        )
        stages: tuple[WorldLossConfig, ...] = (WorldLossConfig(),)
        return WorldTraining(dit=tiny(), loop=loop, stages=stages, ends=(1.0,), half_lives=HALF_LIVES)
    if name in ("tiny-pure", "tiny"):
        memory = MEMORY_CHANNELS if name == "tiny" else 0
        dropped = 0.3 if memory else 0.0  # tiny-pure has no window to drop
        stages = (
            WorldLossConfig(batch=6, frames=8),
            WorldLossConfig(batch=4, frames=14, pure_noise=0.5, own_history=0.5, window_dropout=dropped),
        )
        loop = LoopConfig(
            total_steps=1000, lr=1e-3, muon_lr=1e-3, slow_factor=SLOW, constant_fraction=1.0, ema_decay=0.99,
            eval_every=100,
        )  # fmt: skip
        return WorldTraining(
            dit=tiny(memory, window_chunks=1 if memory else 0),
            loop=loop,
            stages=stages,
            ends=(0.3, 1.0),
        )
    if name in ("smoke", "smoke-memory"):
        dit = dataclasses.replace(
            tiny(MEMORY_CHANNELS if name == "smoke-memory" else 0), hidden=32, heads=2, depth=4
        )
        loop = LoopConfig(
            total_steps=40,
            lr=1e-2,
            muon_lr=1e-2,
            warmup_steps=5,
            log_every=5,
            eval_every=40,
            constant_fraction=0.8,
        )
        stages = (WorldLossConfig(batch=4, frames=4), WorldLossConfig(batch=4, frames=4, own_history=0.5))
        return WorldTraining(dit=dit, loop=loop, stages=stages, ends=(0.7, 1.0), bf16=False)
    raise ValueError(f"unknown preset {name!r}; choose one of {PRESETS}")


def build_dit(config: WorldTraining) -> DiT:
    """Return the transformer of a run with the run's seeded initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        return DiT(config.dit, recompute=config.recompute)


def train_world(
    *,
    data: Path,
    latents: Path | None,
    vae: Path,
    out: Path,
    config: WorldTraining,
    init: Path | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    device: str = "cpu",
    report: Report | None = None,
    group: Group = SOLO,
) -> Run:
    """Train a slice of a run and return it; the averaged weights are written as `out/dit.safetensors`.

    data, latents: folders with `train/` and `val/`; latents None for data that is rendered when read.
    vae: the autoencoder that made the latents. init: a
    `dit.safetensors` to start from; inputs it lacks (the memory) start silent. group: the processes that
    share the work (distributed.py).
    """
    if config.lora and init is None:
        raise ValueError(
            f"lora={config.lora} corrects trained weights; give the dit.safetensors to start from"
        )
    autoencoder, vae_card = load_vae(vae)
    model = build_dit(config).to(device)
    init_sha = None
    if init is not None:
        init_sha = _start_from(model, init)
    if config.half_lives:
        set_half_lives(model, config.half_lives)
    if config.lora:
        add_lora(model, config.lora, seed=config.loop.seed)
    sources = _sources(config, data, latents, "train", autoencoder.eval(), vae_card["sha256"])
    bf16 = config.bf16 and bf16_supported(torch.device(device))
    weights = channel_weights(autoencoder, torch.from_numpy(sources[0].shards.z[:16, 1]).float())
    functions = [
        clip_step(source, stage, bf16, weights)
        if isinstance(stage, ClipLossConfig)
        else step_function(source, bf16, weights)
        for source, stage in zip(sources, config.stages, strict=True)
    ]
    lora: dict[str, Any] = {"lora": config.lora} if config.lora else {}
    rule: Callable[[str, nn.Parameter], Rule] = lora_rule if config.lora else parameter_rule

    def step(module: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        return functions[config.stage(number)](module, generator, number)

    run = Run(
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
        evaluate=_evaluator(config, data, latents, autoencoder, vae_card["sha256"], weights),
        rule=rule,
        facts={"data": {"clips": len(sources[0].shards), "latent_frames": sources[0].shards.groups}},
        group=group,
    )
    run.advance(seconds=seconds, steps=steps, report=report)
    run.export(out / "dit.safetensors", merged if config.lora else dict, part="dit")
    return run


def _start_from(model: DiT, path: Path) -> str:
    tensors, card = load_checkpoint(path)
    own = model.state_dict()
    for name, tensor in own.items():
        if name.startswith("memory_in.") and name not in tensors:
            tensors[name] = tensor
    model.load_state_dict(tensors, strict=True)
    return card["sha256"]


def _sources(
    config: WorldTraining, data: Path, latents: Path | None, split: str, vae: TinyVAE, sha256: str
) -> list[BatchSource]:
    shards = open_latents(data / split, (latents or data) / split, vae, sha256)
    captions = HashTextEncoder(width=config.dit.caption_channels).encode(shards.captions)
    return [
        BatchSource(shards, captions, drawn, bool(config.dit.memory_channels))
        for drawn in _drawn(config.stages)
    ]


def _drawn(stages: Sequence[WorldLossConfig | ClipLossConfig]) -> list[WorldLossConfig]:
    """Return what decides the clips of every stage."""
    fields = ("batch", "frames", "text_dropout", "start_true")
    return [
        WorldLossConfig(**{field: dataclasses.asdict(stage)[field] for field in fields})
        if isinstance(stage, ClipLossConfig)
        else stage
        for stage in stages
    ]


def _evaluator(
    config: WorldTraining,
    data: Path,
    latents: Path | None,
    vae: TinyVAE,
    sha256: str,
    weights: Tensor,
    batches: int = 6,
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that measures the loss on fixed validation batches: mixed noise, and pure noise."""
    source = _sources(config, data, latents, "val", vae, sha256)[0]
    kept = dataclasses.replace(
        source.config, history_noise=0.05, own_history=0.0, text_dropout=0.0, pure_noise=0.5
    )
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


def export_world(
    *,
    name: str,
    dit: Path,
    vae: Path,
    refiner: Path | None,
    out: Path,
    sampler: SamplerConfig,
    trained_steps: int,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Write `out/NAME.safetensors` (bfloat16) and its card from trained parts; return the SHA-256."""
    parts = {"dit": dit, "vae": vae} | ({} if refiner is None else {"refiner": refiner})
    tensors: dict[str, Tensor] = {}
    cards: dict[str, Any] = {}
    for part, path in parts.items():
        loaded, cards[part] = load_checkpoint(path)
        tensors |= {f"{part}.{key}": tensor for key, tensor in loaded.items()}
    settings = {part: card["settings"] for part, card in cards.items()}
    refiner_settings = settings.get("refiner", {}).get("refiner")
    world = EmbeddedConfig(
        dit=DiTConfig(**settings["dit"]["dit"]),
        vae=vae_config(settings["vae"]["vae"]),
        refiner=None if refiner_settings is None else TinyRefinerConfig(**refiner_settings),
        sampler=sampler,
        trained_steps=trained_steps,
    )
    card = {"name": name, "world": world.to_dict(), "parts": cards, "metrics": dict(metrics or {})}
    return save_checkpoint(out / f"{name}.safetensors", tensors, card, dtype=torch.bfloat16)

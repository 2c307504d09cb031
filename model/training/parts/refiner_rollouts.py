"""Further training of the refiner on rollouts of its own world: real guesses, real memories, real drift.

Every step rolls the world out along the poses of true clips, through the very `rollout.py` that the
environment uses, with the refiner being trained in it. Then the refiner is corrected on all chunks of those
rollouts: the decoder's and the memory's pictures as they were, the true frames as the goal. Errors that one
chunk hands to the next are so part of the training; no gradient passes from chunk to chunk.

The goal is the truth only where the memory shows something. Elsewhere nobody can know the true pixel, and the
best guess is a grey mean: there the goal is the decoded picture itself, so that the refiner leaves alone what
the transformer imagined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wm_env.model.data.clip import Clip
from wm_env.model.data.rendered import Clips, open_clips
from wm_env.model.embedded import load_embedded
from wm_env.model.pixels import to_pixels
from wm_env.model.refiner.tiny import TinyRefiner
from wm_env.model.rollout import LearnedWorld
from wm_env.model.training.clip_rollouts import begin_along, chunks_along
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.lora import add_lora, lora_rule, merged
from wm_env.model.training.losses.codec import psnr
from wm_env.model.training.optimizers import default_rule
from wm_env.model.training.parts.refiner import refine_with, refiner_loss
from wm_env.model.training.precision import bf16_supported
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.world_folder import export_changed
from wm_env.model.vae.tiny import GROUP

HORIZONS = (4, 16, 64)  # pixel frames


@dataclass(frozen=True, kw_only=True)
class RolloutTraining:
    """Sizes of a run: `batch` clips per step, rolled out for 1 to `chunks` chunks. lora: rank of corrections
    to the frozen refiner, 0 to train all of it."""

    loop: LoopConfig
    batch: int = 4
    chunks: int = 17
    bf16: bool = True
    lora: int = 0


class Rollout(NamedTuple):
    """What the refiner was given and should have made of it: decoded `(n B, 4, 4, H, W)`, seen
    `(n B, 4, 5, H, W)`, truth `(n B, 4, 4, H, W)`; chunk by chunk, batch within."""

    decoded: Tensor
    seen: Tensor
    truth: Tensor


def roll_out(world: LearnedWorld, clip: Clip, captions: Sequence[str], seeds: Sequence[int]) -> Rollout:
    """Return the refiner's inputs and targets along clips of 1 + 4 n frames."""
    assert world.refiner is not None
    state = begin_along(world, clip, captions, seeds)
    given = [(step.decoded, step.view.warped) for step in chunks_along(world, state, clip, captions)]
    decoded = torch.cat([pixels.clone() for pixels, _ in given])  # clones: out of inference mode
    seen = torch.cat([warped.clone() for _, warped in given if warped is not None])
    truth = to_pixels(clip.rgb, clip.depth)[:, 1:].unflatten(1, (-1, GROUP)).transpose(0, 1).flatten(0, 1)
    return Rollout(decoded, seen, truth.to(decoded.device))


def goal(rollout: Rollout) -> Tensor:
    """Return what the refiner should have made, `(n B, 4, 4, H, W)`: truth where seen, else the decoded."""
    mask = rollout.seen[:, :, 4:]
    return mask * rollout.truth + (1 - mask) * rollout.decoded


def sample(shards: Clips, config: RolloutTraining, generator: torch.Generator) -> tuple[Clip, list[int]]:
    """Return windows of random length and place of `batch` clips, and a noise seed for each."""
    most = min(config.chunks, (shards.frames - 1) // GROUP)
    chunks = int(torch.randint(1, most + 1, (), generator=generator))
    last = (shards.frames - 1) // GROUP - chunks
    clips = torch.randint(len(shards), (config.batch,), generator=generator).tolist()
    firsts = torch.randint(last + 1, (config.batch,), generator=generator).tolist()
    seeds = torch.randint(2**31, (config.batch,), generator=generator).tolist()
    spans = [slice(GROUP * a, GROUP * (a + chunks) + 1) for a in firsts]
    return shards.read_many(clips, spans), seeds


@torch.no_grad()
def evaluate(world: LearnedWorld, shards: Clips, clips: int = 16) -> dict[str, float]:
    """Return the PSNR of rollouts from the start of held-out clips, refined and decoded, by horizon."""
    assert world.refiner is not None
    span = slice(0, GROUP * min(16, (shards.frames - 1) // GROUP) + 1)
    count = min(clips, len(shards))
    clip = shards.read_many(range(count), [span] * count)
    rollout = roll_out(world, clip, shards.captions, range(count))
    generator = torch.Generator().manual_seed(5)
    refined = refine_with(world.refiner, rollout.decoded, rollout.seen, generator)
    found = {}
    for name, frames in (("refined", refined), ("decoded", rollout.decoded)):
        value = psnr(frames[:, :, :3], rollout.truth[:, :, :3]).unflatten(0, (-1, count))  # (n, B, 4)
        for horizon in HORIZONS:
            if horizon <= GROUP * len(value):
                found[f"{name}_{horizon}"] = float(value[horizon // GROUP - 1, :, -1].mean())
    return found


def build(config: RolloutTraining, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves `refiner.safetensors`.

    inputs: `data`, and the `world` whose refiner it is. Raises `ValueError` if that world has none.
    """
    data, world, out = inputs.need("data"), inputs.need("world"), resources.out
    device = torch.device(resources.device)
    train, val = open_clips(data / "train", resources.workers), open_clips(data / "val")
    loaded = load_embedded(world, device=resources.device)
    refiner = loaded.refiner
    if refiner is None:
        raise ValueError(f"{world} has no refiner to train; use a world with memory, such as tiny")
    refiner.requires_grad_(True)
    if config.lora:
        add_lora(refiner, config.lora, seed=config.loop.seed)
    bf16 = config.bf16 and bf16_supported(device)

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        clip, seeds = sample(train, config, generator)
        rollout = roll_out(loaded, clip, train.captions, seeds)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return refiner_loss(refiner, rollout.decoded, rollout.seen, goal(rollout), generator), {}

    def leave(weights: Path, metrics: Mapping[str, float]) -> None:
        export_changed(world, {"refiner": weights}, name=out.name, out=out / "world", metrics=metrics)

    assert isinstance(refiner, TinyRefiner)
    return Run(
        model=refiner,
        step_fn=step,
        config=config.loop,
        out=out,
        settings={
            "refiner": asdict(refiner.config),
            "batch": config.batch,
            "chunks": config.chunks,
            "world": loaded.spec.weights_sha256,
            **({"lora": config.lora} if config.lora else {}),
        },
        evaluate=lambda _: evaluate(loaded, val),
        rule=lora_rule if config.lora else default_rule,
        facts={"data": {"clips": len(train), "frames": train.frames}},
        export=Export(name="refiner", change=merged if config.lora else dict, world=leave),
        close=train.close,
    )

"""Further training of the depth network of a trained autoencoder, everything else frozen.

A world is given one picture, and its 3D memory begins with the depth predicted for it, so this network gets
more steps than the codec needs. Loss and images are those of `vae.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wm_env.model.data.clip import ClipShards
from wm_env.model.data.rendered import open_clips
from wm_env.model.storage.checkpoint import save_checkpoint
from wm_env.model.training.loop import LoopConfig, Report, Rule, Run
from wm_env.model.training.vae import bf16_supported, depth_loss, evaluate, load_vae, sample_images
from wm_env.model.vae.tiny import TinyVAE


@dataclass(frozen=True, kw_only=True)
class DepthTraining:
    """Sizes of a run: `images` per step."""

    loop: LoopConfig
    images: int = 96
    bf16: bool = True


def preset(name: str) -> DepthTraining:
    """Return the training named `tiny` (the embedded weights) or `smoke` (seconds, for tests)."""
    if name == "tiny":
        loop = LoopConfig(
            total_steps=2000, lr=2e-3, betas=(0.9, 0.98), constant_fraction=0.3, log_every=50, eval_every=500
        )
        return DepthTraining(loop=loop)
    if name == "smoke":
        loop = LoopConfig(total_steps=20, lr=3e-3, warmup_steps=5, log_every=5, eval_every=20, ema_decay=0.8)
        return DepthTraining(loop=loop, images=8, bf16=False)
    raise ValueError(f"unknown preset {name!r}; there are tiny and smoke")


def only_depth(name: str, parameter: nn.Parameter) -> Rule:
    """Rule all but the depth network "frozen"."""
    return "adamw" if name.startswith("depth_net.") else "frozen"


def train_depth(
    *,
    data: Path,
    vae_path: Path,
    out: Path,
    config: DepthTraining,
    seconds: float | None = None,
    steps: int | None = None,
    device: str = "cpu",
    render_workers: int = 0,
    report: Report | None = None,
) -> Run:
    """Train, or resume, in `out`; write the whole autoencoder as `out/vae.safetensors` after the slice.

    render_workers: processes that render where `data` is rendered when it is read.
    """
    train, val = open_clips(data / "train", render_workers), open_clips(data / "val")
    if isinstance(train, ClipShards) and train.origins:
        raise ValueError(
            f"the depth of {data} was predicted, not measured; a depth network would learn its own errors. "
            "Train it on rendered clips (`train data`)"
        )
    vae, card = load_vae(vae_path)
    vae = vae.to(device)
    bf16 = config.bf16 and bf16_supported(torch.device(device))

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, TinyVAE)
        colours, truth, intrinsics = sample_images(train, config.images, generator)
        colours = colours.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            predicted = model.depth_net(colours, intrinsics.to(device))
        return depth_loss(predicted.float(), truth.to(device)), {}

    run = Run(
        model=vae,
        step_fn=step,
        config=config.loop,
        out=out,
        settings={"vae": card["settings"]["vae"], "images": config.images, "from": card["sha256"]},
        evaluate=lambda model: evaluate(model, val),  # type: ignore[arg-type]
        rule=only_depth,
    )
    run.advance(seconds=seconds, steps=steps, report=report)
    save_checkpoint(out / "vae.safetensors", run.ema_weights(), {**run.card(), "codec": card})
    return run

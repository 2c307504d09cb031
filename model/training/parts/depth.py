"""Further training of the depth network of a trained autoencoder, everything else frozen.

A world is given one picture, and its 3D memory begins with the depth predicted for it, so this network gets
more steps than the codec needs. Loss and images are those of `vae.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wm_env.model.data.clip import ClipShards
from wm_env.model.data.rendered import open_clips
from wm_env.model.storage.checkpoint import load_card
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.codec import depth_loss
from wm_env.model.training.optimizers import ParameterGroup
from wm_env.model.training.parts.vae import evaluate, sample_images
from wm_env.model.training.precision import bf16_supported
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.world_folder import export_beside_base
from wm_env.model.vae.tiny import TinyVAE


@dataclass(frozen=True, kw_only=True)
class DepthTraining:
    """Sizes of a run: `images` per step."""

    loop: LoopConfig
    images: int = 96
    bf16: bool = True


def only_depth(name: str, parameter: nn.Parameter) -> ParameterGroup:
    """Put all but the depth network "frozen"."""
    return "adamw" if name.startswith("depth_net.") else "frozen"


def build(config: DepthTraining, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves the whole autoencoder as `vae.safetensors`.

    inputs: `data`, `vae`.
    """
    data, out, device = inputs.need("data"), resources.out, torch.device(resources.device)
    train, val = open_clips(data / "train", resources.workers), open_clips(data / "val")
    if isinstance(train, ClipShards) and train.origins:
        raise ValueError(
            f"the depth of {data} was predicted, not measured; a depth network would learn its own errors. "
            "Train it on rendered clips (`train data`)"
        )
    vae, card = load_vae(inputs.need("vae"))
    vae = vae.to(device)
    bf16 = config.bf16 and bf16_supported(device)

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, TinyVAE)
        colours, truth, intrinsics = sample_images(train, config.images, generator)
        colours = colours.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = model.depth_net(colours, intrinsics.to(device))
        return depth_loss(predicted.float(), truth.to(device)), {}

    def leave(weights: Path, metrics: Mapping[str, float]) -> None:
        own = load_card(weights)
        export_beside_base(own, {"vae": weights}, name=out.name, out=out / "world", metrics=metrics)

    return Run(
        model=vae,
        step_fn=step,
        config=config.loop,
        out=out,
        settings={"vae": card["settings"]["vae"], "images": config.images, "from": card["sha256"]},
        evaluate=lambda model: evaluate(model, val),  # type: ignore[arg-type]
        rule=only_depth,
        export=Export(name="vae", entries={"codec": card}, world=leave),
        close=train.close,
    )

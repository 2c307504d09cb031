"""What a training reads and where it runs; what it lacks is made inside its own folder.

    OUT/data        clips of procedural scenes, as many as the recipe's `[data]` says
    OUT/parts       the parts of the embedded world that a part is trained for
    OUT/latents     the clips by the autoencoder

All three are kept and continued when the command runs again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wm_env.model.data.latents import encode_shards
from wm_env.model.data.procedural import RenderConfig, render_shards
from wm_env.model.data.rendered import RECIPE
from wm_env.model.embedded import write_parts
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.distributed import SOLO, Group
from wm_env.model.training.recipe import DataSize

Progress = Callable[..., None]  # report(done, total, loss=None)
Bars = Callable[[str], Progress]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a training reads; a part takes some of it (table.py).

    data: folder with `train/` and `val/` clips. latents: the same of their latents; None too where the clips
    are rendered when they are read. vae: `vae.safetensors` that made them. world: preset or folder that a
    part belongs to. teacher: the world that is distilled, or its `dit.safetensors` (then `world` has its
    other parts). init: safetensors of the part to start from. refiner: `refiner.safetensors` for the world
    that is left. far_data, far_latents: long clips.
    """

    data: Path | None = None
    latents: Path | None = None
    vae: Path | None = None
    world: Path | None = None
    teacher: Path | None = None
    init: Path | None = None
    refiner: Path | None = None
    far_data: Path | None = None
    far_latents: Path | None = None

    def __post_init__(self) -> None:
        if (self.far_data is None) != (self.far_latents is None):
            raise ValueError("--far-data and --far-latents go together; give both or none")

    def need(self, name: str) -> Path:
        """Return an input that must be there; raise `ValueError` naming it otherwise."""
        found: Path | None = getattr(self, name)
        if found is None:
            raise ValueError(f"this training needs --{name}")
        return found


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where a training runs: its folder, device, processes (distributed.py), and helpers that render."""

    out: Path
    device: str = "cpu"
    group: Group = SOLO
    workers: int = 0


def completed(
    inputs: Inputs, needs: tuple[str, ...], size: DataSize, resources: Resources, world: str, bars: Bars
) -> Inputs:
    """Return the inputs with those of `needs` that are missing: made, or the embedded `world` and its parts.

    Only process 0 of a group makes something, so call it there first. bars(unit) returns a progress report.
    """
    out = resources.out
    if inputs.latents is not None and (inputs.data is None or ("vae" in needs and inputs.vae is None)):
        raise ValueError("--latents belong to clips and to an autoencoder; give --data and --vae with them")
    for name in ("world", "teacher"):
        if name in needs and getattr(inputs, name) is None:
            inputs = dataclasses.replace(inputs, **{name: Path(world)})
    if "vae" in needs and inputs.vae is None:
        inputs = dataclasses.replace(inputs, vae=write_parts(world, out / "parts")["vae"])
    if "data" in needs and inputs.data is None:
        bar = bars("clip")
        for split, clips in (("train", size.clips), ("val", size.val)):
            config = RenderConfig(split=split, clips=clips, frames=size.frames)
            render_shards(out / "data" / split, config, bar if split == "train" else None)
        inputs = dataclasses.replace(inputs, data=out / "data")
    if "latents" in needs and inputs.latents is None:
        inputs = _encoded(inputs, needs, resources, bars)
    return inputs


def _encoded(inputs: Inputs, needs: tuple[str, ...], resources: Resources, bars: Bars) -> Inputs:
    """Return the inputs with the latents of their clips, encoded if the clips are files."""
    data = inputs.need("data")
    if (data / "train" / RECIPE).is_file() and "vae" in needs:
        return inputs  # rendered, and encoded, when they are read
    if "vae" in needs:
        weights = inputs.need("vae")
    else:
        whole = inputs.world or inputs.need("teacher")
        weights = write_parts(whole, resources.out / "parts")["vae"]
    vae, card = load_vae(weights)
    bar = bars("clip")
    for split in ("train", "val"):
        target = resources.out / "latents" / split
        encode_shards(vae.to(resources.device), card["sha256"], data / split, target, bar)
    return dataclasses.replace(inputs, latents=resources.out / "latents")

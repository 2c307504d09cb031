"""Training of the judge: which cells of a rendered view are floor, ceiling, wall or something else.

Views are taken along walks through `train` scenes, rendered once when the run begins. Half of them are made
a little worse (softer, noisier, paler, as a world may draw them) and keep their labels; a fifth are made haze
(no detail over a third of the picture, little contrast) and are "other" throughout.

    loss = mean over cells of -log p(kind of most of its pixels)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.judge.network import KINDS, SIZE, Judge, cell_kinds, to_judge
from wm_env.model.scenes.paths import start_fov_deg, training_paths
from wm_env.model.scenes.raycast import render, surfaces
from wm_env.model.scenes.worlds import make_scenes, surface_kinds
from wm_env.model.training.export import Export
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.keyframes import rand
from wm_env.model.training.run import Run
from wm_env.model.training.schedule import LoopConfig

AT_ONCE = 64  # scenes that are walked together
OTHER = KINDS - 1


@dataclass(frozen=True, kw_only=True)
class JudgeTraining:
    """Sizes of a run. scenes, val_scenes: of `train` and `val`. views: of each, along a walk of `walk`
    frames. batch: views a step. haze, worse: shares of them that are made so."""

    loop: LoopConfig
    scenes: int = 1024
    val_scenes: int = 64
    views: int = 6
    walk: int = 97
    batch: int = 128
    haze: float = 0.2
    worse: float = 0.5

    def __post_init__(self) -> None:
        for name in ("scenes", "val_scenes", "views", "batch"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.walk < self.views:
            raise ValueError(f"walk={self.walk} frames are fewer than {self.views} views")


class Views(NamedTuple):
    """frames: uint8 `(n, 64, 64, 3)`. kinds: int64 `(n, 8, 8)`, what most of each cell shows."""

    frames: Tensor
    kinds: Tensor


def draw_views(split: str, scenes: int, views: int, walk: int) -> Views:
    """Return `views` views of each of the first `scenes` scenes of a split, evenly spaced along a walk."""
    frames, kinds = [], []
    times = torch.linspace(0, walk - 1, views).long()
    for begin in range(0, scenes, AT_ONCE):
        seeds = range(begin, min(begin + AT_ONCE, scenes))
        scene = make_scenes(seeds, split)
        poses = training_paths(scene, torch.Generator().manual_seed(begin), walk)[:, times]
        camera = [intrinsics_from_fov(start_fov_deg(seed), SIZE, SIZE) for seed in seeds]
        intrinsics = torch.tensor(camera, dtype=torch.float64)
        frames.append(render(scene, poses, intrinsics, SIZE, SIZE)[0].flatten(0, 1))
        found = surface_kinds(surfaces(scene, poses, intrinsics, SIZE, SIZE))
        kinds.append(cell_kinds(found).flatten(0, 1))
    return Views(torch.cat(frames), torch.cat(kinds))


def made_worse(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures `(B, 3, 64, 64)` a little softer, paler, brighter or darker, and noisier."""
    side = int(torch.randint(16, SIZE + 1, (), generator=generator))
    soft = F.interpolate(F.adaptive_avg_pool2d(x, side), x.shape[-2:], mode="bilinear")
    mean = soft.mean((2, 3), keepdim=True)
    contrast, level, noise = rand((3, len(x), 1, 1, 1), generator, x.device)
    grain = torch.randn(x.shape, generator=generator) * 0.1 * noise
    return (mean + (0.6 + 0.6 * contrast) * (soft - mean) + 0.2 * (level - 0.5) + grain).clamp(-1, 1)


def made_haze(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures `(B, 3, 64, 64)` with one to three blurred patches a side and little contrast."""
    side = int(torch.randint(1, 4, (), generator=generator))
    soft = F.interpolate(F.adaptive_avg_pool2d(x, side), x.shape[-2:], mode="bilinear")
    mean = soft.mean((2, 3), keepdim=True)
    return mean + 0.35 * rand((len(x), 1, 1, 1), generator, x.device) * (soft - mean)


def sample(views: Views, config: JudgeTraining, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a batch of pictures `(B, 3, 64, 64)` and its kinds `(B, 8, 8)`, half of them mirrored."""
    rows = torch.randint(len(views.frames), (config.batch,), generator=generator)
    x, kinds = to_judge(views.frames[rows]), views.kinds[rows]
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x[mirrored], kinds[mirrored] = x[mirrored].flip(-1), kinds[mirrored].flip(-1)
    chosen = torch.rand(len(x), generator=generator)
    haze, worse = chosen < config.haze, chosen > 1 - config.worse
    x[worse] = made_worse(x[worse], generator)
    x[haze], kinds[haze] = made_haze(x[haze], generator), OTHER
    return x, kinds


def evaluate(model: nn.Module, views: Views) -> dict[str, float]:
    """Return loss, share of cells that are told right, and how many hazy ones are told as such."""
    x = to_judge(views.frames)
    logits = model(x)
    haze = model(made_haze(x, torch.Generator().manual_seed(0)))
    return {
        "val_loss": float(F.cross_entropy(logits, views.kinds)),
        "right": float((logits.argmax(1) == views.kinds).double().mean()),
        "haze_told": float((haze.argmax(1) == OTHER).double().mean()),
    }


def build(config: JudgeTraining, inputs: Inputs, resources: Resources) -> Run:
    """Return the run in its folder, begun or resumed; it leaves `judge.safetensors` and no world."""
    torch.manual_seed(config.loop.seed)
    device = torch.device(resources.device)
    views = draw_views("train", config.scenes, config.views, config.walk)
    val = draw_views("val", config.val_scenes, config.views, config.walk)

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        x, kinds = sample(views, config, generator)
        return F.cross_entropy(model(x.to(device)), kinds.to(device)), {}

    return Run(
        model=Judge().to(device),
        step_fn=step,
        config=config.loop,
        out=resources.out,
        settings={name: value for name, value in vars(config).items() if name != "loop"},
        evaluate=lambda model: evaluate(model, Views(val.frames.to(device), val.kinds.to(device))),
        export=Export(name="judge", change=lambda tensors: {k: t.bfloat16() for k, t in tensors.items()}),
    )

"""How true a world's frames are, by horizon, beside what no model at all would reach.

The camera walks random keys (collisions slide along the walls) through procedural scenes. Every world gets
the start image and the same poses; its frames are compared with the renderer's at pixel-frame horizons h:

    PSNR(h) = mean over scenes of 10 log10(255^2 / MSE(frame_h, truth_h)),   with a 95% bootstrap interval.

Rows beside the world: repeat the first frame; the autoencoder fed with the truth (what the codec alone
costs); the world with a part ablated; the world shown the poses of another scene (wrong actions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import intrinsics_from_fov, relative_to_first
from wm_env.model.metrics import psnr
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.captions import caption
from wm_env.model.scenes.paths import start_fov_deg, start_pose, trajectory, walk_keys
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scene
from wm_env.model.vae.tiny import to_rgb
from wm_env.world import Start, World

BOOTSTRAP = 5000
FREEZE_MOTION = 0.1  # a frame is frozen below this share of the true frame-to-frame change
TRUE_MOTION = 1.0  # grey levels; below it the true view does not move and cannot freeze


class Walks(NamedTuple):
    """The truth of one walk per scene.

    frames: uint8 `(B, 1 + F, h, w, 3)`; depth: float32 `(B, 1 + F, h, w)` metres; c2w: `(B, 1 + F, 4, 4)`
    relative to the start; starts: what a world is given.
    """

    frames: Tensor
    depth: Tensor
    c2w: Tensor
    starts: list[Start]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95% percentile-bootstrap interval over scenes."""

    mean: float
    lo: float
    hi: float


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Return mean and interval of one value per scene `(S,)`."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (BOOTSTRAP, len(values)))].mean(1)
    lo, hi = np.percentile(means, [2.5, 97.5])
    return Interval(mean=float(values.mean()), lo=float(lo), hi=float(hi))


def walks(
    *,
    split: str,
    seeds: Sequence[int],
    chunks: int,
    size: int,
    kind: str = "random_walk",
    noise_seed: int = 0,
) -> Walks:
    """Return the truth of walking `kind` for `chunks` env steps from the start of every scene seed."""
    frames, depth, poses, starts = [], [], [], []
    for seed in seeds:
        scene = make_scene(seed, split)
        intrinsics = intrinsics_from_fov(start_fov_deg(seed), size, size)
        path = walk_keys(scene, start_pose(scene, seed)[None], trajectory(kind, chunks, seed))
        rgb, metres = render(scene, path, torch.tensor([intrinsics]), size, size)
        frames.append(rgb)
        depth.append(metres)
        poses.append(relative_to_first(path))
        image = rgb[0, 0].numpy()
        starts.append(
            Start(image=image, intrinsics=intrinsics, prompt=caption(scene)[0], noise_seed=noise_seed + seed)
        )
    return Walks(torch.cat(frames), torch.cat(depth), torch.cat(poses), starts)


def roll(world: World, starts: Sequence[Start], c2w: Tensor) -> Tensor:
    """Return the world's frames uint8 `(B, 1 + F, h, w, 3)` along poses `(B, 1 + F, 4, 4)` from the start."""
    first, state = world.begin(starts)
    shown = [first.frames.cpu()]
    for begin in range(1, c2w.shape[1], world.spec.frames_per_step):
        chunk, state = world.step_chunk(state, c2w[:, begin : begin + world.spec.frames_per_step])
        shown.append(chunk.frames.cpu())
    return torch.cat(shown, dim=1)


def codec_only(world: LearnedWorld, truth: Walks) -> Tensor:
    """Return the true frames after the world's autoencoder, uint8, shaped like `truth.frames`."""
    vae = world.vae
    with torch.inference_mode():
        latents = vae.encode_clip(truth.frames, truth.depth)  # (B, T, C, h, w)
        state = vae.start_decoding(latents[:, 0])
        shown = []
        for latent in latents.unbind(1):
            pixels, state = vae.decode(latent, state)
            shown.append(to_rgb(pixels))
    frames = torch.stack(shown, dim=1).flatten(1, 2)  # (B, 4T, h, w, 3), frame 0 four times
    return frames[:, 3:]


def horizons_table(
    worlds: dict[str, World],
    truth: Walks,
    horizons: Sequence[int],
    report: Callable[[str], None] | None = None,
) -> dict[str, dict[int, np.ndarray]]:
    """Return PSNR per scene `(S,)` by row name and horizon, for every world and the rows without a world.

    `wrong actions` is the first world shown the next scene's poses.
    """
    shown: dict[str, Tensor] = {"repeat first frame": truth.frames[:, :1].expand_as(truth.frames)}
    first_name, first_world = next(iter(worlds.items()))
    if isinstance(first_world, LearnedWorld):
        shown["codec alone"] = codec_only(first_world, truth)
    for name, world in worlds.items():
        if report is not None:
            report(name)
        shown[name] = roll(world, truth.starts, truth.c2w)
    if report is not None:
        report("wrong actions")
    shown[f"{first_name}, wrong actions"] = roll(first_world, truth.starts, truth.c2w.roll(1, dims=0))
    return {
        name: {h: psnr(frames[:, h], truth.frames[:, h]).numpy() for h in horizons}
        for name, frames in shown.items()
    }


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Statistics of the last frames of long rollouts over the truth's, 1 = equal; share of frozen frames."""

    luma: float
    contrast: float
    saturation: float
    freeze: float


def appearance(frames: Tensor, truth: Tensor, last: int) -> Appearance:
    """Return the appearance ratios of the last `last` frames, uint8 `(B, F, h, w, 3)` both.

    luma: mean of 0.299 R + 0.587 G + 0.114 B. contrast: its RMS deviation within a frame. saturation: mean of
    max(RGB) - min(RGB). A frame is frozen when it changes less than a tenth of what the true one does.
    """

    def statistics(x: Tensor) -> tuple[float, float, float]:
        x = x[:, -last:].float()
        luma = x @ torch.tensor([0.299, 0.587, 0.114])
        saturation = x.amax(-1) - x.amin(-1)
        return float(luma.mean()), float(luma.flatten(2).std(-1).mean()), float(saturation.mean())

    def motion(x: Tensor) -> Tensor:
        x = x[:, -last - 1 :].float()
        return (x[:, 1:] - x[:, :-1]).abs().flatten(2).mean(-1)  # (B, last)

    ratios = [a / b for a, b in zip(statistics(frames), statistics(truth), strict=True)]
    moving = motion(truth) > TRUE_MOTION
    frozen = motion(frames)[moving] < FREEZE_MOTION * motion(truth)[moving]
    return Appearance(
        luma=ratios[0], contrast=ratios[1], saturation=ratios[2], freeze=float(frozen.float().mean())
    )

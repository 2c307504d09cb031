"""Where an error comes from: the wrong place or the wrong picture, and the same in latents.

With g a generated frame, x(p) the true view from the commanded pose p, and p' the pose that g was found to
be taken from (`pose_estimate`):

    geo = PSNR(g, x(p')) - PSNR(g, x(p))         what the place costs: the right picture of the wrong place
    app = PSNR(codec) - PSNR(g, x(p'))           what the picture costs: the wrong picture of the right place

It takes a renderer, hence a twin (docs/reference/evaluation.md#error-split). Legend: `B` walks, `n` sampled
frames, `F` frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.drift.bins import bin_means, bin_of
from wm_env.bench.drift.pose_estimate import PoseTrack
from wm_env.model.metrics import psnr
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene


def place_scores(
    scene: Scene, track: PoseTrack, frames: Tensor, truth: Tensor, intrinsics: Tensor, bins: int
) -> list[dict[str, list[float]]]:
    """Return, for every walk, PSNR per bin at the commanded poses and at the estimated ones.

    frames, truth: `(B, 1 + F, h, w, 3)` uint8. Sampled frames without an estimate take no part in either.
    """
    sampled = track.frames[1:]
    made, true = frames[:, sampled], truth[:, sampled]  # (B, n, h, w, 3)
    seen, _ = render(scene, track.c2w[:, 1:], intrinsics, *frames.shape[2:4])
    where = bin_of(frames.shape[1] - 1, bins)[sampled.numpy() - 1]
    out = []
    for slot in range(len(frames)):
        lost = track.lost[slot, 1:].numpy()
        found = {
            name: np.where(lost, np.nan, psnr(made[slot], other[slot]).numpy())
            for name, other in (("psnr_commanded", true), ("psnr_estimated", seen))
        }
        out.append({name: bin_means(values, where, bins) for name, values in found.items()})
    return out


def latent_scores(latents: Tensor, truth: Tensor, bins: int) -> list[dict[str, Any]]:
    """Return, for every walk, how far its latents are from the encoded truth, by time bin.

    latents, truth: `(B, 1 + T, C, h, w)`; frame 0 takes no part. error: |z - z*| / |z*|. mean_shift: mean
    over channels of |mean z_c - mean z*_c| / std z*_c. std_ratio: mean over channels of std z_c / std z*_c.
    """
    made, true = latents[:, 1:].double(), truth[:, 1:].double()
    error = (made - true).flatten(2).norm(dim=-1) / true.flatten(2).norm(dim=-1).clamp_min(1e-9)  # (B, T)
    spread = true.flatten(3).std(-1).clamp_min(1e-6)  # (B, T, C)
    shift = ((made - true).flatten(3).mean(-1).abs() / spread).mean(-1)
    ratio = (made.flatten(3).std(-1) / spread).mean(-1)
    where = bin_of(error.shape[1], bins)
    tables = {"error": error, "mean_shift": shift, "std_ratio": ratio}
    return [
        {name: bin_means(values[slot].numpy(), where, bins) for name, values in tables.items()}
        for slot in range(len(made))
    ]


def encoded(world: Any, frames: Tensor, depth: Tensor) -> Tensor:
    """Return the latents `(B, 1 + T, C, h, w)` of true clips `(B, 1 + F, h, w, 3)` and their depth."""
    with torch.inference_mode():
        return world.vae.encode_clip(frames.to(world.device), depth.to(world.device)).float().cpu()

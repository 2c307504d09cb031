"""Memory views for training: what the memory would have shown at every chunk of a clip.

At run time keyframes are the world's own frames: slightly wrong in colour, blurred, with errors of depth.
Training on perfect ones would teach blind trust, so keyframes of true clips are damaged alike first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.pixels import inverse_depth, metric_depth
from wm_env.model.point_memory import choose_slots, kept_frames, splat
from wm_env.model.vae.tiny import GROUP


def rand(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Return uniform numbers in [0, 1) drawn on the CPU, moved to `device`."""
    return torch.rand(shape, generator=generator).to(device)


def corrupt_keyframes(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return keyframes `(B, T, 4, H, W)` damaged per clip and frame.

    3x3 blur in half of the clips, noise up to 0.04, brightness of a tenth of the clips scaled by 0.75-1.3 (a
    change of light that the keyframes have not seen). Depth: 2% of scale per frame, 1.5% of smooth error,
    0.4% of grain; much grain would tear surfaces apart, which generated frames do not show.
    """
    batch, frames, _, height, width = pixels.shape
    device = pixels.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def per_clip(probability: float = 1.0) -> Tensor:
        value = rand((batch, 1, 1, 1, 1), generator, device)
        return value * (rand((batch, 1, 1, 1, 1), generator, device) < probability)

    colour, depth = pixels[:, :, :3], metric_depth(pixels[:, :, 3])
    blurred = F.avg_pool2d(colour.flatten(0, 1), 3, 1, 1, count_include_pad=False).view(colour.shape)
    colour = colour + (blurred - colour) * per_clip(0.5)
    colour = colour + 0.04 * per_clip().square() * normal(*colour.shape)
    light = 0.75 + 0.55 * per_clip()
    changed = rand((batch, 1, 1, 1, 1), generator, device) < 0.1
    colour = torch.where(changed, (colour + 1) * light - 1, colour).clamp(-1, 1)
    coarse = normal(batch, frames, height // 8, width // 8)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    scale = 0.02 * normal(batch, frames, 1, 1)
    depth = depth * (1 + scale + 0.015 * smooth) * (1 + 0.004 * normal(*depth.shape))
    return torch.cat([colour, inverse_depth(depth)[:, :, None]], dim=2)


def views_of_chunk(
    keyframes: Tensor, chunk: int, c2w: Tensor, intrinsics: Tensor, last_only: bool = False
) -> Tensor:
    """Return the memory's views `(B, 4, 5, H, W)` for the frames of chunk `chunk` >= 1, or its last alone.

    keyframes `(B, T, 4, H, W)`: last frame of every latent (frame 0 for latent 0); c2w `(B, F, 4, 4)`.
    Slots are kept and chosen as in `point_memory.write_memory` and `read_memory`.
    """
    kept, valid = kept_frames(c2w[:, : GROUP * (chunk - 1) + 1 : GROUP])  # (B, S)
    rows = torch.arange(len(kept), device=kept.device)[:, None]
    slots, poses = keyframes[rows, kept], c2w[rows, GROUP * kept]
    first = GROUP * chunk if last_only else GROUP * chunk - 3
    target = c2w[:, first : GROUP * chunk + 1]
    chosen, counts = choose_slots(slots[:, :, 3], poses, valid, target[:, -1], intrinsics)
    return splat(slots[rows, chosen], poses[rows, chosen], counts, target, intrinsics)


def views_of_clip(keyframes: Tensor, c2w: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the memory's views `(B, T, 4, 5, H, W)` for all latents of a clip; zeros for latent 0."""
    batch, latents, _, height, width = keyframes.shape
    first = keyframes.new_zeros(batch, GROUP, 5, height, width)
    rest = [views_of_chunk(keyframes, chunk, c2w, intrinsics) for chunk in range(1, latents)]
    return torch.stack([first, *rest], dim=1)


def true_keyframes(pixels: Tensor, depth0: Tensor) -> Tensor:
    """Return `(B, T, 4, H, W)`: the last frame of every latent of pixels `(B, F, 4, H, W)`; frame 0 carries
    the predicted depth `depth0` `(B, H, W)`, as at run time."""
    keyframes = pixels[:, ::GROUP].clone()
    keyframes[:, 0, 3] = inverse_depth(depth0)
    return keyframes

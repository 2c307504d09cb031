"""Memory views for training: what the memory would have shown at every chunk of a clip.

At run time keyframes are the world's own frames: slightly wrong in colour, blurred, with errors of depth.
Training on perfect ones would teach blind trust, so keyframes of true clips are damaged alike first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.memory import SLOTS, choose_slots, splat
from wm_env.model.vae.tiny import GROUP, inverse_depth, metric_depth


def rand(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Return uniform numbers in [0, 1) drawn on the CPU, moved to `device`."""
    return torch.rand(shape, generator=generator).to(device)


def damage(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return keyframes `(B, T, 4, H, W)` damaged per clip and frame.

    Noise up to 0.1, 3x3 blur in half of the clips, brightness of a quarter of the clips scaled by 0.6-1.4
    (a change of light that the keyframes have not seen), depth scaled by 1 +- 3% per frame plus 2% noise.
    """
    batch, frames = pixels.shape[:2]
    device = pixels.device
    colour, depth = pixels[:, :, :3], metric_depth(pixels[:, :, 3])
    blurred = F.avg_pool2d(colour.flatten(0, 1), 3, 1, 1, count_include_pad=False).view(colour.shape)
    share = rand((batch, 1, 1, 1, 1), generator, device) * (
        rand((batch, 1, 1, 1, 1), generator, device) < 0.5
    )
    colour = colour + (blurred - colour) * share
    level = 0.1 * rand((batch, 1, 1, 1, 1), generator, device).square()
    colour = colour + level * torch.randn(colour.shape, generator=generator).to(device)
    jitter = 0.6 + 0.8 * rand((batch, frames, 1, 1, 1), generator, device)
    changed = rand((batch, 1, 1, 1, 1), generator, device) < 0.25
    colour = torch.where(changed, (colour + 1) * jitter - 1, colour).clamp(-1, 1)
    scale = 0.03 * torch.randn((batch, frames, 1, 1), generator=generator).to(device)
    grain = 0.02 * torch.randn(depth.shape, generator=generator).to(device)
    depth = depth * (1 + scale) * (1 + grain)
    return torch.cat([colour, inverse_depth(depth)[:, :, None]], dim=2)


def views_of_chunk(
    keyframes: Tensor, chunk: int, c2w: Tensor, intrinsics: Tensor, last_only: bool = False
) -> Tensor:
    """Return the memory's views `(B, 4, 5, H, W)` for the frames of chunk `chunk` >= 1, or its last alone.

    keyframes `(B, T, 4, H, W)`: last frame of every latent (frame 0 for latent 0); c2w `(B, F, 4, 4)`.
    Slots are chosen as in `memory.read_memory`.
    """
    kept = [0, *range(max(1, chunk - SLOTS + 1), chunk)]
    poses = c2w[:, [GROUP * t for t in kept]]  # (B, S, 4, 4)
    first = GROUP * chunk if last_only else GROUP * chunk - 3
    target = c2w[:, first : GROUP * chunk + 1]
    valid = torch.ones(poses.shape[:2], dtype=torch.bool, device=c2w.device)
    chosen, counts = choose_slots(poses, valid, target[:, -1])
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    return splat(keyframes[:, kept][rows, chosen], poses[rows, chosen], counts, target, intrinsics)


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

"""The whole-path pipelines: image, prompt and the entire camera trajectory in, one clip out.

    x <- noise, frame 0 the start image;  x <- flow_euler_ltx(x)          bidirectional
                                          x <- chunk_flow_euler(x)        chunk-causal, chunks staggered
    x <- refine_clip(x)                                                   with refiner "ltx2"
    frames <- decode(x)

Frame 0 is held clean: it has timestep 0 in every call and never moves
(docs/reference/pipeline.md#held-frames).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wm_env.model.camera import CameraInput, camera_input, clip_windows
from wm_env.model.chunks import cut_at
from wm_env.model.flow import chunk_flow_euler, flow_euler_ltx, guided
from wm_env.model.frame_counts import check_frames, chunk_starts, latent_frames
from wm_env.model.geometry import check_rigid, relative_to_first
from wm_env.model.intrinsics import check_intrinsics, intrinsics_per_frame
from wm_env.model.refiner.ltx2 import clip_network
from wm_env.model.refiner.truncated import refine_clip
from wm_env.model.released.parts import ReleasedParts
from wm_env.model.released.rollout import ReleasedSampler, latent_grid

CHUNK = 3  # latent frames


def check_clip(image: np.ndarray, intrinsics: Tensor, c2w: Tensor, stride: int) -> None:
    """Raise `ValueError` unless these can be drawn: frame count, poses, image and field of view."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"the start image has shape {image.shape} and dtype {image.dtype}; expected uint8 (H, W, 3)"
        )
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
        raise ValueError(f"the trajectory has shape {tuple(c2w.shape)}; expected (F, 4, 4)")
    check_frames(c2w.shape[0], stride)
    if c2w.shape[0] <= stride:
        raise ValueError(f"a trajectory of {c2w.shape[0]} frames is shorter than one latent of {stride}")
    check_rigid(c2w)
    check_intrinsics(intrinsics_per_frame(intrinsics, c2w.shape[0]), *image.shape[:2])


@torch.inference_mode()
def draw_clip(
    parts: ReleasedParts,
    sampler: ReleasedSampler,
    *,
    variant: Literal["bidirectional", "chunk-causal"],
    image: np.ndarray,
    intrinsics: Tensor,
    c2w: Tensor,
    prompt: str,
    noise_seed: int,
    progress: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the frames uint8 `(F, H, W, 3)` seen along a trajectory; frame 0 shows the start image.

    image: uint8 `(H, W, 3)`. intrinsics: `(4,)`, `(3, 3)` or one per frame, in its pixels. c2w: `(F, 4, 4)`,
    F = 8k + 1, OpenCV axes, metres; made relative to its first pose. progress: called after every step.
    """
    stride = parts.dit.cfg.temporal_stride
    check_clip(image, intrinsics, c2w, stride)
    if variant not in ("bidirectional", "chunk-causal"):
        raise ValueError(f"variant {variant!r} draws no whole clips; bidirectional and chunk-causal do")
    size = (image.shape[0], image.shape[1])
    grid = latent_grid(size, parts.vae)
    frames = latent_frames(c2w.shape[0], stride)
    with parts.at_work("encoder"):
        start = parts.vae.encode(torch.from_numpy(image)[None, None])  # (1, C, 1, h, w)
    noise = _noise(noise_seed, (1, parts.dit.cfg.latent_channels, frames, *grid))
    latents = torch.cat([start.cpu(), noise[:, :, 1:]], dim=2).to(parts.device, parts.dtype)
    velocity = _velocity(
        parts, sampler.guidance, prompt, _camera(parts, c2w, intrinsics, size, grid), progress
    )
    schedule, held = sampler.schedule(), {0: 0.0}
    if variant == "bidirectional":
        latents = flow_euler_ltx(velocity, latents, schedule, held=held)
    else:
        starts = chunk_starts(frames, CHUNK, "first_chunk_plus_one")
        latents = chunk_flow_euler(velocity, latents, schedule, starts=starts, held=held)
    text = parts.encode_refiner_text([prompt])
    if parts.refiner is not None and text is not None:
        noise = _noise(noise_seed + 1, tuple(latents[:, :, 1:].shape)).to(latents)
        with parts.at_work("refiner"):
            latents = refine_clip(clip_network(parts.refiner, text), latents, noise)
    with parts.at_work("decoder"):
        return parts.vae.decode_clip(latents)[0].cpu()


def steps_of(sampler: ReleasedSampler, variant: str, frames: int) -> int:
    """Return how often `draw_clip` calls `progress` for a clip of `frames` latent frames."""
    steps = len(sampler.schedule().timesteps)
    if variant == "bidirectional":
        return steps
    chunks = len(chunk_starts(frames, CHUNK, "first_chunk_plus_one"))
    return int(((chunks - 1) * (1 / chunks)) * steps) + steps


def _velocity(
    parts: ReleasedParts, scale: float, prompt: str, camera: CameraInput, progress: Callable[[], None]
) -> Callable[[Tensor, Tensor, Sequence[int]], Tensor]:
    """Return the guided velocity u + scale (c - u) of the first T frames of the clip."""
    said = parts.encode_text([prompt])
    nothing = parts.encode_negative(1) if scale != 1.0 else None

    def velocity(x: Tensor, timestep: Tensor, starts: Sequence[int]) -> Tensor:
        seen = CameraInput(camera.conditions[:, : x.shape[2]], camera.plucker[:, :, : x.shape[2]])
        v, _ = parts.dit(x, timestep, said, seen, chunks=cut_at(starts))
        if nothing is not None:
            without, _ = parts.dit(x, timestep, nothing, seen, chunks=cut_at(starts))
            v = guided(without, v, scale)
        progress()
        return v

    return velocity


def _camera(
    parts: ReleasedParts, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int], grid: tuple[int, int]
) -> CameraInput:
    stride, frames = parts.dit.cfg.temporal_stride, c2w.shape[0]
    poses = relative_to_first(c2w.double()).float()[None].to(parts.device)  # (1, F, 4, 4)
    rows = intrinsics_per_frame(intrinsics, frames).float().to(parts.device)
    windows = clip_windows(frames, stride)
    return camera_input(poses, rows[None], size, grid, windows, parts.camera_dtype)


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

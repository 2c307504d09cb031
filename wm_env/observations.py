"""What the agent sees: the observation types of docs/reference/environment.md#observations.

    rgb           uint8 (h, w, 3), the newest frame
    rgb_sequence  uint8 (K, h, w, 3), all pixel frames of the step
    rgbd          float32 (h, w, 4), the newest frame in [0, 1] and its depth in metres, clipped to [0, 60]
    latent        float32 (C, h', w'), clipped to +-LATENT_BOUND so that its Box is finite

A task that adds entries makes the observation one flat Dict: the view under "image" (or "latent"), the task's
entries beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wm_env.model.names import unknown
from wm_env.model.world import WorldSpec

OBS_TYPES = ("rgb", "rgb_sequence", "rgbd", "latent")
DEPTH_BOUND = 60.0  # metres
LATENT_BOUND = 32.0  # latents are normalised to unit scale; values beyond this are never seen


@dataclass(frozen=True, kw_only=True)
class ObservationSpec:
    """One observation type of one world; obs_size is `(height, width)`."""

    kind: str
    obs_size: tuple[int, int]
    world: WorldSpec

    def __post_init__(self) -> None:
        if self.kind not in OBS_TYPES:
            raise ValueError(unknown("obs_type", self.kind, OBS_TYPES))
        if min(self.obs_size) < 1:
            raise ValueError(f"obs_size={self.obs_size} must be positive (height, width)")
        if self.kind == "latent" and self.world.latent_shape is None:
            raise ValueError(
                f"world {self.world.name!r} has no latents; use obs_type 'rgb' or 'rgb_sequence'"
            )

    def view_space(self) -> gym.spaces.Box:
        """Return the space of the view alone."""
        if self.kind == "latent":
            assert self.world.latent_shape is not None
            return gym.spaces.Box(-LATENT_BOUND, LATENT_BOUND, self.world.latent_shape, np.float32)
        if self.kind == "rgbd":
            high = np.ones((*self.obs_size, 4), np.float32)
            high[..., 3] = DEPTH_BOUND
            return gym.spaces.Box(np.zeros_like(high), high, dtype=np.float32)
        frames = (self.world.frames_per_step,) if self.kind == "rgb_sequence" else ()
        return gym.spaces.Box(0, 255, (*frames, *self.obs_size, 3), np.uint8)

    def space(self, extra: dict[str, gym.Space[Any]]) -> gym.Space[Any]:
        """Return the space of a single observation with a task's entries."""
        if not extra:
            return self.view_space()
        return gym.spaces.Dict({self._name(): self.view_space(), **extra})

    def view(self, frames: Tensor, latent: Tensor | None, depth: Tensor | None = None) -> Tensor:
        """Return the views of a batch, on the device of the frames; they may share the memory of these.

        frames uint8 `(B, K, h, w, 3)`; latent `(B, C, h', w')`; depth `(B, h, w)` metres of the newest frame.
        """
        if self.kind == "latent":
            assert latent is not None
            return latent.clamp(-LATENT_BOUND, LATENT_BOUND)
        if self.kind == "rgbd":
            assert depth is not None
            colour = resize(frames[:, -1], self.obs_size).float() / 255
            size = tuple(self.obs_size)
            far = depth if tuple(depth.shape[1:]) == size else interpolate(depth[:, None], size=size)[:, 0]
            return torch.cat([colour, far.clamp(0, DEPTH_BOUND)[..., None]], dim=-1)
        return resize(frames if self.kind == "rgb_sequence" else frames[:, -1], self.obs_size)

    def named(self, view: Any, extra: dict[str, Any]) -> Any:
        """Return an observation of a view and a task's entries."""
        return {self._name(): view, **extra} if extra else view

    def _name(self) -> str:
        return "latent" if self.kind == "latent" else "image"


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Return uint8 frames `(..., h, w, 3)` at `size` `(height, width)`, antialiased."""
    if tuple(frames.shape[-3:-1]) == size:
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2).float()  # (n, 3, h, w)
    scaled = interpolate(flat, size=size, mode="bilinear", antialias=True, align_corners=False)
    out = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return out.reshape(*frames.shape[:-3], *size, 3).contiguous()

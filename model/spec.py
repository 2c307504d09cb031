"""What every world, learned or true, says of itself and returns for a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """The fixed facts of a world.

    frames_per_step: K, pixel frames per chunk (one chunk = one env step).
    frame_size: `(height, width)` of its frames in pixels.
    max_translation: metres per pixel frame at full speed.
    max_rotation_deg: degrees per pixel frame at full speed.
    trained_steps: env steps covered by training; beyond it quality is extrapolation.
    latent_shape: `(C, h, w)` of the latent observation, or None where there is no latent.
    fps: pixel frames per second.
    sees_scene: the world is a renderer and is given the true scene and start pose.
    weights_sha256: digest of the weights, None for a world without weights.
    """

    name: str
    frames_per_step: int
    frame_size: tuple[int, int]
    max_translation: float
    max_rotation_deg: float
    trained_steps: int
    latent_shape: tuple[int, int, int] | None
    fps: int = 16
    sees_scene: bool = False
    weights_sha256: str | None = None


class Chunk(NamedTuple):
    """What one chunk shows.

    frames: uint8 `(B, K, h, w, 3)`. latent: float32 `(B, C, h', w')` or None. depth: float32
    `(B, K, h, w)` metres along z, or None where the world has none.
    """

    frames: Tensor
    latent: Tensor | None
    depth: Tensor | None

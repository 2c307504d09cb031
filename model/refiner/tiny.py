"""A small refiner in pixel space: decoded frames and the memory's view of them -> final frames.

    x_0 = y (1 - a) + m a + r,     a = sigmoid(gate) * mask,

with y the decoded pixels, m the splatted memory, and gate, r from a convolutional network that sees both for
all 4 frames of a chunk at once. The gate is where it decides whether to trust a keyframe (sharp, perhaps
stale: the lights may have changed since) or the decoder (smooth, current).

Without noise levels that is the whole refiner: one call, the limit s_0 -> 0 of what follows. With levels
s_0 > s_1 > ... > 0 it is a truncated flow (docs/reference/training.md#refiner): a part of the noise is
added back, the network is shown x and its level too, and x_0 becomes the end that a step aims at,

    x = (1 - s_0) y + s_0 eps,     x <- (s'/s) x + (1 - s'/s) x_0(y, m, x, s).

Either way it goes block by block, a block being the 4 frames of a latent: what it knows of the blocks before
is the memory, an explicit state, into which the last refined frame of every block is written and in which the
start frame stays as the anchor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.config import check_ranges
from wm_env.model.flow import clean_path
from wm_env.model.vae.tiny import GROUP, ResidualBlock

DECODED, SEEN, OUT = 4, 5, 5  # channels per frame: r g b d | r g b d mask | residual r g b d, gate
LEVELS = 16  # cosines of a noise level


@dataclass(frozen=True, kw_only=True)
class TinyRefinerConfig:
    """Width and number of residual blocks, at half resolution, and the levels of the flow.

    sigmas: falling noise levels, below 1 and ending in 0; empty for one call without noise.
    """

    width: int = 48
    blocks: int = 3
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(self.sigmas))  # a card's JSON has a list
        check_ranges(self, {"width": (1, 8192), "blocks": (0, 512)}, {"sigmas": (0, 1)})
        falling = all(a > b for a, b in pairwise(self.sigmas))
        if self.sigmas and not (falling and self.sigmas[0] < 1 and self.sigmas[-1] == 0 < self.sigmas[0]):
            raise ValueError(f"sigmas={self.sigmas} must fall from below 1 to exactly 0, or be empty")


class TinyRefiner(nn.Module):
    """The refiner of the module docstring; at initialisation an even blend where there is memory."""

    def __init__(self, config: TinyRefinerConfig) -> None:
        super().__init__()
        self.config = config
        shown = DECODED + SEEN + (DECODED if config.sigmas else 0)
        self.stem = nn.Conv2d(GROUP * shown * 4, config.width, 3, padding=1)
        self.level = nn.Linear(LEVELS, config.width) if config.sigmas else None
        self.body = nn.Sequential(*(ResidualBlock(config.width) for _ in range(config.blocks)))
        self.head = nn.Conv2d(config.width, GROUP * OUT * 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, decoded: Tensor, seen: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return refined pixels `(B, 4, 4, H, W)` of decoded ones and of the memory's `(B, 4, 5, H, W)`.

        noise: standard normal, like `decoded`; for a refiner with noise levels, and for no other.
        """
        if (noise is not None) != bool(self.config.sigmas):
            raise ValueError(f"noise goes with noise levels; this refiner has sigmas={self.config.sigmas}")
        if noise is None:
            return self.aim(decoded, seen)
        sigmas = self.config.sigmas
        x = (1 - sigmas[0]) * decoded + sigmas[0] * noise

        def clean(noisy: Tensor, sigma: float) -> Tensor:
            return self.aim(decoded, seen, noisy, torch.full((len(noisy),), sigma, device=noisy.device))

        return clean_path(clean, x, sigmas)

    def aim(
        self, decoded: Tensor, seen: Tensor, noisy: Tensor | None = None, sigma: Tensor | None = None
    ) -> Tensor:
        """Return the clean frames x_0 `(B, 4, 4, H, W)` in one call.

        noisy `(B, 4, 4, H, W)` and sigma `(B,)` where the refiner has noise levels.
        """
        shown = torch.cat([decoded, seen] if noisy is None else [decoded, seen, noisy], dim=2)
        inputs = shown.flatten(1, 2)  # (B, 36 or 52, H, W)
        x = self.stem(F.pixel_unshuffle(inputs, 2).contiguous(memory_format=torch.channels_last))
        if self.level is not None and sigma is not None:
            x = x + self.level(level_features(sigma).to(x.dtype))[..., None, None]
        x = self.head(F.silu(self.body(x)))
        out = F.pixel_shuffle(x, 2).unflatten(1, (GROUP, OUT))  # (B, 4, 5, H, W)
        gate = torch.sigmoid(out[:, :, 4:]) * seen[:, :, 4:]
        return decoded * (1 - gate) + seen[:, :, :4] * gate + out[:, :, :4]


def level_features(sigma: Tensor) -> Tensor:
    """Return cos(pi k s) `(B, 16)` for k = 1..16 of noise levels `(B,)`."""
    steps = torch.arange(1, LEVELS + 1, device=sigma.device)
    return torch.cos(math.pi * sigma[:, None] * steps)

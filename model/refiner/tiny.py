"""A small refiner in pixel space: decoded frames and the memory's view of them -> final frames.

    out = y (1 - a) + m a + r,     a = sigmoid(gate) * mask,

with y the decoded pixels, m the splatted memory, and gate, r from a convolutional network that sees both for
all 4 frames of a chunk at once. The gate is where it decides whether to trust a keyframe (sharp, perhaps
stale: the lights may have changed since) or the decoder (smooth, current). Stateless: what it needs of the
past is in the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.vae.tiny import GROUP, ResidualBlock

DECODED, SEEN, OUT = 4, 5, 5  # channels per frame: r g b d | r g b d mask | residual r g b d, gate


@dataclass(frozen=True, kw_only=True)
class TinyRefinerConfig:
    """Width and number of residual blocks, at half resolution."""

    width: int = 48
    blocks: int = 3

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 0:
            raise ValueError(f"width must be positive and blocks not negative: {self}")


class TinyRefiner(nn.Module):
    """The refiner of the module docstring; at initialisation an even blend where there is memory."""

    def __init__(self, config: TinyRefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(GROUP * (DECODED + SEEN) * 4, config.width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(config.width) for _ in range(config.blocks)))
        self.head = nn.Conv2d(config.width, GROUP * OUT * 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, decoded: Tensor, seen: Tensor) -> Tensor:
        """Return refined pixels `(B, 4, 4, H, W)` of decoded ones and of the memory's `(B, 4, 5, H, W)`."""
        inputs = torch.cat([decoded, seen], dim=2).flatten(1, 2)  # (B, 36, H, W)
        x = F.pixel_unshuffle(inputs, 2).contiguous(memory_format=torch.channels_last)
        x = self.head(F.silu(self.body(self.stem(x))))
        out = F.pixel_shuffle(x, 2).unflatten(1, (GROUP, OUT))  # (B, 4, 5, H, W)
        gate = torch.sigmoid(out[:, :, 4:]) * seen[:, :, 4:]
        return decoded * (1 - gate) + seen[:, :, :4] * gate + out[:, :, :4]

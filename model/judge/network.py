"""The judge: what stands in each cell of a picture, by a network that is trained once and then kept.

It is trained on rendered views of `train` scenes (training/parts/judge.py) and enters no loss of a world, so
that a world cannot learn to please it. Its features compare sets of pictures, its answers tell whether floor
and ceiling are drawn where they belong. What is too hazy to tell is taught to it as "other".

Legend: `B` pictures, `C` channels, `K` kinds (floor, ceiling, wall, other), 8 x 8 cells a picture.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.storage.checkpoint import build_network, load_checkpoint

WEIGHTS = Path(__file__).parent / "judge.safetensors"
SIZE, CELLS = 64, 8  # pixels, cells of a side
KINDS = 4
WIDTHS = (32, 48, 64)
AT_ONCE = 256


class Judge(nn.Module):
    """Three strided convolutions to 8 x 8 cells, two residual ones between them, and a head per cell."""

    def __init__(self) -> None:
        super().__init__()
        first, second, last = WIDTHS
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4 if a == 3 else 3, stride=2, padding=1)
            for a, b in ((3, first), (first, second), (second, last))
        )
        self.between = nn.ModuleList(nn.Conv2d(last, last, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(last, KINDS, 1)

    def features(self, pictures: Tensor) -> Tensor:
        """Return features `(B, C, 8, 8)` of pictures `(B, 3, 64, 64)` in [-1, 1]."""
        x = pictures
        for layer in self.down:
            x = F.gelu(layer(x))
        for layer in self.between:
            x = x + F.gelu(layer(x))
        return x

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits `(B, K, 8, 8)` of pictures `(B, 3, 64, 64)` in [-1, 1]."""
        head: Tensor = self.head(self.features(pictures))
        return head


class Judgement(NamedTuple):
    """kinds: int64 `(B, 8, 8)`, the likeliest kind of each cell. pooled: float64 `(B, C)`, mean features."""

    kinds: Tensor
    pooled: Tensor


class FrozenJudge(NamedTuple):
    """The network with the SHA-256 of its weights' file."""

    network: Judge
    sha256: str

    @torch.no_grad()
    def judge(self, frames: Tensor) -> Judgement:
        """Return the judgement of frames uint8 `(B, h, w, 3)`, brought to 64 x 64 by areas."""
        kinds, pooled = [], []
        for some in frames.split(AT_ONCE):
            features = self.network.features(to_judge(some))
            kinds.append(self.network.head(features).argmax(1))
            pooled.append(features.mean((2, 3)).double())
        return Judgement(torch.cat(kinds), torch.cat(pooled))


def to_judge(frames: Tensor) -> Tensor:
    """Return frames uint8 `(B, h, w, 3)` as the judge takes them: float32 `(B, 3, 64, 64)` in [-1, 1]."""
    x = frames.movedim(-1, 1).float() / 127.5 - 1
    return x if x.shape[-2:] == (SIZE, SIZE) else F.interpolate(x, (SIZE, SIZE), mode="area")


def cell_kinds(kinds: Tensor) -> Tensor:
    """Return the kind that most pixels of a cell have: int64 `(..., 8, 8)` of kinds int64 `(..., h, w)`.

    h and w are multiples of 8; of equally many the first kind counts.
    """
    height, width = kinds.shape[-2:]
    if height % CELLS or width % CELLS:
        raise ValueError(f"pictures of {height} x {width} have no {CELLS} x {CELLS} cells of whole pixels")
    cells = F.one_hot(kinds, KINDS).unflatten(-3, (CELLS, -1)).unflatten(-2, (CELLS, -1))
    return cells.sum((-4, -2)).argmax(-1)  # (..., 8, h/8, 8, w/8, K) before


@cache
def load_judge(path: Path = WEIGHTS) -> FrozenJudge:
    """Return the judge that comes with the package, its file compared with the digest on its card."""
    tensors, card = load_checkpoint(path)
    network = build_network(Judge, tensors, f"judge {path}")
    return FrozenJudge(network.float().eval().requires_grad_(False), card["sha256"])

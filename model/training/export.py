"""What a run leaves behind beside its state: weights, and a world that can be walked in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a run leaves after every slice, written by process 0.

    name: the averaged weights are `OUT/NAME.safetensors`, `change` of them: a part of the model, corrections
    merged. entries: in its card. world: writes the world folder `OUT/world` that `gym.make` takes, given the
    weights' file and the last metrics.
    """

    name: str
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    entries: Mapping[str, Any] = field(default_factory=dict)
    world: Callable[[Path, Mapping[str, float]], object] | None = None

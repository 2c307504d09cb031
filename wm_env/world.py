"""The `World` protocol: what the environment needs of a world, learned or true.

A world is a function over values. `begin` turns start conditions into a state; `step_chunk` turns a state
and the camera poses of the next chunk into the frames seen along them and a new state. Neither keeps
anything: the old state stays valid, so a snapshot is a reference and a branch is the same state used twice.

Every tensor of a state has the batch axis first, so states of several slots are stacked, selected and
overwritten with `wm_env.model.state`; its structure and shapes stay the same over an episode, whatever slots
it holds, so that slots at different chunks share one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from wm_env.model.spec import Chunk, WorldSpec

__all__ = ["Chunk", "Start", "World", "WorldSpec"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """All that a world is told at reset.

    image: uint8 `(h, w, 3)` at the world's frame size. intrinsics: `(fx, fy, cx, cy)` in its pixels.
    scene, start_c2w: the true scene and the start pose `(4, 4)` in it, only for worlds with `sees_scene`.
    """

    image: np.ndarray
    intrinsics: tuple[float, float, float, float]
    prompt: str
    noise_seed: int
    temperature: float = 1.0
    scene: Any = None
    start_c2w: np.ndarray | None = None


@runtime_checkable
class World(Protocol):
    """A world that can be stepped in batches; see the module docstring."""

    @property
    def spec(self) -> WorldSpec: ...

    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, Any]:
        """Return the start chunk (frames `(B, 1, h, w, 3)`: the start images) and the state."""
        ...

    def step_chunk(self, state: Any, c2w: Tensor) -> tuple[Chunk, Any]:
        """Return the next chunk and state for poses `c2w` `(B, K, 4, 4)` float64 relative to the start."""
        ...

    def set_prompt(self, state: Any, prompts: Sequence[str | None]) -> Any:
        """Return the state with new prompts from the next chunk on; None keeps a slot's prompt."""
        ...

    def set_noise_seed(self, state: Any, noise_seeds: Sequence[int]) -> Any:
        """Return the state whose next chunks draw their noise from the given seeds (branching)."""
        ...

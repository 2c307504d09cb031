"""The `World` protocol and its values: what a world is told, what it returns, what it says of itself.

A world is a function over values. `begin` turns start conditions into a state; `step_chunk` turns a state
and the camera poses of the next chunk into the frames seen along them and a new state. Neither keeps
anything: the old state stays valid, so a snapshot is a reference and a branch is the same state used twice.

A state is any tree of tensors, every one with the batch axis first, so states of several slots are stacked,
selected and overwritten with `wm_env.model.state`. Its structure and shapes stay the same over an episode,
whatever slots it holds, so that slots at different chunks share one batch. docs/environment.md has a world of
25 lines.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor


class PosedFrames(NamedTuple):
    """frames: uint8 `(F, h, w, 3)` at the world's frame size. c2w: `(F, 4, 4)` float64."""

    frames: np.ndarray
    c2w: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Context:
    """Posed pictures from before an episode; the last one is its start.

    length: of them, F = 1 + K n, K frames a chunk. load: returns them, poses relative to the start, so that
    the last is the identity; it is not called where a state after them is kept. key: names pictures that are
    the same every time (those of a scene seed), so that such a state can be kept; None for others.
    """

    length: int
    load: Callable[[], PosedFrames]
    key: Hashable | None = None


@dataclass(frozen=True, kw_only=True)
class Start:
    """All that a world is told at reset.

    image: uint8 `(h, w, 3)` at the world's frame size. intrinsics: `(fx, fy, cx, cy)` in its pixels.
    context: pictures that are committed to the state before it, the last of them `image`; None for `image`
    alone. scene, start_c2w: the true scene and the start pose `(4, 4)` in it, only for worlds with
    `sees_scene`.
    """

    image: np.ndarray
    intrinsics: tuple[float, float, float, float]
    prompt: str
    noise_seed: int
    temperature: float = 1.0
    context: Context | None = None
    scene: Any = None
    start_c2w: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """The fixed facts of a world.

    name: preset or name of the checkpoint. options: what was asked of it beyond its defaults, by name.
    frames_per_step: K, pixel frames per chunk (one chunk = one env step).
    frame_size: `(height, width)` of its frames in pixels.
    max_translation: metres per pixel frame at full speed.
    max_rotation_deg: degrees per pixel frame at full speed.
    trained_steps: env steps covered by training; beyond it quality is extrapolation.
    latent_shape: `(C, h, w)` of the latent observation, or None where there is no latent.
    fps: pixel frames per second.
    sees_scene: the world is a renderer and is given the true scene and start pose.
    takes_context: a start may have a `Context`, and the world is an `ObservingWorld`.
    gives_depth: chunks have depth.
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
    takes_context: bool = False
    gives_depth: bool = False
    weights_sha256: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name and the options, for tables and pictures: "tiny[ablate=dit]". Nothing parses it."""
        return self.name + "".join(f"[{name}={value}]" for name, value in self.options.items())


class Chunk(NamedTuple):
    """What one chunk shows.

    frames: uint8 `(B, K, h, w, 3)`. latent: float32 `(B, C, h', w')` or None. depth: float32
    `(B, K, h, w)` metres along z, or None where the world has none.
    """

    frames: Tensor
    latent: Tensor | None
    depth: Tensor | None


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


@runtime_checkable
class ObservingWorld(World, Protocol):
    """A world that can be shown true frames; what `WorldSpec.takes_context` promises."""

    def observe(self, state: Any, frames: Tensor, c2w: Tensor) -> tuple[Chunk, Any]:
        """Return the last K of true frames as a chunk, and the state with all of them committed.

        frames uint8 `(B, K n, h, w, 3)`, n >= 1, seen from poses c2w `(B, K n, 4, 4)` float64 relative to the
        start. Nothing is drawn, so the noise of the next step is what it would have been. A renderer shows
        its own frames.
        """
        ...

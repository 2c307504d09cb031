"""How unexpected a film is to a world: `surprise_of`, over `wm_env.model.surprise`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.contexts import clip_context
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.geometry import relative_to_first
from wm_env.model.isolation import undisturbed
from wm_env.model.rollout import LearnedWorld
from wm_env.model.surprise import levels, watch_chunk
from wm_env.model.surprise_null import SurpriseNull, Watched
from wm_env.model.trust_calibration import command, find_calibration
from wm_env.model.world import Start, World
from wm_env.worlds import resolve_world


@dataclass(frozen=True, kw_only=True)
class Surprise:
    """How unexpected the chunks of a film are.

    chunks: float64 `(n,)`, standard deviations above the mean of true chunks of training scenes, one a chunk.
    tokens: float64 `(n, G, G)`, the same of every cell of 8 x 8 pixels. frames: int64 `(n,)`, number of the
    first frame of every chunk in the film as the world takes it. seconds: float64 `(n,)`, when it begins.
    """

    chunks: np.ndarray
    tokens: np.ndarray
    frames: np.ndarray
    seconds: np.ndarray

    @property
    def most(self) -> int:
        """Number of the most surprising chunk."""
        return int(self.chunks.argmax())


@undisturbed()
def surprise_of(
    world: str | Path | World,
    clip: PosedClip | str | Path,
    *,
    calibration: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Surprise:
    """Return how unexpected every chunk of a film is to a world, given the film before it and the camera.

    The error with which the world denoises the true chunk, in standard deviations of that error over chunks
    of training scenes (`wm_env.model.surprise`): about 0 where all is as usual, more where something happens
    that neither the past nor the motion explains. The first frame is the start; a film that turns around
    before lets the world know the place.

    world: preset, checkpoint folder or `World` of the embedded kind. clip: a `PosedClip` or the path of one.
    calibration: file of `wm-env trust calibrate`, by default the one beside the weights. progress: called
    with (chunks done, in all).

    Raises `ValueError` in one sentence for what is no posed clip, for a world that draws nothing and for a
    calibration of other weights; `FileNotFoundError` where there is no file, or no calibration.
    """
    own = resolve_world(world) if isinstance(world, str | Path) else world
    judged = learned(own)
    known = find_calibration(world, judged.spec, calibration)
    if known.surprise is None:
        raise ValueError(
            f"the calibration of {judged.spec.name!r} has no null distribution of surprise; make it again "
            f"with {command(judged.spec.name)}"
        )
    taken = clip_context(clip, judged.spec)
    film = taken.context.load()
    c2w = relative_to_first(torch.from_numpy(np.array(film.c2w))[None].double())
    start = Start(image=film.frames[0], intrinsics=taken.intrinsics, prompt=taken.caption or "", noise_seed=0)
    frames = torch.from_numpy(np.array(film.frames))[None]
    seen = watch_films(judged, [start], frames, c2w, progress or _silent)
    step = judged.spec.frames_per_step
    first = np.arange(1, frames.shape[1] - step + 1, step)
    return told(known.surprise, judged, seen, first)


def _silent(done: int, total: int) -> None:
    """Show no progress."""


def learned(world: World) -> LearnedWorld:
    """Return the world, or raise `ValueError` where it has no network that can be asked."""
    if not isinstance(world, LearnedWorld):
        raise ValueError(
            f"world {world.spec.name!r} cannot be surprised: it has no network of the embedded kind; use "
            "tiny, tiny-pure or a folder that `wm-env train world` wrote"
        )
    return world


def told(null: SurpriseNull, world: LearnedWorld, seen: Watched[np.ndarray], frames: np.ndarray) -> Surprise:
    """Return the surprise of one film `(1, n, ...)`; `ValueError` where the null is of another sampler."""
    check_levels(null, world)
    chunks = null.surprise(seen)[0]
    tokens = null.tokens(seen)[0].mean(-2)  # (n, N)
    assert world.spec.latent_shape is not None
    _, rows, columns = world.spec.latent_shape
    return Surprise(
        chunks=chunks,
        tokens=tokens.reshape(-1, rows, columns),
        frames=frames,
        seconds=frames / world.spec.fps,
    )


def check_levels(null: SurpriseNull, world: LearnedWorld) -> None:
    """Raise `ValueError` where a null was made at other noise levels than the world's sampler has."""
    if tuple(null.sigmas) != levels(world):
        raise ValueError(
            f"the null distribution of surprise is of noise levels {null.sigmas}, but the sampler of "
            f"{world.spec.name!r} has {levels(world)}; make it again with {command(world.spec.name)}"
        )


def watch_films(
    world: LearnedWorld,
    starts: list[Start],
    frames: Tensor,
    c2w: Tensor,
    progress: Callable[[int, int], None] = _silent,
) -> Watched[np.ndarray]:
    """Return the errors of all chunks of films: frames uint8 `(B, 1 + K n, h, w, 3)`.

    c2w `(B, 1 + K n, 4, 4)`: relative to the first, which is the start.
    """
    _, state = world.begin(starts)
    return watch_on(world, state, frames, c2w, progress)[0]


def watch_on(
    world: LearnedWorld,
    state: Any,
    frames: Tensor,
    c2w: Tensor,
    progress: Callable[[int, int], None] = _silent,
) -> tuple[Watched[np.ndarray], Any]:
    """Return the same from a state onwards, frame 0 left out, and the state after it."""
    step = world.spec.frames_per_step
    total = (frames.shape[1] - 1) // step
    found: list[Watched[Tensor]] = []
    for chunk in range(total):
        progress(chunk, total)
        part = slice(1 + chunk * step, 1 + (chunk + 1) * step)
        seen, state = watch_chunk(world, state, frames[:, part], c2w[:, part])
        found.append(seen)
    parts = (torch.stack(part, dim=1) for part in zip(*found, strict=True))
    return Watched(*(part.double().numpy() for part in parts)), state

"""Trust while stepping: a world watched from outside, and how probable it is that it shows the truth.

`watch_start` and `watch_step` keep, beside a world's own state, a `Watched`: which directions true pictures
have looked along (`wm_env.model.seen_directions`), how unlike its training the start is, and the signals of
the newest step (`wm_env.model.signals`). `TrustRules` makes probabilities of them by a calibration; a
`Trusted` is what an episode's state holds of all that. What is true, a start, a context and frames that were
shown, has trust 1. Legend: `B` slots.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.metrics.images import LUMA
from wm_env.model.pixels import from_uint8
from wm_env.model.seen_directions import (
    SeenDirections,
    after_step,
    direction_signals,
    nothing_seen,
    with_true,
)
from wm_env.model.signals import CELL, Signals, detail, start_error, step_with_signals
from wm_env.model.trust_calibration import Calibration
from wm_env.model.world import Chunk, Start, World

TURNED = 12  # frames of a context that are looked at for directions, evenly
OF_START = ("start_error", "start_contrast", "start_detail")
LOOKED_AT = 4  # frames of a context that the autoencoder is asked about
DIGITS = 4  # of a probability; beyond, it depends on the batch size
FRAME_TRUST = "frame_trust"  # what the model of cells is told of the whole frame
BECAUSE = "truncated_because"

_looked_at: deque[tuple[str | None, float, str]] = deque(maxlen=1024)  # starts of this process, with limits


class Watched(NamedTuple):
    """seen: directions. intrinsics `(B, 4)`. start `(B, 3)` float32: the start picture's autoencoder error
    (grey levels, 0 where unknown), its contrast and its detail. signals of the newest step, empty before the
    first."""

    seen: SeenDirections
    intrinsics: Tensor
    start: Tensor
    signals: Signals


def watch_start(world: World, told: Sequence[Start]) -> Watched:
    """Return what is known at the start of episodes: directions of start pictures and contexts."""
    size = world.spec.frame_size
    intrinsics = torch.tensor([start.intrinsics for start in told], dtype=torch.float64)
    parts = []
    for slot, start in enumerate(told):
        c2w = torch.eye(4, dtype=torch.float64)[None]
        if start.context is not None:
            poses = torch.from_numpy(np.asarray(start.context.load().c2w)).double()
            chosen = torch.linspace(0, len(poses) - 1, TURNED).round().long()
            c2w = torch.cat([poses[chosen], c2w])
        parts.append(with_true(nothing_seen(1), c2w[None], intrinsics[[slot]], size))
    seen = SeenDirections(*(torch.cat(part) for part in zip(*parts, strict=True)))
    images = torch.from_numpy(np.stack([start.image for start in told]))
    error = start_error(world, images, intrinsics)
    picture = from_uint8(images).movedim(-1, 1)
    known = torch.zeros(len(told)) if error is None else error
    facts = torch.stack([known, luma(picture).std((1, 2)), detail(picture).mean((1, 2))], dim=1)
    return Watched(seen, intrinsics, facts, Signals({}, {}))


def watch_step(world: World, state: Any, watched: Watched, c2w: Tensor) -> tuple[Chunk, Any, Watched]:
    """Return `world.step_chunk(state, c2w)`, bit for bit, and what is known after it."""
    chunk, after, signals = step_with_signals(world, state, c2w)
    seen = after_step(watched.seen)
    newest = from_uint8(chunk.frames[:, -1]).movedim(-1, 1)  # (B, 3, h, w)
    frame = {name: values.float().cpu() for name, values in signals.frame.items()}
    cells = {name: values.float().cpu() for name, values in signals.cells.items()}
    frame |= direction_signals(seen, c2w[:, -1], watched.intrinsics, world.spec.frame_size)
    frame["contrast"] = luma(newest).std((1, 2)).cpu()
    frame |= dict(zip(OF_START, watched.start.unbind(1), strict=True))
    new = frame.get("untrue", frame["new_directions"])
    frame["at_stake"] = new * frame["start_contrast"]
    return chunk, after, watched._replace(seen=seen, signals=Signals(frame, cells))


def luma(colour: Tensor) -> Tensor:
    """Return the luma `(B, h, w)` of colours `(B, 3, h, w)`."""
    return (colour * torch.tensor(LUMA, device=colour.device)[:, None, None]).sum(1)


@dataclass(frozen=True, kw_only=True)
class TrustRules:
    """How an environment trusts its world. with_map: `info` has a map. least: trust below it truncates."""

    calibration: Calibration
    with_map: bool = False
    least: float | None = None


class Trusted(NamedTuple):
    """What a state holds. seen, intrinsics, start: as in `Watched`. value `(B,)` float64 in [0, 1]: the
    probability that the newest frame's colours are within the calibration's bound; place `(B,)`: its depth,
    NaN where that is not calibrated; map `(B, h, w)` float32: value by cell, None where nobody asks."""

    seen: SeenDirections
    intrinsics: Tensor
    start: Tensor
    value: Tensor
    place: Tensor
    map: Tensor | None


def begin_trust(rules: TrustRules, world: World, told: Sequence[Start]) -> Trusted:
    """Return what is known at the start of episodes, where everything shown is true."""
    watched = watch_start(world, told)
    batch, one = len(told), torch.ones(len(told), dtype=torch.float64)
    ones = torch.ones(batch, *world.spec.frame_size) if rules.with_map else None
    return Trusted(watched.seen, watched.intrinsics, watched.start, one, _place(rules, one), ones)


def step_trust(
    rules: TrustRules, world: World, state: Any, before: Trusted, c2w: Tensor
) -> tuple[tuple[Chunk, Any], Trusted]:
    """Return `world.step_chunk(state, c2w)`, bit for bit, and the trust in its newest frame."""
    old = Watched(before.seen, before.intrinsics, before.start, Signals({}, {}))
    chunk, after, watched = watch_step(world, state, old, c2w)
    frame = arrays(watched.signals.frame)
    value = _probability(rules.calibration.appearance.probability(frame))
    place = _place(rules, value)
    if rules.calibration.place is not None:
        place = _probability(rules.calibration.place.probability(frame))
    shown = trust_map(rules.calibration, watched.signals, value, world.spec.frame_size)
    return (chunk, after), before._replace(
        seen=watched.seen, value=value, place=place, map=shown if rules.with_map else None
    )


def shown_trust(before: Trusted, c2w: Tensor, size: tuple[int, int]) -> Trusted:
    """Return the trust after true frames from poses c2w `(B, F, 4, 4)` were shown: 1."""
    chosen = torch.linspace(0, c2w.shape[1] - 1, TURNED).round().long()
    seen = with_true(before.seen, c2w[:, chosen], before.intrinsics, size)
    place = torch.where(before.place.isnan(), before.place, torch.ones_like(before.place))
    ones = None if before.map is None else torch.ones_like(before.map)
    return before._replace(seen=seen, value=torch.ones_like(before.value), place=place, map=ones)


def trust_map(calibration: Calibration, signals: Signals, value: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the trust of every pixel `(B, h, w)` float32: its cell's, or the frame's without cells."""
    height, width = size
    model = calibration.cells
    if model is None:
        return value.float()[:, None, None].expand(-1, height, width).contiguous()
    of_frame = value[:, None, None].expand(-1, height // CELL, width // CELL)
    told = cell_signals(signals.cells, of_frame)
    cells = torch.from_numpy(model.probability(arrays(told))).float()
    return cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)


def cell_signals(cells: Mapping[str, Tensor], of_frame: Tensor) -> dict[str, Tensor]:
    """Return what the model of cells is given: their own signals, and the trust in the frame."""
    return {**cells, FRAME_TRUST: of_frame}


def untrusted(rules: TrustRules | None, trusted: Trusted | None) -> np.ndarray | bool:
    """Return which slots `(B,)` bool are trusted less than the rules ask for; False where they do not."""
    if rules is None or rules.least is None or trusted is None:
        return False
    return trusted.value.numpy() < rules.least


def trust_info(rules: TrustRules, trusted: Trusted, slot: int, arrays_too: bool) -> dict[str, Any]:
    """Return the entries of `info` of one slot. arrays_too: the map with it, as an array."""
    value, place = float(trusted.value[slot]), float(trusted.place[slot])
    info: dict[str, Any] = {"trust": value}
    if rules.calibration.place is not None:
        info["trust_place"] = place
    if arrays_too and trusted.map is not None:
        info["trust_map"] = trusted.map[slot].numpy().copy()
    if rules.least is not None and value < rules.least:
        info[BECAUSE] = "trust"
    return info


def warn_unlike(world: World, limit: float | None, told: Sequence[Start]) -> None:
    """Warn once a picture where a start or a context is unlike those that the world was trained on.

    told: starts that are the caller's own. limit: autoencoder error (grey levels) that 99 of 100 starts of
    the training scenes stay below; None says nothing. A start counts by the mean over a few of its frames.
    """
    if limit is None or not told:
        return
    worst = 0.0
    for start in told:
        frames = start.image[None]
        if start.context is not None:
            seen = start.context.load().frames
            frames = seen[np.linspace(0, len(seen) - 1, LOOKED_AT).round().astype(int)]
        digest = (world.spec.weights_sha256, limit, hashlib.sha256(frames.tobytes()).hexdigest())
        if digest in _looked_at:
            continue
        _looked_at.append(digest)
        camera = torch.tensor([start.intrinsics], dtype=torch.float64).expand(len(frames), 4)
        error = start_error(world, torch.from_numpy(np.array(frames)), camera)
        worst = worst if error is None else max(worst, float(error.mean()))
    if worst > limit:
        warnings.warn(
            f"the start is unlike what world {world.spec.name!r} was trained on: its autoencoder misses it "
            f"by {worst:.1f} grey levels, and 99 of 100 training pictures by less than {limit:.1f}; expect "
            "it to make things up",
            stacklevel=2,
        )


def loaded_once(told: Sequence[Start]) -> list[Start]:
    """Return starts whose contexts are loaded at most once, however often they are asked for."""
    return [
        start
        if start.context is None
        else replace(start, context=replace(start.context, load=functools.cache(start.context.load)))
        for start in told
    ]


def arrays(signals: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return signals as arrays."""
    return {name: values.double().cpu().numpy() for name, values in signals.items()}


def _probability(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.round(values, DIGITS))


def _place(rules: TrustRules, like: Tensor) -> Tensor:
    """Return 1 where place is calibrated, NaN where not, like a value `(B,)`."""
    return torch.ones_like(like) if rules.calibration.place is not None else torch.full_like(like, torch.nan)

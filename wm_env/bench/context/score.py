"""From held-out frames to the numbers of a context report, by parts that are measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.context.report import Row
from wm_env.bench.context.rows import ContextSettings, Films, drawn
from wm_env.bench.seen import psnr_where
from wm_env.bench.walks import Tick
from wm_env.model.metrics.images import psnr
from wm_env.model.metrics.intervals import band
from wm_env.model.world import World

STILL = "repeat the start picture"
IN_VIEW = 0.6  # share of a view from which on it counts as shown

Parts = dict[str, dict[str, Any]]
"""By chunks shown, or `STILL`: a list of numbers a film for every held-out chunk, by name."""


def measure(
    world: World,
    films: Films,
    settings: ContextSettings,
    parts: Parts,
    keep: Callable[[str, dict[str, Any]], None],
    tick: Tick,
) -> Parts:
    """Return the numbers of all rows; those in `parts` are not measured again, others are kept."""
    found = dict(parts)
    chunks = (films.frames.shape[1] - 1) // world.spec.frames_per_step
    for shown in settings.shown:
        if str(shown) in found:
            tick(chunks * len(films.prompts))
            continue
        made = drawn(world, films, shown, settings.batch, tick)
        found[str(shown)] = compared(world, films, made, shown)
        keep(str(shown), found[str(shown)])
    if STILL not in found:
        still = films.frames[:, :1].expand_as(films.frames)
        found[STILL] = compared(world, films, still, 0)
        keep(STILL, found[STILL])
    return found


def compared(world: World, films: Films, made: Tensor, shown: int) -> dict[str, Any]:
    """Return PSNR (dB) of the last frame of every held-out chunk: whole, and on the pixels shown before."""
    step = world.spec.frames_per_step
    own, true = made[:, step::step], films.frames[:, step::step]  # (B, F/K, h, w, 3)
    whole = psnr(own.flatten(0, 1), true.flatten(0, 1)).unflatten(0, own.shape[:2])
    told: dict[str, Any] = {"psnr": whole.tolist()}
    if films.seen is not None:
        mask = films.seen(shown)
        on_shown = psnr_where(own.flatten(0, 1), true.flatten(0, 1), mask.flatten(0, 1))
        count = own.shape[1]
        told["seen"] = [on_shown[i : i + count] for i in range(0, len(on_shown), count)]
        told["share"] = mask.double().mean((2, 3)).tolist()
    return told


def rows(parts: Parts, settings: ContextSettings, step: int) -> dict[str, Row]:
    """Return the row of every number of frames shown, and that of the start picture repeated."""
    first = _means(parts[str(settings.shown[0])]["psnr"])
    told = {}
    for shown in settings.shown:
        told[str(1 + step * shown)] = _row(parts[str(shown)], first if shown != settings.shown[0] else None)
    told[STILL] = _row(parts[STILL], None)
    return told


def _row(part: Mapping[str, Any], first: np.ndarray | None) -> Row:
    whole = _means(part["psnr"])
    if "share" not in part:
        return Row(psnr=band(whole), gain=None if first is None else band(whole - first))
    share = np.array(part["share"], dtype=float)
    frames = np.array(part["psnr"], dtype=float)
    back = np.where(share >= IN_VIEW, frames, np.nan)
    return Row(
        psnr=band(whole),
        gain=None if first is None else band(whole - first),
        views=band(_means(back)),
        seen=band(_means(part["seen"])),
        share=band(_means(share)),
    )


def _means(values: Any) -> np.ndarray:
    """Return the mean of every film over its chunks, leaving out what is not known `(B,)`."""
    found = torch.from_numpy(np.array(values, dtype=float))
    mean: np.ndarray = found.nanmean(1).numpy()
    return mean

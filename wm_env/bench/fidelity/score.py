"""From walks to the numbers of a fidelity report, by parts that are measured once.

A part is one row of one split, or one row of one look-away test: lists of numbers, one a scene, that JSON
holds. Parts that are there already are not walked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.fidelity.imagination import imagined
from wm_env.bench.fidelity.imagination_report import imagination
from wm_env.bench.fidelity.report import Appearance, FidelityReport, Shown, Split, View
from wm_env.bench.fidelity.rows import FidelitySettings, Truth, compared_rows, turns
from wm_env.bench.fidelity.standing import standing, standing_steps
from wm_env.bench.provenance import provenance
from wm_env.bench.seen import psnr_where, seen_before
from wm_env.bench.walks import Tick, Walks, in_batches, rolled_in_batches, walks
from wm_env.model.judge.network import load_judge
from wm_env.model.metrics.appearance import clip_statistics
from wm_env.model.metrics.images import psnr
from wm_env.model.metrics.intervals import Band, band, ratio_band
from wm_env.model.metrics.motion import freeze_share
from wm_env.model.world import World

_AFTER = "context="  # a row's name before the kind of its context
_STANDS = "no command"

Draw = Callable[[str, Tensor, Tensor], None]
"""Called with a split, and the true and the shown frames `(S, 1 + F, h, w, 3)` of its long walks."""

Parts = dict[str, dict[str, Any]]
"""What is measured by the name of the part: numbers by scene, in lists by name or by pixel frame."""


def fidelity(
    worlds: Mapping[str, World],
    settings: FidelitySettings,
    command: str,
    report: Callable[[int, int, str], None] = lambda done, total, what: None,
    parts: Parts | None = None,
    keep: Callable[[str, dict[str, Any]], None] = lambda name, part: None,
    draw: Draw = lambda split, truth, made: None,
) -> FidelityReport:
    """Return the whole report of `worlds`: the one that is judged first, its ablations after it.

    An ablation named `ablate=gdn_state` also takes part in the look-away test. parts: those measured before
    for the same worlds and settings, not measured again; keep(name, part): called with every other one.
    report: called with (env steps done, in all, the part that is measured). draw: see `Draw`; rollouts
    that were measured before are not drawn again.
    """
    found = dict(parts or {})
    name, world = next(iter(worlds.items()))
    done, key = 0, ""
    total = sum(one.steps for split in settings.splits for one in _measures(worlds, split, settings, draw))

    def tick(steps: int) -> None:
        nonlocal done
        report(done, total, key)  # a tick comes before its step
        done += steps

    splits = {}
    for split in settings.splits:
        for key, steps, measure in _measures(worlds, split, settings, draw):
            if key in found:
                tick(steps)
                continue
            tick(0)
            found[key] = measure(tick)
            keep(key, found[key])
        own = {
            key.removeprefix(f"{split}: "): part
            for key, part in found.items()
            if key.startswith(f"{split}: ")
        }
        splits[split] = _split(own, name)
    return FidelityReport(
        benchmark="fidelity", **provenance(world.spec, command), settings=settings, splits=splits
    )


class Measure(NamedTuple):
    """A part: its name, the env steps it takes, and what measures it."""

    name: str
    steps: int
    measure: Callable[[Tick], dict[str, Any]]


def _measures(
    worlds: Mapping[str, World], split: str, settings: FidelitySettings, draw: Draw
) -> Iterator[Measure]:
    """Yield every part of a split."""
    name, world = next(iter(worlds.items()))
    truth = Truth(world, split, settings)
    last = (settings.long_steps * world.spec.frames_per_step) // 4

    def judged(tick: Tick) -> dict[str, Any]:
        made = rolled_in_batches(world, truth.long, settings.batch, tick)
        draw(split, truth.long.frames, made.frames)
        short = made.frames[:, : truth.short.frames.shape[1]]
        return {
            "psnr": _at_horizons(short, truth.short.frames, settings.horizons),
            "appearance": _statistics(made.frames, truth.long.frames, last),
            "imagination": imagined(name, world.spec, truth.long, made, settings, load_judge()),
        }

    def stands(tick: Tick) -> dict[str, Any]:
        return {"standing": standing(world, truth.short, settings.still_steps, settings.batch, tick)}

    def compared(make: Callable[[Tick], Tensor], tick: Tick) -> dict[str, Any]:
        return {"psnr": _at_horizons(make(tick), truth.short.frames, settings.horizons)}

    yield Measure(f"{split}: {name}", settings.scenes * truth.long_steps, judged)
    yield Measure(f"{split}: {_STANDS}", settings.scenes * standing_steps(settings.still_steps), stands)
    for row, (make, steps) in compared_rows(worlds, truth, settings.batch).items():
        yield Measure(f"{split}: {row}", steps, partial(compared, make))
    ends = torch.tensor(settings.horizons)

    def after(kind: str, tick: Tick) -> dict[str, Any]:
        shown = in_batches(world, truth.short, settings.batch, tick, kind)
        seen = seen_before(world.spec, truth.short, kind, ends)
        told: dict[str, dict[str, Any]] = {"psnr": {}, "seen": {}, "share": {}}
        for h, mask in zip(settings.horizons, seen.unbind(1), strict=True):
            own, true = shown[:, h], truth.short.frames[:, h]
            told["psnr"][str(h)] = psnr(own, true).tolist()
            told["seen"][str(h)] = psnr_where(own, true, mask)
            told["share"][str(h)] = mask.double().mean((1, 2)).tolist()
        return told

    for kind in settings.contexts:
        yield Measure(f"{split}: {_AFTER}{kind}", settings.scenes * truth.short_steps, partial(after, kind))
    for test, (lead, turning) in turns(world, settings).items():
        seeds = range(settings.seed, settings.seed + settings.scenes)
        keys = [["w"] * lead + turning] * len(seeds)
        around = cache(partial(walks, world.spec, split=split, seeds=seeds, keys=keys))
        before = lead * world.spec.frames_per_step
        for row in worlds:
            if row in (name, "ablate=gdn_state", "ablate=memory"):
                looked = partial(_look_away, worlds[row], around, before, settings.batch)
                yield Measure(f"{split}: {test}: {row}", len(seeds) * len(keys[0]), looked)


def _look_away(
    world: World, walked: Callable[[], Walks], before: int, batch: int, tick: Tick
) -> dict[str, Any]:
    """Return PSNR of the view after turning away and coming back.

    walked: the truth; its last frame has the pose of frame `before`, the one before the turn. `truth`:
    against the renderer. `itself`: against what the world showed before the turn; a world may agree with
    itself and be wrong. With lead-in 0 that is the start image, which a softmax window with a sink never
    loses; after a walk forward it is not.
    """
    truth = walked()
    frames = in_batches(world, truth, batch, tick)
    return {
        "truth": psnr(frames[:, -1], truth.frames[:, -1]).tolist(),
        "itself": psnr(frames[:, -1], frames[:, before]).tolist(),
    }


def _split(parts: Parts, name: str) -> Split:
    """Return the numbers of a split; parts are without its name."""
    scores = {
        row: {h: np.array(values) for h, values in part["psnr"].items()}
        for row, part in parts.items()
        if "psnr" in part
    }
    shown = {
        row.removeprefix(_AFTER): Shown(
            psnr=_bands(_arrays(part["seen"])), share=_bands(_arrays(part["share"]))
        )
        for row, part in parts.items()
        if "share" in part
    }
    seen: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for key, part in parts.items():
        if "itself" in part:
            test, _, row = key.partition(": ")
            seen.setdefault(test, {})[row] = {how: np.array(values) for how, values in part.items()}
    return Split(
        psnr={row: _bands(score) for row, score in scores.items()},
        gain_over={
            row: _bands({h: scores[name][h] - score[h] for h in score})
            for row, score in scores.items()
            if row != name
        },
        look_away={
            test: {row: _view(score) for row, score in rows.items()}
            | {
                f"{name} minus {row}": _view({key: rows[name][key] - score[key] for key in score})
                for row, score in rows.items()
                if row != name
            }
            for test, rows in seen.items()
        },
        appearance=_appearance(parts[name]["appearance"]),
        shown=shown,
        imagination=imagination(name, parts[name]["imagination"], parts[_STANDS]["standing"]),
    )


def _arrays(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return numbers by scene; None becomes not a number, which averages leave out."""
    return {key: np.array(values, dtype=float) for key, values in found.items()}


def appearance(frames: Tensor, truth: Tensor, last: int) -> Appearance:
    """Return statistics of the last `last` frames over the truth's (1 = equal), and the freeze index.

    Frames are uint8 `(B, F, h, w, 3)`. luma: mean of 0.299 R + 0.587 G + 0.114 B. contrast: its RMS deviation
    within a frame. saturation: mean of max(RGB) - min(RGB). freeze: share of the frames in which the truth
    moves that change less than a tenth of what the true one does.
    """
    return _appearance(_statistics(frames, truth, last))


def _statistics(frames: Tensor, truth: Tensor, last: int) -> dict[str, Any]:
    """Return the same by scene, before it is averaged."""
    own, true = clip_statistics(frames[:, -last:]), clip_statistics(truth[:, -last:])
    frozen = freeze_share(frames[:, -last - 1 :], truth[:, -last - 1 :])
    return {
        "own": {key: own[key].tolist() for key in own},
        "true": {key: true[key].tolist() for key in true},
        "freeze": frozen.tolist(),
    }


def _appearance(found: Mapping[str, Any]) -> Appearance:
    own, true = ({key: np.array(values) for key, values in found[which].items()} for which in ("own", "true"))
    ratios = {key: ratio_band(own[key], true[key]) for key in own}
    return Appearance(**ratios, freeze=band(np.array(found["freeze"])))


def _at_horizons(frames: Tensor, truth: Tensor, horizons: Sequence[int]) -> dict[str, list[float]]:
    return {str(h): psnr(frames[:, h], truth[:, h]).tolist() for h in horizons}


def _bands(scores: Mapping[str, np.ndarray]) -> dict[str, Band]:
    return {key: band(values) for key, values in scores.items()}


def _view(scores: Mapping[str, np.ndarray]) -> View:
    return View(truth=band(scores["truth"]), itself=band(scores["itself"]))

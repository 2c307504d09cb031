"""From walks to the numbers of a fidelity report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from wm_env.bench.fidelity.report import Appearance, FidelityReport, Split, View
from wm_env.bench.fidelity.rows import FidelitySettings, Tell, other_rows, random_walks, silent
from wm_env.bench.provenance import provenance
from wm_env.bench.walks import in_batches, steps_around, take, walks
from wm_env.model.metrics.appearance import clip_statistics
from wm_env.model.metrics.images import psnr
from wm_env.model.metrics.intervals import Band, band, ratio_band
from wm_env.model.metrics.motion import freeze_share
from wm_env.model.world import World


def fidelity(
    worlds: Mapping[str, World], settings: FidelitySettings, command: str, report: Tell | None = None
) -> FidelityReport:
    """Return the whole report of `worlds`: the one that is judged first, its ablations after it.

    An ablation named `ablate=gdn_state` also takes part in the look-away test.
    """
    tell = report if report is not None else silent
    name, world = next(iter(worlds.items()))
    splits = {}
    steps = -(-max(settings.horizons) // world.spec.frames_per_step)
    for split in settings.splits:
        say = _prefixed(tell, split)
        say("truth")
        truth = random_walks(world, split, settings, max(steps, settings.long_steps))
        say(name)
        shown = in_batches(world, truth, settings.batch)
        short = take(truth, slice(None), steps * world.spec.frames_per_step)
        rows = {name: shown[:, : short.frames.shape[1]]}
        rows |= other_rows(worlds, short, settings.batch, say)
        scores = {row: _at_horizons(frames, short.frames, settings.horizons) for row, frames in rows.items()}
        last = (settings.long_steps * world.spec.frames_per_step) // 4
        say("look away")
        splits[split] = Split(
            psnr={row: _bands(score) for row, score in scores.items()},
            gain_over={
                row: _bands({h: scores[name][h] - score[h] for h in score})
                for row, score in scores.items()
                if row != name
            },
            look_away=look_away(worlds, split, settings),
            appearance=appearance(shown, truth.frames, last),
        )
    return FidelityReport(
        benchmark="fidelity", **provenance(world.spec, command), settings=settings, splits=splits
    )


def look_away(
    worlds: Mapping[str, World], split: str, settings: FidelitySettings
) -> dict[str, dict[str, View]]:
    """Return PSNR of the view after turning away and coming back, by test and world.

    `lead_N`: N steps forward, `look_steps` aside and back again. `full_turn`: `lead_steps` forward, once
    around. The last frame has the pose of the frame before the turn. `truth`: against the renderer. `itself`:
    against what the world showed before the turn; a world may agree with itself and be wrong. With lead-in 0
    that is the start image, which a softmax window with a sink never loses; after a walk forward it is not.
    """
    name, world = next(iter(worlds.items()))
    compared = [row for row in worlds if row in (name, "ablate=gdn_state", "ablate=memory")]
    seeds = range(settings.seed, settings.seed + settings.scenes)
    result = {}
    away = ["d"] * settings.look_steps + ["a"] * settings.look_steps
    tests = {f"lead_{lead}": (lead, away) for lead in sorted({0, settings.lead_steps})}
    tests["full_turn"] = (settings.lead_steps, ["d"] * steps_around(world.spec))
    for test, (lead, turning) in tests.items():
        keys = ["w"] * lead + turning
        truth = walks(world.spec, split=split, seeds=seeds, keys=[keys] * len(seeds))
        before = lead * world.spec.frames_per_step
        scores = {}
        for row in compared:
            frames = in_batches(worlds[row], truth, settings.batch)
            scores[row] = {
                "truth": psnr(frames[:, -1], truth.frames[:, -1]).numpy(),
                "itself": psnr(frames[:, -1], frames[:, before]).numpy(),
            }
        result[test] = {row: _view(score) for row, score in scores.items()} | {
            f"{name} minus {row}": _view({key: scores[name][key] - score[key] for key in score})
            for row, score in scores.items()
            if row != name
        }
    return result


def appearance(frames: Tensor, truth: Tensor, last: int) -> Appearance:
    """Return statistics of the last `last` frames over the truth's (1 = equal), and the freeze index.

    Frames are uint8 `(B, F, h, w, 3)`. luma: mean of 0.299 R + 0.587 G + 0.114 B. contrast: its RMS deviation
    within a frame. saturation: mean of max(RGB) - min(RGB). freeze: share of the frames in which the truth
    moves that change less than a tenth of what the true one does.
    """
    own, true = clip_statistics(frames[:, -last:]), clip_statistics(truth[:, -last:])
    ratios = {key: ratio_band(own[key], true[key]) for key in own}
    frozen = freeze_share(frames[:, -last - 1 :], truth[:, -last - 1 :])
    return Appearance(**ratios, freeze=band(frozen))


def _at_horizons(frames: Tensor, truth: Tensor, horizons: Sequence[int]) -> dict[int, np.ndarray]:
    return {h: psnr(frames[:, h], truth[:, h]).numpy() for h in horizons}


def _bands(scores: Mapping[int, np.ndarray]) -> dict[str, Band]:
    return {str(key): band(values) for key, values in scores.items()}


def _prefixed(tell: Tell, split: str) -> Tell:
    def say(what: str) -> None:
        tell(f"{split}: {what}")

    return say


def _view(scores: Mapping[str, np.ndarray]) -> View:
    return View(truth=band(scores["truth"]), itself=band(scores["itself"]))

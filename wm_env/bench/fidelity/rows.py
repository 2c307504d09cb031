"""How true a world's frames are, by horizon, beside what no model at all would reach.

The camera walks random keys through procedural scenes. Every world gets the start image and the same poses;
its frames are compared with the renderer's at pixel-frame horizons h:

    PSNR(h) = mean over scenes of 10 log10(255^2 / MSE(frame_h, truth_h)),   with a 95% bootstrap interval.

Rows beside the world: repeat the first frame; the autoencoder fed with the truth (what the codec alone
costs); the world with a part ablated; the world shown the poses of another scene (wrong actions).

Two more tests: the look-away (turn for some steps and back, or once around: is the view still there?) and
the appearance of long rollouts (do they darken, wash out or freeze?).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from wm_env.bench.provenance import provenance, provenance_lines
from wm_env.bench.walks import Walks, codec_only, in_batches, repeat_first, steps_around, take, walks
from wm_env.model.metrics.appearance import clip_statistics
from wm_env.model.metrics.images import psnr
from wm_env.model.metrics.intervals import Band, band, ratio_band
from wm_env.model.metrics.motion import freeze_share
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.paths import trajectory
from wm_env.model.world import World

FREEZE_MOTION = 0.1  # a frame is frozen below this share of the true frame-to-frame change
TRUE_MOTION = 1.0  # grey levels; below it the true view does not move and cannot freeze

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FidelitySettings:
    """What is measured.

    splits, scenes, seed: scene seeds SEED .. SEED + scenes - 1 of every split. horizons: pixel frames, the
    last one as long as a comparison of all rows runs. look_steps: env steps of turning away. lead_steps: env
    steps of walking forward before it. long_steps: env steps of the appearance test. batch: walks a call.
    """

    splits: tuple[str, ...] = ("val", "heldout")
    scenes: int = 32
    seed: int = 0
    horizons: tuple[int, ...] = (4, 16, 64)
    look_steps: int = 8
    lead_steps: int = 8
    long_steps: int = 64
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("scenes", "look_steps", "long_steps", "batch"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if not self.horizons or min(self.horizons) < 1:
            raise ValueError(f"horizons={self.horizons} must be pixel frames of at least 1")


def fidelity(
    worlds: Mapping[str, World], settings: FidelitySettings, command: str, report: Report | None = None
) -> dict[str, Any]:
    """Return the whole report of `worlds`: the one that is judged first, its ablations after it.

    An ablation named `ablate=gdn_state` also takes part in the look-away test.
    """
    tell = report if report is not None else _silent
    name, world = next(iter(worlds.items()))
    result = {
        "benchmark": "fidelity",
        **provenance(world.spec, command),
        "settings": asdict(settings),
        "splits": {},
    }
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
        result["splits"][split] = {
            "psnr": {row: _bands(score) for row, score in scores.items()},
            "gain_over": {
                row: _bands({h: scores[name][h] - score[h] for h in score})
                for row, score in scores.items()
                if row != name
            },
            "look_away": look_away(worlds, split, settings),
            "appearance": appearance(shown, truth.frames, last),
        }
    return result


def random_walks(world: World, split: str, settings: FidelitySettings, steps: int) -> Walks:
    """Return random walks of `steps` env steps through the scenes of `settings`."""
    seeds = range(settings.seed, settings.seed + settings.scenes)
    keys = [trajectory("random_walk", steps, seed) for seed in seeds]
    return walks(world.spec, split=split, seeds=seeds, keys=keys)


def other_rows(
    worlds: Mapping[str, World], truth: Walks, batch: int, report: Report | None = None
) -> dict[str, Tensor]:
    """Return the frames of every row beside the first world, shaped like `truth.frames`.

    `wrong actions` is the first world shown the next scene's poses; it needs two scenes.
    """
    tell = report if report is not None else _silent
    name, world = next(iter(worlds.items()))
    rows = {"repeat first frame": repeat_first(truth)}
    if isinstance(world, LearnedWorld):
        rows["codec alone"] = codec_only(world, truth)
    for other, ablated in worlds.items():
        if other != name:
            tell(other)
            rows[other] = in_batches(ablated, truth, batch)
    if len(truth.prompts) > 1 and not world.spec.sees_scene:
        tell("wrong actions")
        rows["wrong actions"] = in_batches(world, truth._replace(c2w=truth.c2w.roll(1, dims=0)), batch)
    return rows


def look_away(worlds: Mapping[str, World], split: str, settings: FidelitySettings) -> dict[str, Any]:
    """Return PSNR of the view after turning away and coming back, by test and world.

    `lead_N`: N steps forward, `look_steps` aside and back again. `full_turn`: `lead_steps` forward, once
    around. The last frame has the pose of the frame before the turn. `truth`: against the renderer. `itself`:
    against what the world showed before the turn; a world may agree with itself and be wrong. With lead-in 0
    that is the start image, which a softmax window with a sink never loses; after a walk forward it is not.
    """
    name, world = next(iter(worlds.items()))
    compared = [row for row in worlds if row in (name, "ablate=gdn_state", "ablate=memory")]
    seeds = range(settings.seed, settings.seed + settings.scenes)
    result: dict[str, Any] = {}
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
        result[test] = {row: _bands(score) for row, score in scores.items()} | {
            f"{name} minus {row}": _bands({key: scores[name][key] - score[key] for key in score})
            for row, score in scores.items()
            if row != name
        }
    return result


def appearance(frames: Tensor, truth: Tensor, last: int) -> dict[str, Any]:
    """Return statistics of the last `last` frames over the truth's (1 = equal), and the freeze index.

    Frames are uint8 `(B, F, h, w, 3)`. luma: mean of 0.299 R + 0.587 G + 0.114 B. contrast: its RMS deviation
    within a frame. saturation: mean of max(RGB) - min(RGB). freeze: share of the frames in which the truth
    moves that change less than a tenth of what the true one does.
    """
    own, true = clip_statistics(frames[:, -last:]), clip_statistics(truth[:, -last:])
    ratios = {key: ratio_band(own[key], true[key]) for key in own}
    frozen = freeze_share(frames[:, -last - 1 :], truth[:, -last - 1 :])
    return {key: value.to_dict() for key, value in (ratios | {"freeze": band(frozen)}).items()}


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown tables."""
    settings = report["settings"]
    lines = [
        f"# Fidelity of `{report['world']}`",
        "",
        *provenance_lines(report),
        f"{settings['scenes']} scenes a split. Intervals: 95% bootstrap over scenes.",
        "",
    ]
    for split, found in report["splits"].items():
        horizons = list(next(iter(found["psnr"].values())))
        titles = ["row", *(f"frame {h}" for h in horizons)]
        lines += [f"## {split}: PSNR (dB) against the twin", "", *_table(titles, found["psnr"], 2), ""]
        lines += [f"### {split}: gain of the world over each row (dB, paired)", ""]
        lines += [*_table(titles, found["gain_over"], 2), ""]
        for test, rows in found["look_away"].items():
            around = test == "full_turn"
            steps = settings["lead_steps"] if around else test.removeprefix("lead_")
            turned = "once around" if around else f"away for {settings['look_steps']} steps and back"
            lines += [
                f"### {split}: PSNR (dB) of the view after turning {turned}, "
                f"{steps} steps forward beforehand",
                "",
                *_table(["row", "against the twin", "against itself before"], rows, 2),
                "",
            ]
        rows = {key: {"": value} for key, value in found["appearance"].items()}
        lines += [
            f"### {split}: last quarter of {settings['long_steps']} steps, ratio to the twin (freeze: share)",
            "",
            *_table(["statistic", "value"], rows, 3),
            "",
        ]
    return "\n".join(lines)


def _table(titles: Sequence[str], rows: Mapping[str, Mapping[Any, Any]], digits: int) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row, cells in rows.items():
        texts = [Band(**cell).text(digits) for cell in cells.values()]
        lines.append("| " + " | ".join([row, *texts]) + " |")
    return lines


def _at_horizons(frames: Tensor, truth: Tensor, horizons: Sequence[int]) -> dict[int, np.ndarray]:
    return {h: psnr(frames[:, h], truth[:, h]).numpy() for h in horizons}


def _bands(scores: Mapping[Any, np.ndarray]) -> dict[str, Any]:
    return {str(key): band(values).to_dict() for key, values in scores.items()}


def _prefixed(tell: Report, split: str) -> Report:
    def say(what: str) -> None:
        tell(f"{split}: {what}")

    return say


def _silent(what: str) -> None:
    pass

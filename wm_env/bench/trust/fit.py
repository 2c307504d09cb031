"""From samples to a calibration: `wm-env trust calibrate`.

Walks through `train` scenes against the renderer, every context on scenes of its own, or the held-out ends of
posed clips. The bound of a target is the median of its errors, rounded, unless it is given: then a forecast
of the base rate says 50%, and whatever is better knows something.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from wm_env.bench.context.rows import ContextSettings, films_of_clips
from wm_env.bench.context.rows import starts as starts_of_films
from wm_env.bench.provenance import hardware
from wm_env.bench.trust.samples import (
    Samples,
    SampleSettings,
    joined,
    samples_of_films,
    samples_of_walks,
    start_errors,
    truth_of,
)
from wm_env.bench.walks import Walks, starts, take
from wm_env.model.metrics.forecasts import brier_skill
from wm_env.model.metrics.intervals import MIN_SCENES
from wm_env.model.rollout import LearnedWorld
from wm_env.model.surprise import levels
from wm_env.model.surprise_null import SurpriseNull, fit_null
from wm_env.model.trust_calibration import Calibration, check_not_true
from wm_env.model.trust_model import FOLDS, TrustModel, fit_trust
from wm_env.model.world import World
from wm_env.surprises import watch_films
from wm_env.trust import FRAME_TRUST

APART = 100_000  # between the scene seeds of two contexts
RARE = 99.0  # percentile of start errors
UNITS = {"appearance": "grey levels", "place": "mean |log depth|"}


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What is walked. samples: walks of every context. bound, place_bound: errors that count as near the
    truth, grey levels and mean |log depth|; None is the median. surprise: walks of the null distribution.
    held_out: chunks at the end of a clip that are predicted, after `shown` chunks."""

    samples: SampleSettings
    bound: float | None = None
    place_bound: float | None = None
    surprise: int = 12
    held_out: int = 8
    shown: int = 1

    def __post_init__(self) -> None:
        for name in ("surprise", "held_out", "shown"):
            if self.__dict__[name] < (0 if name == "surprise" else 1):
                raise ValueError(f"{name}={self.__dict__[name]} is too small")
        for name in ("bound", "place_bound"):
            value = self.__dict__[name]
            if value is not None and not 0 < value < 1e6:
                raise ValueError(f"{name}={value} must be an error above 0")


Progress = Callable[[int, int, str], None]


def calibrate(
    world: World,
    settings: FitSettings,
    *,
    command: str,
    clips: Sequence[Path] = (),
    progress: Progress = lambda done, total, what: None,
) -> tuple[Calibration, Samples]:
    """Return the calibration of a world, and the samples that it was fitted on.

    Raises `ValueError` for a renderer, for a world whose weights nobody can name, and where the errors of all
    samples are on one side of a bound.
    """
    spec = world.spec
    check_not_true(spec)
    if spec.weights_sha256 is None:
        raise ValueError(f"world {spec.name!r} names no weights (weights_sha256) to bind a calibration to")
    null, limit = None, None
    if clips:
        found = _of_clips(world, clips, settings, progress)
    else:
        found, null, limit = _of_scenes(world, settings, progress)
    names = tuple(found.signals)
    targets = {
        "appearance": _model(found, found.appearance, names, settings.bound, UNITS["appearance"], 0),
        "place": None,
    }
    if np.isfinite(found.place).all():
        targets["place"] = _model(found, found.place, names, settings.place_bound, UNITS["place"], 2)
    appearance = targets["appearance"]
    assert appearance is not None
    made = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(),
        "torch": torch.__version__,
        "clips": [clip.name for clip in clips],
        "walks": int(found.walk.max()) + 1,
        "samples": len(found),
        **({"settings": asdict(settings.samples)} if not clips else {}),
        "skill_without": ablated(found, names, appearance.bound),
    }
    return Calibration(
        world=spec.name,
        options=dict(spec.options),
        weights_sha256=spec.weights_sha256,
        made=json.loads(json.dumps(made)),
        appearance=appearance,
        place=targets["place"],
        cells=_cells(found, appearance),
        start_limit=limit,
        surprise=null,
    ), found


def _model(
    found: Samples, error: np.ndarray, names: Sequence[str], bound: float | None, unit: str, digits: int
) -> TrustModel:
    limit = round(float(np.median(error)), digits) if bound is None else bound
    return fit_trust(found.signals, error, found.walk, bound=limit, unit=unit, names=names)


def ablated(found: Samples, names: Sequence[str], bound: float) -> dict[str, float | None]:
    """Return the Brier skill of walks left out, with all signals ("") and without each, by its name.

    A quarter of the walks is left out in turn; None where the skill is not defined.
    """

    def skill(of: Sequence[str]) -> float | None:
        forecast = np.full(len(found), np.nan)
        for fold in range(FOLDS):
            out = found.walk % FOLDS == fold
            given = {name: values[~out] for name, values in found.signals.items()}
            inside = found.appearance[~out] <= bound
            if not out.any() or out.all() or inside.all() or not inside.any():
                return None
            made = fit_trust(given, found.appearance[~out], found.walk[~out], bound=bound, unit="", names=of)
            forecast[out] = made.probability({name: found.signals[name][out] for name in of})
        told = brier_skill(forecast, found.appearance <= bound)
        return None if told is None else round(told, 4)

    return {"": skill(names)} | {one: skill([name for name in names if name != one]) for one in names}


def _cells(found: Samples, appearance: TrustModel) -> TrustModel | None:
    """Return the model of cells at the bound of frames, None where a world has no signals of cells."""
    if not found.cell_signals:
        return None
    of_frame = appearance.probability(found.signals)[found.cell_of]
    signals = {**found.cell_signals, FRAME_TRUST: of_frame}
    walk = found.walk[found.cell_of]
    unit = appearance.unit
    return fit_trust(signals, found.cell_error, walk, bound=appearance.bound, unit=unit, names=tuple(signals))


def _of_scenes(
    world: World, settings: FitSettings, progress: Progress
) -> tuple[Samples, SurpriseNull | None, float | None]:
    asked = settings.samples
    judged = isinstance(world, LearnedWorld) and settings.surprise > 0
    of_null = min(settings.surprise, asked.scenes) * asked.steps if judged else 0
    total, done = len(asked.contexts) * asked.scenes * asked.steps + of_null, 0

    def tick(steps: int, what: str) -> None:
        nonlocal done
        progress(done, total, what)
        done += steps

    parts, limits, null = [], [], None
    for index, context in enumerate(asked.contexts):
        own = replace(asked, seed=asked.seed + index * APART)
        truth = truth_of(world.spec, "train", own)
        what = f"after context {context}"
        parts.append(
            samples_of_walks(world, truth, context, asked.batch, lambda steps, what=what: tick(steps, what))  # type: ignore[misc]
        )
        limits.append(start_errors(world, truth))
        if index == len(asked.contexts) - 1 and judged and isinstance(world, LearnedWorld):
            shown = take(truth, slice(0, settings.surprise))
            null = null_of(world, shown, context, lambda steps: tick(steps, "surprise"))
    errors = np.concatenate(limits)
    limit = float(f"{np.percentile(errors, RARE):.6g}") if np.isfinite(errors).all() else None
    return joined(parts), null, limit


def null_of(world: LearnedWorld, truth: Walks, context: str, tick: Callable[[int], None]) -> SurpriseNull:
    """Return the null distribution of surprise over true walks after contexts of a kind."""

    def counted(done: int, total: int) -> None:
        tick(len(truth.prompts))

    seen = watch_films(world, starts(world, truth, context), truth.frames, truth.c2w, counted)
    return fit_null(levels(world), seen)


def _of_clips(world: World, clips: Sequence[Path], settings: FitSettings, progress: Progress) -> Samples:
    if len(clips) < MIN_SCENES:
        raise ValueError(f"{len(clips)} clips are too few to calibrate on; give at least {MIN_SCENES}")
    asked = ContextSettings(shown=(settings.shown,), held_out=settings.held_out)
    films = films_of_clips(world, clips, asked)
    total, done = len(clips) * settings.held_out, 0

    def tick(steps: int) -> None:
        nonlocal done
        progress(done, total, "predicting clips")
        done += steps

    parts = []
    for begin in range(0, len(clips), settings.samples.batch):
        slots = range(begin, min(begin + settings.samples.batch, len(clips)))
        told = starts_of_films(films, slots, settings.shown, world.spec.frames_per_step)
        part = slice(slots.start, slots.stop)
        seeds = films.noise_seeds[part]
        parts.append(samples_of_films(world, told, films.frames[part], films.c2w[part], seeds, tick))
    return joined(parts)

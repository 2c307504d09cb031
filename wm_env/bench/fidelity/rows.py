"""How true a world's frames are, by horizon, beside what no model at all would reach.

The camera walks random keys through procedural scenes. Every world gets the start image and the same poses;
its frames are compared with the renderer's at pixel-frame horizons h:

    PSNR(h) = mean over scenes of 10 log10(255^2 / MSE(frame_h, truth_h)),   with a 95% bootstrap interval.

Rows beside the world: repeat the first frame; the autoencoder fed with the truth (what the codec alone
costs); the world with a part ablated; the world shown the poses of another scene (wrong actions).

Further tests: the look-away (turn for some steps and back, or once around: is the view still there?), the
appearance of long rollouts (do they darken, wash out or freeze?) with what they imagine (imagination.py), and
a camera that stands (standing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

from torch import Tensor

from wm_env.bench.walks import Tick, Walks, codec_only, in_batches, repeat_first, steps_around, take, walks
from wm_env.contexts import SCENE_CONTEXTS
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.paths import trajectory
from wm_env.model.world import World

CONTEXTS = ("none", *SCENE_CONTEXTS)


@dataclass(frozen=True, kw_only=True)
class FidelitySettings:
    """What is measured.

    splits, scenes, seed: scene seeds SEED .. SEED + scenes - 1 of every split. horizons: pixel frames, the
    last one as long as a comparison of all rows runs. look_steps: env steps of turning away. lead_steps: env
    steps of walking forward before it. long_steps: env steps of the appearance test, whose frames are also
    asked what they imagine. still_steps: env steps without a command. batch: walks a call.
    contexts: kinds of contexts ("none", "turn", "walk") that the world is measured after, with the pixels
    that they have shown apart.
    """

    splits: tuple[str, ...] = ("val", "heldout")
    scenes: int = 32
    seed: int = 0
    horizons: tuple[int, ...] = (4, 16, 64)
    look_steps: int = 8
    lead_steps: int = 8
    long_steps: int = 64
    still_steps: int = 32
    batch: int = 8
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        odd = [kind for kind in self.contexts if kind not in CONTEXTS]
        if odd or len(set(self.contexts)) < len(self.contexts):
            raise ValueError(f"contexts={self.contexts} must be different kinds of {', '.join(CONTEXTS)}")
        for name in ("scenes", "look_steps", "long_steps", "still_steps", "batch"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if not self.horizons or min(self.horizons) < 1:
            raise ValueError(f"horizons={self.horizons} must be pixel frames of at least 1")


class Truth:
    """The random walks of a split, rendered when they are first asked for."""

    def __init__(self, world: World, split: str, settings: FidelitySettings) -> None:
        self._world, self._split, self._settings = world, split, settings
        self.scenes = settings.scenes
        self.short_steps = -(-max(settings.horizons) // world.spec.frames_per_step)
        self.long_steps = max(self.short_steps, settings.long_steps)

    @cached_property
    def long(self) -> Walks:
        """The walks of the appearance test, or of the horizons where those are longer."""
        return random_walks(self._world, self._split, self._settings, self.long_steps)

    @cached_property
    def short(self) -> Walks:
        """Their beginnings, up to the last horizon."""
        return take(self.long, slice(None), self.short_steps * self._world.spec.frames_per_step)


def random_walks(world: World, split: str, settings: FidelitySettings, steps: int) -> Walks:
    """Return random walks of `steps` env steps through the scenes of `settings`."""
    seeds = range(settings.seed, settings.seed + settings.scenes)
    keys = [trajectory("random_walk", steps, seed) for seed in seeds]
    return walks(world.spec, split=split, seeds=seeds, keys=keys)


class ComparedRow(NamedTuple):
    """make(tick): the frames of a row, shaped like `truth.short.frames`. steps: a world makes for them."""

    make: Callable[[Tick], Tensor]
    steps: int


def compared_rows(worlds: Mapping[str, World], truth: Truth, batch: int) -> dict[str, ComparedRow]:
    """Return every row beside the first world.

    `wrong actions` is the first world shown the next scene's poses; it needs two scenes.
    """
    name, world = next(iter(worlds.items()))
    rows = {"repeat first frame": ComparedRow(lambda tick: repeat_first(truth.short), 0)}
    if isinstance(world, LearnedWorld):
        rows["codec alone"] = ComparedRow(lambda tick: codec_only(world, truth.short), 0)
    steps = truth.scenes * truth.short_steps
    for other in worlds:
        if other != name:
            rows[other] = ComparedRow(partial(_shown, worlds[other], truth, batch), steps)
    if truth.scenes > 1 and not world.spec.sees_scene:

        def wrong(tick: Tick) -> Tensor:
            elsewhere = truth.short._replace(c2w=truth.short.c2w.roll(1, dims=0))
            return in_batches(world, elsewhere, batch, tick)

        rows["wrong actions"] = ComparedRow(wrong, steps)
    return rows


def turns(world: World, settings: FidelitySettings) -> dict[str, tuple[int, list[str]]]:
    """Return the look-away tests by name: steps forward, and the keys of the turn after them.

    `lead_N`: N steps forward, `look_steps` aside and back again. `full_turn`: `lead_steps` forward, once
    around.
    """
    away = ["d"] * settings.look_steps + ["a"] * settings.look_steps
    tests = {f"lead_{lead}": (lead, away) for lead in sorted({0, settings.lead_steps})}
    return tests | {"full_turn": (settings.lead_steps, ["d"] * steps_around(world.spec))}


def _shown(world: World, truth: Truth, batch: int, tick: Tick) -> Tensor:
    return in_batches(world, truth.short, batch, tick)

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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor

from wm_env.bench.walks import Walks, codec_only, in_batches, repeat_first, steps_around, take, walks
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.paths import trajectory
from wm_env.model.world import World

Tell = Callable[[str], None]


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


class Truth:
    """The random walks of a split, rendered when they are first asked for."""

    def __init__(self, world: World, split: str, settings: FidelitySettings) -> None:
        self._world, self._split, self._settings = world, split, settings
        self.scenes = settings.scenes
        self._steps = -(-max(settings.horizons) // world.spec.frames_per_step)

    @cached_property
    def long(self) -> Walks:
        """The walks of the appearance test, or of the horizons where those are longer."""
        steps = max(self._steps, self._settings.long_steps)
        return random_walks(self._world, self._split, self._settings, steps)

    @cached_property
    def short(self) -> Walks:
        """Their beginnings, up to the last horizon."""
        return take(self.long, slice(None), self._steps * self._world.spec.frames_per_step)


def random_walks(world: World, split: str, settings: FidelitySettings, steps: int) -> Walks:
    """Return random walks of `steps` env steps through the scenes of `settings`."""
    seeds = range(settings.seed, settings.seed + settings.scenes)
    keys = [trajectory("random_walk", steps, seed) for seed in seeds]
    return walks(world.spec, split=split, seeds=seeds, keys=keys)


def compared_rows(worlds: Mapping[str, World], truth: Truth, batch: int) -> dict[str, Callable[[], Tensor]]:
    """Return what makes the frames of every row beside the first world, shaped like `truth.short.frames`.

    `wrong actions` is the first world shown the next scene's poses; it needs two scenes.
    """
    name, world = next(iter(worlds.items()))
    rows: dict[str, Callable[[], Tensor]] = {"repeat first frame": lambda: repeat_first(truth.short)}
    if isinstance(world, LearnedWorld):
        rows["codec alone"] = lambda: codec_only(world, truth.short)
    for other in worlds:
        if other != name:
            rows[other] = partial(_shown, worlds[other], truth, batch)
    if truth.scenes > 1 and not world.spec.sees_scene:
        rows["wrong actions"] = lambda: in_batches(
            world, truth.short._replace(c2w=truth.short.c2w.roll(1, dims=0)), batch
        )
    return rows


def turns(world: World, settings: FidelitySettings) -> dict[str, tuple[int, list[str]]]:
    """Return the look-away tests by name: steps forward, and the keys of the turn after them.

    `lead_N`: N steps forward, `look_steps` aside and back again. `full_turn`: `lead_steps` forward, once
    around.
    """
    away = ["d"] * settings.look_steps + ["a"] * settings.look_steps
    tests = {f"lead_{lead}": (lead, away) for lead in sorted({0, settings.lead_steps})}
    return tests | {"full_turn": (settings.lead_steps, ["d"] * steps_around(world.spec))}


def _shown(world: World, truth: Truth, batch: int) -> Tensor:
    return in_batches(world, truth.short, batch)


def silent(what: str) -> None:
    """Tell nobody."""

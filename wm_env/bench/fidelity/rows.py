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

from torch import Tensor

from wm_env.bench.walks import Walks, codec_only, in_batches, repeat_first, walks
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


def random_walks(world: World, split: str, settings: FidelitySettings, steps: int) -> Walks:
    """Return random walks of `steps` env steps through the scenes of `settings`."""
    seeds = range(settings.seed, settings.seed + settings.scenes)
    keys = [trajectory("random_walk", steps, seed) for seed in seeds]
    return walks(world.spec, split=split, seeds=seeds, keys=keys)


def other_rows(
    worlds: Mapping[str, World], truth: Walks, batch: int, report: Tell | None = None
) -> dict[str, Tensor]:
    """Return the frames of every row beside the first world, shaped like `truth.frames`.

    `wrong actions` is the first world shown the next scene's poses; it needs two scenes.
    """
    tell = report if report is not None else silent
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


def silent(what: str) -> None:
    """Tell nobody."""

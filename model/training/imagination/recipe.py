"""What an imagination recipe says: stages in order, as one TOML file read strictly, to the last setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from wm_env.model.config import DiTConfig, tiny
from wm_env.model.point_memory import MEMORY_CHANNELS
from wm_env.model.training.adversary import AdversaryConfig
from wm_env.model.training.few_steps import FewStepConfig
from wm_env.model.training.images import ImageConfig
from wm_env.model.training.losses.flow_matching import WorldLossConfig
from wm_env.model.training.own_walks import OwnWalkConfig
from wm_env.model.training.recipe import load, merged, only_known, read
from wm_env.model.training.schedule import LoopConfig

RECIPE = Path(__file__).parent.parent / "recipes" / "imagination.toml"
WALKERS = ("rollouts", "few_steps", "adversary", "refiner")  # kinds that let a world walk
WALKS = ("clips", "rollouts", "few_steps", "adversary")  # kinds that leave a transformer that walks
SAVE_SECONDS = 45.0  # nothing more than a minute of work may be lost
NEVER = 10_000_000  # steps: a stage is as long as its share of the time, and evaluates by the clock

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class RefinerLossConfig:
    """Rollouts of a step: `batch` walks of `chunks` chunks, of a share `still` of which the camera stands."""

    batch: int = 4
    chunks: int = 12
    still: float = 0.25

    def __post_init__(self) -> None:
        if self.batch < 1 or self.chunks < 1 or not 0 <= self.still <= 1:
            raise ValueError(f"batch and chunks of at least 1 and still in [0, 1] are needed: {self}")


LOSSES: Mapping[str, type] = {
    "images": ImageConfig,
    "clips": WorldLossConfig,
    "rollouts": OwnWalkConfig,
    "few_steps": FewStepConfig,
    "adversary": AdversaryConfig,
    "refiner": RefinerLossConfig,
}  # kinds of stages, and what their [stages.loss] holds


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a recipe: `loop` and `loss` are fields of `LoopConfig` and of the kind's loss config.

    share: of the total time. start: the stage whose averaged weights it starts from, None for new ones.
    teacher: of an adversary stage, the stage whose many steps it learns from.
    memory: clips with the point memory's views. world: leaves a world folder.
    """

    name: str
    kind: str
    share: float
    loop: Mapping[str, Any]
    loss: Mapping[str, Any]
    start: str | None = None
    teacher: str | None = None
    memory: bool = True
    world: bool = False

    def losses(self, kind: type[C]) -> C:
        """Return `loss` as the config `kind`, one of `LOSSES`; raises `ValueError` naming what is wrong."""
        return read(kind, self.loss, f"[stages.loss] of stage {self.name!r}")

    def looped(self, total: float) -> LoopConfig:
        """Return `loop` for a training of `total` seconds; raises `ValueError` naming what is wrong."""
        seconds = total * self.share
        fixed = {
            "total_steps": NEVER,
            "total_seconds": seconds,
            "slow_factor": 0.01,
            "save_every_seconds": SAVE_SECONDS,
            "eval_every": NEVER,
            "eval_seconds": max(20.0, min(600.0, seconds / 12)),
        }
        where = f"[stages.loop] of stage {self.name!r}"
        own = [field.name for field in dataclasses.fields(LoopConfig) if field.name not in fixed]
        only_known(self.loop, own, where)
        return read(LoopConfig, {"warmup_steps": 50, **self.loop, **fixed}, where)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages in order, the transformer they train and the world whose autoencoder they keep."""

    stages: tuple[Stage, ...]
    dit: DiTConfig
    autoencoder: str
    half_lives: tuple[float, ...]

    def settings_of(self, stage: Stage) -> DiTConfig:
        """Return the shape of a stage's transformer; one without the point memory has no window either."""
        if stage.memory:
            return self.dit
        return dataclasses.replace(self.dit, memory_channels=0, window_chunks=0)


def read_recipe(path: Path, device: str) -> Recipe:
    """Return the recipe of a TOML file with what it says for `device` ("cpu", "cuda"); see the module's head.

    Raises `ValueError` naming the file and what is unknown or missing in it.
    """
    values = load(path)
    try:
        only_known(values, ("autoencoder", "half_lives", "dit", "stages"), "the file")
        stages = tuple(_stage(table, device) for table in values["stages"])
        whole = merged(dataclasses.asdict(tiny(MEMORY_CHANNELS)), values.get("dit", {}))
        shape = read(DiTConfig, whole, "[dit]")
        names = [stage.name for stage in stages]
        kinds = {stage.name: stage.kind for stage in stages}
        for number, stage in enumerate(stages):
            if stage.start is not None and stage.start not in names[:number]:
                raise ValueError(
                    f"stage {stage.name!r} starts from {stage.start!r}, which no stage before it is"
                )
            if (stage.teacher is not None) != (stage.kind == "adversary"):
                raise ValueError(
                    f"stage {stage.name!r}: a stage of kind adversary names a teacher, and no other does"
                )
            before = names[:number]
            if stage.teacher and (stage.teacher not in before or kinds[stage.teacher] not in WALKS[:-1]):
                raise ValueError(
                    f"stage {stage.name!r} learns from {stage.teacher!r}, no stage before it that walks"
                )
            if stage.kind in WALKERS and kinds.get(stage.start or "") not in WALKS:
                raise ValueError(
                    f"stage {stage.name!r} walks a world: start must name a stage of kind "
                    f"{', '.join(WALKS[:-1])} or {WALKS[-1]}"
                )
            if stage.kind == "refiner" and not stage.memory:
                raise ValueError(f"stage {stage.name!r} is a refiner's, which needs memory = true")
        if len(set(names)) < len(names) or not abs(sum(s.share for s in stages) - 1) < 1e-6:
            raise ValueError(f"stages {names} need names of their own and shares that sum to 1")
        return Recipe(
            stages=stages,
            dit=shape,
            autoencoder=values["autoencoder"],
            half_lives=tuple(values["half_lives"]),
        )
    except KeyError as error:
        raise ValueError(f"recipe {path}: {error.args[0]!r} is missing") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"recipe {path}: {error}") from error


def _stage(table: Mapping[str, Any], device: str) -> Stage:
    where = f"stage {table.get('name')!r}"
    special = table.get("cuda", {}) if torch.device(device).type == "cuda" else {}
    only_known(special, ("loop", "loss"), f"[cuda] of {where}")
    own = merged({"loop": {}, "loss": {}}, {key: value for key, value in table.items() if key != "cuda"})
    stage = read(Stage, merged(own, special), where)
    if stage.kind not in LOSSES:
        raise ValueError(f"{where} is of unknown kind {stage.kind!r}; there are {', '.join(LOSSES)}")
    if not stage.share > 0:
        raise ValueError(f"{where} has share = {stage.share}; a share of the time, above 0, is needed")
    stage.losses(LOSSES[stage.kind])
    stage.looped(1.0)
    return stage

"""The embedded worlds from one command: stages of one recipe, each a `Run`, within a budget of time.

    python -m wm_env.model.training imagine --total 18m --budget 9m --out OUT --carry CARRY --device cuda

The recipe (model/training/recipes/imagination.toml) lists stages; a stage trains for `share` of the total
time and starts from the averaged weights of the stage it names:

    images      single latent frames of ever new rooms (images.py): what a room looks like
    clips       walks through ever new rooms (clip_stream.py): the camera, the state, the past
    rollouts    the world's own walks (own_walks.py): its mistakes as history, contexts, the truth as target
    few_steps   the same picture in three steps that took eight (few_steps.py)
    adversary   pictures in three steps that a judge takes for true ones (adversary.py)
    refiner     rollouts of the world that a clips stage left (refiner_rollouts.py): its frames, sharper

A command trains from where the last one stopped until its budget is over. What it leaves:

    OUT/STAGE/            the run of a stage: state, losses, card; resumed exactly
    OUT/STAGE/sheet.png   pictures of the averaged weights, drawn anew at every evaluation
    OUT/worlds/STAGE/     a world that `gym.make` takes, of every stage that says `world = true`
    CARRY/                bfloat16 averages and `progress.json`: enough to go on on another machine, where
                          optimizers begin without moments; a file below 15 MiB per unfinished chain of stages
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

from wm_env.model.storage.atomic import write_atomic
from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.kinds import build
from wm_env.model.training.imagination.recipe import WALKERS, Recipe, Stage
from wm_env.model.training.imagination.stages import Place, assemble
from wm_env.model.training.run import Run

Log = Callable[[str], None]


def imagine(place: Place, recipe: Recipe, budget: float | None = None, log: Log = print) -> bool:
    """Train from where the folder stands until `budget` seconds are over or all is done; return if it is.

    Raises `ValueError` for a folder of another recipe, before any training.
    """
    deadline = None if budget is None else time.monotonic() + budget
    place.out.mkdir(parents=True, exist_ok=True)
    _same_recipe(place, recipe)
    carried = Carried(place.carry)
    for number, stage in enumerate(recipe.stages):
        if _finished(place, carried, stage):
            continue
        log(f"{stage.name}: {place.total * stage.share / 60:.1f} minutes in all")
        run = build(stage, recipe, place, carried)
        left = None if deadline is None else max(0.01, deadline - time.monotonic())  # a step at least
        old = superseded(recipe, number)
        run.on_save = lambda run, stage=stage, old=old: carried.keep(stage.name, run, old)  # type: ignore[misc]
        with run:
            run.advance(seconds=left, report=_reporter(stage, run, log))
        if not run.finished:
            share = run.clock.done(run.config)
            log(f"{stage.name}: {share:.0%} done after {run.step} steps; the same command goes on")
            _write_worlds(recipe.stages[: number + 1], recipe, place, carried)
            return False
        log(f"{stage.name}: done after {run.step} steps, {run.metrics}")
    _write_worlds(recipe.stages, recipe, place, carried)
    return True


def _write_worlds(stages: Sequence[Stage], recipe: Recipe, place: Place, carried: Carried) -> None:
    """Write the world of every stage among `stages` that leaves one, with the newest refiner made for it."""
    for stage in stages:
        if stage.world:
            made = [s.name for s in stages if s.kind == "refiner" and s.start == stage.name]
            assemble(stage.name, recipe, place, carried, refiner=made[-1] if made else None)


def _same_recipe(place: Place, recipe: Recipe) -> None:
    """Refuse a folder that another recipe has begun; remember this one in a new folder."""
    own = json.loads(json.dumps({"total": place.total, **dataclasses.asdict(recipe)}, default=str))
    kept = place.out / "recipe.json"
    if kept.is_file():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before != own:
            different = [key for key in own if before.get(key) != own[key]]
            raise ValueError(
                f"{place.out} was begun with another recipe ({', '.join(different)} differ); "
                "give it again, or another folder"
            )
    write_atomic(kept, (json.dumps(own, indent=2) + "\n").encode())


def _finished(place: Place, carried: Carried, stage: Stage) -> bool:
    """Return whether a stage is done: here, or on the machine that its file came from."""
    card = place.out / stage.name / "card.json"
    here = card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("finished", False)
    return bool(here or carried.stages.get(stage.name, {}).get("finished", False))


def superseded(recipe: Recipe, number: int) -> list[str]:
    """Return the stages that nothing starts from after stage `number`, and that do not walk in it."""
    now = recipe.stages[number]
    users = recipe.stages[number if now.kind in WALKERS else number + 1 :]
    needed = {name for stage in users for name in (stage.start, stage.teacher)}
    return [stage.name for stage in recipe.stages[:number] if stage.name not in needed and not stage.world]


def _reporter(stage: Stage, run: Run, log: Log) -> Callable[[int, int, float], None]:
    """Return a report for `Run.advance` that logs a line every half a minute."""
    told = time.monotonic()

    def report(step: int, _: int, loss: float) -> None:
        nonlocal told
        if time.monotonic() - told > 30:
            told = time.monotonic()
            log(
                f"{stage.name}: step {step}, {run.clock.done(run.config):.1%}, loss {loss:.3f}, {run.metrics}"
            )

    return report

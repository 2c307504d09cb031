"""The parts of a world that can be trained: how each reads its recipe, what it needs, what builds its run.

To add one, write a module in `parts/` with a config and `build(config, inputs, resources) -> Run`, recipes in
`recipes/PART/`, and a row here; both command lines have it then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wm_env.model.training import recipe
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.parts import (
    depth,
    distill,
    judge,
    refiner,
    refiner_rollouts,
    self_forcing,
    vae,
    world,
)
from wm_env.model.training.parts.distill_steps import Distillation
from wm_env.model.training.run import Report, Run


class Option(NamedTuple):
    """An option of the command line that sets `field` of the config, "loop.lr" for one of its loop."""

    field: str
    kind: type
    help: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One training. text: a line of help. read: the config of a recipe's values. check: refuses inputs that
    do not go with a config, before any work. needs: inputs it cannot do without, made or taken from `base`
    where they are not given. takes: further ones. preset: the default. below: the preset under a recipe file
    that names none. strategies: of several processes. devices: whether it runs on others than the CPU.
    """

    text: str
    read: Callable[[Mapping[str, Any]], Any]
    build: Callable[[Any, Inputs, Resources], Run]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()
    check: Callable[[Any, Inputs], None] = lambda config, inputs: None
    preset: str = "tiny"
    below: str = "tiny"
    base: str = "tiny"
    strategies: tuple[str, ...] = ()
    devices: bool = True
    options: Mapping[str, Option] | None = None


def _reader(config: type) -> Callable[[Mapping[str, Any]], Any]:
    def read(values: Mapping[str, Any]) -> Any:
        return recipe.read(config, {key: value for key, value in values.items() if key != recipe.DATA})

    return read


LORA = Option(
    "lora", int, "rank of corrections to frozen weights, merged into the result; 0 trains all of them"
)

PARTS: dict[str, Part] = {
    "vae": Part(
        text="train the autoencoder and its depth network",
        read=_reader(vae.VAETraining),
        build=vae.build,
        needs=("data",),
        takes=("init",),
        strategies=("ddp",),
        options={
            "--kl": Option(
                "kl", float, "weight of the KL term that fixes the scale of raw latents, e.g. 1e-4"
            )
        },
    ),
    "depth": Part(
        text="train the depth network of an autoencoder further, its codec frozen",
        read=_reader(depth.DepthTraining),
        build=depth.build,
        needs=("data", "vae"),
    ),
    "world": Part(
        text="train the transformer",
        read=world.training_of,
        check=world.check,
        build=world.build,
        needs=("data", "vae", "latents"),
        takes=("init", "refiner"),
        below="tiny-pure",
        strategies=("ddp", "fsdp"),
        options={
            "--lora": LORA,
            "--recompute": Option(
                "recompute", bool, "compute every block again in the backward pass: less memory, more time"
            ),
        },
    ),
    "refiner": Part(
        text="train the pixel refiner on imitated errors, or, with --world, on that world's own rollouts",
        read=_reader(refiner.RefinerTraining),
        build=refiner.build,
        needs=("data", "vae", "latents"),
    ),
    "refiner-rollouts": Part(
        text="train a world's refiner further, on its own rollouts",
        read=_reader(refiner_rollouts.RolloutTraining),
        build=refiner_rollouts.build,
        needs=("data", "world"),
        options={"--lora": LORA},
    ),
    "self-forcing": Part(
        text="train a world further on its own rollouts: to the mean of what is true, or to the likeliest",
        read=_reader(self_forcing.SelfForcing),
        check=self_forcing.check,
        build=self_forcing.build,
        needs=("data", "world", "latents"),
        takes=("init", "far_data", "far_latents"),
        devices=False,
        options={"--far": Option("far", float, "share of the steps that learn in the middle of long clips")},
    ),
    "distill": Part(
        text="train a world of fewer denoising steps from a world of many",
        read=_reader(Distillation),
        check=distill.check,
        build=distill.build,
        needs=("data", "teacher", "latents"),
        takes=("world", "init"),
        base="tiny-pure",
        devices=False,
        options={
            "--denoising-steps": Option("steps", int, "network calls a chunk of the student: 4, 2 or 1"),
            "--teacher-steps": Option("teacher_steps", int, "of the teacher; a multiple of the student's"),
            "--guidance": Option("guidance", float, "text guidance of the teacher's score (dmd)"),
        },
    ),
    "judge": Part(
        text="train the network by which `bench fidelity` finds floor and ceiling; no world learns from it",
        read=_reader(judge.JudgeTraining),
        build=judge.build,
        needs=(),
    ),
}


def preset(part: str, name: str, **changes: Any) -> Any:
    """Return the config of a part's preset, with fields changed: `preset("vae", "smoke", batch=2)`.

    Raises `ValueError` for a preset that does not exist and for values that cannot be.
    """
    return PARTS[part].read({**recipe.preset_values(part, name), **changes})


def train(
    part: str,
    config: Any,
    inputs: Inputs,
    resources: Resources,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    report: Report | None = None,
) -> Run:
    """Train a slice of a run in its folder, begun or resumed, and return it; see `Run.advance`.

    config: of the part, such as `preset("world", "tiny")`. Nothing is made that the inputs lack: that is
    `inputs.completed`, which the command line calls.
    """
    with PARTS[part].build(config, inputs, resources) as run:
        run.advance(seconds=seconds, steps=steps, report=report)
    return run


@functools.cache
def names() -> tuple[str, ...]:
    """Return the parts that have a command of their own."""
    return tuple(name for name in PARTS if name != "refiner-rollouts")


def chosen(part: str, name: str | None, path: Path | None) -> dict[str, Any]:
    """Return the values of a preset's name or of a recipe file; of the default preset if neither is given."""
    if path is None:
        return recipe.preset_values(part, name or PARTS[part].preset)
    if name is not None:
        raise ValueError(f"preset {name} and recipe {path} exclude each other; name the preset in the recipe")
    values = {"preset": PARTS[part].below, **recipe.load(path)}
    return recipe.with_presets(part, values)


def configured(part: str, values: Mapping[str, Any], source: Path | None = None) -> Any:
    """Return the config of a recipe's values; `source` names its file in errors."""
    try:
        return PARTS[part].read(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"recipe {source}: {error}" if source else str(error)) from error


def changed(values: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """Return recipe values with one field set; "loop.lr" is `lr` of the table `loop`."""
    head, _, rest = field.partition(".")
    return {**values, head: changed(values.get(head, {}), rest, value) if rest else value}

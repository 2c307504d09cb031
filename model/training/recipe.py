"""A training of a world as one file: architecture, optimisation and progressive stages, in TOML or JSON.

    preset = "tiny-pure"             what is not said below comes from here
    bf16 = true                      also: half_lives, lora, recompute

    [dit]                            fields of `DiTConfig`
    [loop]                           fields of `LoopConfig`
    total_steps = 2000

    [[stages]]                       in order; without any, those of the preset
    kind = "clip"                    whole clips, bidirectional or chunk-causal: fields of `ClipLossConfig`
    until = 0.3                      share of the run at which the stage ends; the last is 1.0
    frames = 8

    [[stages]]
    kind = "clip"
    until = 0.6
    frames = 17
    chunk_frames = 1

    [[stages]]
    kind = "rollout"                 every frame from its own history: fields of `WorldLossConfig`
    until = 1.0
    frames = 17
    own_history = 0.5

A stage changes the length and the masks; latents of another resolution are other data, so a stage of another
resolution is another run, started from the first one's weights (the transformer has no fixed size).
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_env.model.training.clip_loss import ClipLossConfig
from wm_env.model.training.flow_matching import WorldLossConfig
from wm_env.model.training.world import WorldTraining, preset

KINDS = {"rollout": WorldLossConfig, "clip": ClipLossConfig}
OWN = ("half_lives", "bf16", "lora", "recompute")


def read_recipe(path: Path) -> WorldTraining:
    """Return the training that a `.toml` or `.json` file describes; see the module docstring.

    Raises `ValueError` naming the file and what in it is unknown or impossible.
    """
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"recipe {path} must be a .toml or .json file")
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"recipe {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} holds a {type(values).__name__}; a table of settings is needed")
    try:
        return recipe(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"recipe {path}: {error}") from error


def recipe(values: Mapping[str, Any]) -> WorldTraining:
    """Return the training of the values of a recipe file."""
    _known(values, ("preset", "dit", "loop", "stages", *OWN), "the file")
    base = preset(values.get("preset", "tiny-pure"))
    changes: dict[str, Any] = {name: values[name] for name in OWN if name in values}
    if "half_lives" in changes:
        changes["half_lives"] = tuple(changes["half_lives"])
    changes["dit"] = _changed(base.dit, values.get("dit", {}), "[dit]")
    changes["loop"] = _changed(base.loop, values.get("loop", {}), "[loop]")
    if "stages" in values:
        stages = [_stage(stage, number) for number, stage in enumerate(values["stages"], 1)]
        changes["stages"], changes["ends"] = zip(*stages, strict=True)
    return dataclasses.replace(base, **changes)


def chosen(name: str | None, path: Path | None) -> WorldTraining:
    """Return the training of a preset's name or of a recipe file; `tiny` if neither is given."""
    if path is None:
        return preset(name or "tiny")
    if name is not None:
        raise ValueError(f"preset {name} and recipe {path} exclude each other; name the preset in the recipe")
    return read_recipe(path)


def with_options(
    config: WorldTraining, *, lora: int = 0, recompute: bool = False, microbatches: int = 1
) -> WorldTraining:
    """Return the training with what a command line adds to it; zeros, False and 1 leave it as it is."""
    loop = config.loop
    if microbatches != 1:
        loop = dataclasses.replace(loop, microbatches=microbatches)
    return dataclasses.replace(
        config, loop=loop, lora=lora or config.lora, recompute=recompute or config.recompute
    )


def _stage(values: Mapping[str, Any], number: int) -> tuple[WorldLossConfig | ClipLossConfig, float]:
    where = f"stage {number}"
    if not isinstance(values, Mapping) or "until" not in values:
        raise ValueError(f"{where} needs until = the share of the run at which it ends")
    kind = values.get("kind", "rollout")
    if kind not in KINDS:
        raise ValueError(f"{where} has kind {kind!r}; choose one of {', '.join(KINDS)}")
    settings = {name: value for name, value in values.items() if name not in ("kind", "until")}
    return _changed(KINDS[kind](), settings, where), float(values["until"])


def _changed(base: Any, values: Mapping[str, Any], where: str) -> Any:
    """Return the dataclass `base` with `values` in place; lists become tuples."""
    _known(values, tuple(field.name for field in dataclasses.fields(base)), where)
    return dataclasses.replace(
        base, **{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    )


def _known(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{where} has unknown settings {', '.join(unknown)}; known are {', '.join(known)}")

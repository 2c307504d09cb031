"""The recipe of an annotation: every threshold of every stage, read from one TOML file.

`recipe.toml` beside this file is the default and the only place of its numbers. A file of one's own may leave
out what it does not change.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from wm_env.model.names import did_you_mean
from wm_env.model.storage.facts import number, shown, whole

DEFAULT = Path(__file__).with_name("recipe.toml")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """rate: frames per second. longest_side: pixels. shortest, longest: frames. cut_score, cut_least: in
    [0, 1]. cut_ratio: times the scores around. cut_alike: correlation.
    """

    rate: float
    longest_side: int
    shortest: int
    longest: int
    cut_score: float
    cut_least: float
    cut_ratio: float
    cut_alike: float


@dataclass(frozen=True, kw_only=True)
class Features:
    """most: features a frame. peak: SIFT's. offsets: frames apart that are matched. loop_every: frames."""

    most: int
    peak: float
    offsets: tuple[int, ...]
    loop_every: int


@dataclass(frozen=True, kw_only=True)
class Mapper:
    """least_inliers, least_angle_deg: of the first pair. shared: frames. joint: in path lengths."""

    least_inliers: int
    least_angle_deg: float
    shared: int
    joint: float


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """residual, worst, motion: shares of the width."""

    residual: float
    worst: float
    motion: float


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Bounds on `wm_env.annotation.measures.Measures`; recipe.toml says what each one is."""

    share_placed: float
    error: float
    error_worst: float
    agree: float
    agree_worst: float
    within: float
    observations: float
    parallax_deg: float
    path: float
    speed: float
    jump: float
    turn_deg: float
    sharp: float
    fov_deg: tuple[float, ...]
    zoom: float
    scale_interval: float
    unit_change: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of an annotation, by stage."""

    frames: Frames
    features: Features
    mapping: Mapper
    rotation: Rotation
    filters: Filters


def load_recipe(path: Path | None = None) -> Recipe:
    """Return the recipe of a TOML file, or the default; what the file leaves out is the default's.

    Raises `ValueError` in one sentence for a file that is no TOML, a name that is unknown and a value of
    another kind; `FileNotFoundError` where there is no file.
    """
    tables = _read(DEFAULT)
    for stage, values in ({} if path is None else _read(path)).items():
        if stage not in tables:
            raise ValueError(f"{path}: unknown table [{stage}]; expected {', '.join(tables)}")
        if not isinstance(values, Mapping):
            raise ValueError(f"{path}: {stage} is {shown(values)}; expected a table [{stage}]")
        odd = sorted(set(values) - set(tables[stage]))
        if odd:
            raise ValueError(f"{path}: unknown {odd[0]!r} in [{stage}]{did_you_mean(odd[0], tables[stage])}")
        tables[stage] = {**tables[stage], **values}
    kinds = get_type_hints(Recipe)
    name = str(DEFAULT if path is None else path)
    recipe = Recipe(**{stage: _stage(kinds[stage], tables[stage], f"{name}: {stage}") for stage in kinds})
    if recipe.frames.shortest < 5 or recipe.frames.longest < recipe.frames.shortest:
        raise ValueError(
            f"{name}: frames.shortest={recipe.frames.shortest} and longest={recipe.frames.longest}; expected "
            "at least 5 (the least that a clip may have), and longest not below shortest"
        )
    return recipe


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"the recipe {str(path)!r} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the recipe {str(path)!r} is no TOML file: {error}") from error


def _stage(kind: type, values: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], values[field.name], f"{where}.{field.name}")
                   for field in fields(kind)})  # fmt: skip


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return a number, or a list of them, as the type of its field; no number of a recipe is below 0."""
    if kind is int or kind is float:
        fits = whole(value, 1) if kind is int else number(value, 0, 1e9)
        if not fits:
            least = "a whole number from 1 on" if kind is int else "a number from 0 on"
            raise ValueError(f"{where} is {shown(value)}; expected {least}")
        return kind(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} is {shown(value)}; expected a list of numbers")
    inner = int if kind == tuple[int, ...] else float
    if inner is float and len(value) != 2:
        raise ValueError(f"{where} is {shown(value)}; expected two numbers, the least and the most")
    return tuple(_value(inner, one, where) for one in value)

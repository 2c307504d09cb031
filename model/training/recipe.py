"""Recipes: a training's numbers as a TOML file, read strictly. All presets are such files in `recipes/`.

    preset = "tiny"                  what is not said below comes from that recipe of the same part
    batch = 8                        fields of the part's config

    [loop]                           fields of `LoopConfig`
    total_steps = 2000

    [data]                           clips to render where none are given: fields of `DataSize`
    clips = 400

A file of one's own may also be JSON. The transformer's recipes have stages besides (parts/world.py). What is
unknown, missing or of another type is named, with what is known.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wm_env.model.names import did_you_mean

FOLDER = Path(__file__).parent / "recipes"
DATA = "data"
RENAMED = {("self-forcing", "tiny-vivid"): "tiny-appearance"}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """How many clips are rendered where a training is given none: `clips` and `val` of `frames` = 4k + 1."""

    clips: int = 4000
    val: int = 64
    frames: int = 69


def presets(part: str) -> tuple[str, ...]:
    """Return the names of the recipes of a part that come with the package."""
    return tuple(sorted(path.stem for path in (FOLDER / part).glob("*.toml")))


def preset_values(part: str, name: str) -> dict[str, Any]:
    """Return the values of a preset with those of the preset it builds on."""
    if (part, name) in RENAMED:
        raise ValueError(f"preset {name} of {part} is now {RENAMED[part, name]}")
    if name not in presets(part):
        raise ValueError(
            f"unknown preset {name!r} of {part}; there are {', '.join(presets(part))}"
            f"{did_you_mean(name, presets(part))}"
        )
    return with_presets(part, load(FOLDER / part / f"{name}.toml"))


def with_presets(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe laid over those of the preset it names."""
    own = {key: value for key, value in values.items() if key != "preset"}
    return merged(preset_values(part, values["preset"]), own) if "preset" in values else own


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, table by table; lists are replaced as a whole."""
    found = dict(base)
    for key, value in over.items():
        below = found.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        found[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return found


def load(path: Path) -> dict[str, Any]:
    """Return the values of a `.toml` or `.json` file.

    Raises `ValueError` naming the file where it is neither or cannot be read as such.
    """
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"recipe {path} must be a .toml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"recipe {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} holds a {type(values).__name__}; a table of settings is needed")
    return values


def data_size(values: Mapping[str, Any]) -> DataSize:
    """Return what a recipe says of the clips to render."""
    return read(DataSize, values.get(DATA, {}), "[data]")


def read(kind: type[T], values: Mapping[str, Any], where: str = "the file") -> T:
    """Return the dataclass `kind` of a table; tables within it become the dataclasses of its fields.

    Raises `ValueError` naming settings that are unknown, missing or of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} holds {values!r}; a table of settings is needed")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    only_known(values, fields, where)
    missing = [name for name, field in fields.items() if name not in values and _required(field)]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, name, where) for name, value in values.items()})


def only_known(values: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `ValueError` naming the settings of a table that are not among the known ones."""
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{where} has unknown settings {', '.join(unknown)}; known are {', '.join(known)}")


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, name: str, where: str) -> Any:
    """Return `value` as a field annotated with `hint` holds it."""
    if isinstance(hint, types.UnionType):
        if value in (None, "none") and type(None) in typing.get_args(hint):  # TOML has no null
            return None
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if dataclasses.is_dataclass(hint):
        return read(hint, value, f"[{name}]")  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: {name} = {value!r} must be a list")
        inner = typing.get_args(hint)
        kinds = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        return tuple(_value(kind, one, name, where) for kind, one in zip(kinds, value, strict=True))
    if typing.get_origin(hint) is typing.Literal:
        hint = str
    hint = typing.get_origin(hint) or hint  # of a mapping with its types
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where}: {name} = {value!r} must be of type {hint.__name__}")
    return value

"""Results as typed values: a frozen dataclass of dataclasses, and the JSON that it is written as.

A `Record` becomes an object with a key per field, in the order of the fields, and is read back strictly: an
unknown key, a missing one or a value of another kind is one sentence that names it. A field with a default
may be missing, as settings of earlier versions are. Numbers that are not finite are written as null.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Record:
    """Base of the dataclasses of a report."""

    def to_json(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        return {name: plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, found: Any, where: str = "report") -> Self:
        """Return the record that `to_json` wrote as `found`; `where` is what an error calls it."""
        return cls(**fields_from(cls, found, where))


def plain(value: Any) -> Any:
    """Return a value as JSON has it: records, dataclasses and named tuples as objects, tuples as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Record):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and type(value) is not tuple:
        return {name: plain(part) for name, part in value._asdict().items()}  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def fields_from(cls: type, found: Any, where: str) -> dict[str, Any]:
    """Return the fields of a dataclass or named tuple by name, read from the object `found`.

    Raises `ValueError` naming the first key that is unknown or missing, or whose value is of another kind.
    """
    hints = {name: kind for name, kind in get_type_hints(cls).items() if name in _fields(cls)}
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} is {_short(found)}, where an object with {', '.join(hints)} belongs")
    for key in found:
        if key not in hints:
            raise ValueError(f"{where} has an unknown key {key!r}; known are {', '.join(hints)}")
    for name, optional in _fields(cls).items():
        if name not in found and not optional:
            raise ValueError(f"{where} lacks the key {name!r}")
    return {name: read(hints[name], found[name], f"{where}.{name}") for name in hints if name in found}


def _fields(cls: type) -> dict[str, bool]:
    """Return the fields of a dataclass or named tuple, and whether each has a default."""
    if dataclasses.is_dataclass(cls):
        absent = dataclasses.MISSING
        return {
            field.name: field.default is not absent or field.default_factory is not absent
            for field in dataclasses.fields(cls)
        }
    return dict.fromkeys(cls._fields, False)  # type: ignore[attr-defined]


def read(kind: Any, found: Any, where: str) -> Any:
    """Return JSON value `found` as the type `kind`, or raise `ValueError` naming `where` it is another.

    kind: None, bool, int, float, str, Any, a Literal, a record, dataclass or named tuple, `tuple[X, ...]`,
    `dict[str, X]` or a union of those.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(inner, found, where, _name(kind))
    if origin is Literal:
        fits = found in inner
    elif origin is tuple and isinstance(found, list):
        return tuple(read(inner[0], part, f"{where}[{index}]") for index, part in enumerate(found))
    elif origin is dict and isinstance(found, Mapping):
        return {key: read(inner[1], part, f"{where}[{key!r}]") for key, part in found.items()}
    elif isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_json(found, where)
    elif isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, tuple)):
        return kind(**fields_from(kind, found, where))
    elif kind is float:
        fits = type(found) in (int, float)
    else:
        fits = kind is Any or type(found) is kind
    if not fits:
        raise ValueError(f"{where} is {_short(found)}, where {_name(kind)} belongs")
    return found


def _read_union(kinds: tuple[Any, ...], found: Any, where: str, name: str) -> Any:
    if found is None and type(None) in kinds:
        return None
    known = [one for one in kinds if one is not type(None)]
    if len(known) == 1:
        return read(known[0], found, where)
    for one in known:
        try:
            return read(one, found, where)
        except ValueError:
            continue
    raise ValueError(f"{where} is {_short(found)}, where {name} belongs")


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _short(found: Any) -> str:
    text = json.dumps(found)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or raise `ValueError` naming the file that is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def load(kind: type[T], path: Path) -> T:
    """Return the record, dataclass or named tuple that the JSON file `path` holds; errors name the file."""
    found: T = read(kind, read_json(path), str(path))
    return found

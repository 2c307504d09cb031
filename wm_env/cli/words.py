"""The words of a command line: which options a command has, and one sentence for what is wrong with them.

`refuse` looks before the parser does, so that a misspelled option, a value that is none of those there are
and a missing option are each answered by one line with the nearest that there is.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

import tyro

from wm_env.model.names import did_you_mean

HELP = ("-h", "--help")


class Option(NamedTuple):
    """An option as it is written.

    name: "--out", or of a positional one the name of its field. kinds: what a value may be: str, Path, int,
    float, or fixed texts. values: how many it takes, None for any number. negative: what switches a flag off.
    """

    name: str
    kinds: tuple[Any, ...]
    values: int | None
    required: bool = False
    positional: bool = False
    negative: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The fixed texts that it takes, but for the "None" that stands for its absence."""
        return tuple(kind for kind in self.kinds if isinstance(kind, str) and kind != "None")


def options_of(command: type) -> tuple[Option, ...]:
    """Return the options of a command that is a dataclass."""
    hints = typing.get_type_hints(command, include_extras=True)
    return tuple(_option(field, hints[field.name]) for field in dataclasses.fields(command))


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    marks = getattr(hint, "__metadata__", ())
    renamed = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
    positional = tyro.conf.Positional in marks
    name = renamed[0] if renamed else field.name if positional else "--" + field.name.replace("_", "-")
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    if renamed:
        name = f"--{name}"
    kinds, values = _kinds(hint)
    if kinds == (bool,):
        return Option(name, (), 0, required, positional, name.replace("--", "--no-", 1))
    return Option(name, kinds, values, required, positional)


def _kinds(hint: Any) -> tuple[tuple[Any, ...], int | None]:
    """Return what the values of a type are, and how many there are of them."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kinds(inner[0])
    if origin is Literal:
        return tuple(str(value) for value in inner), 1
    if origin in (Union, types.UnionType):
        found = [_kinds(part) for part in inner if part is not types.NoneType]
        absent = ("None",) if types.NoneType in inner else ()
        return (*(kind for kinds, _ in found for kind in kinds), *absent), found[0][1]
    if origin is tuple:
        return _kinds(inner[0])[0], None if inner[-1] is Ellipsis else len(inner)
    return (hint,), 1


def refuse(options: Sequence[Option], words: Sequence[str]) -> None:
    """Raise `ValueError` with one sentence for the first of `words` that the options have no place for."""
    if any(word in HELP or word.startswith("--tyro-") for word in words):
        return
    named = {option.name: option for option in options if not option.positional}
    named |= {option.negative: option for option in options if option.negative}
    open_places = [option for option in options if option.positional]
    missing = {option.name: option for option in options if option.required}
    left = list(words)
    while left:
        name, given, value = left.pop(0).partition("=")
        if not name.startswith("--"):
            if not open_places:
                raise ValueError(_homeless(name, list(missing.values())))
            option, own = open_places.pop(0), [name + given + value]
        else:
            name = name.replace("_", "-")
            if name not in named:
                hint = did_you_mean(name, named) or "; --help lists the options"
                raise ValueError(f"unknown option {name}{hint}")
            option, own = named[name], [value] if given else _values(named[name], left)
        missing.pop(option.name, None)
        _check(option, own)
    if missing:
        raise ValueError(_lacking(list(missing.values())))


def _values(option: Option, left: list[str]) -> list[str]:
    """Take the values of an option off the words that are left."""
    own: list[str] = []
    while left and not left[0].startswith("--") and (option.values is None or len(own) < option.values):
        own.append(left.pop(0))
    return own


def _check(option: Option, own: Sequence[str]) -> None:
    wanted = option.values
    if own and not option.kinds:
        raise ValueError(f"{option.name} takes no value, but got {own[0]!r}")
    if wanted is not None and len(own) != wanted:
        takes = "a value" if wanted == 1 else f"{wanted} values"
        raise ValueError(f"{option.name} needs {takes}{_listed(option)}")
    for value in own:
        if not any(_fits(value, kind) for kind in option.kinds):
            near = did_you_mean(value, option.choices)
            raise ValueError(f"{option.name} {value!r} is not {_expected(option)}{near}")


def _fits(value: str, kind: Any) -> bool:
    if kind not in (int, float):
        return kind in (str, Path, value)
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _expected(option: Option) -> str:
    if option.choices:
        return f"one of {', '.join(option.choices)}"
    return "a whole number" if int in option.kinds else "a number"


def _listed(option: Option) -> str:
    return f": one of {', '.join(option.choices)}" if option.choices else ""


def _homeless(word: str, missing: Sequence[Option]) -> str:
    meant = [option.name for option in missing if not option.positional]
    hint = f"did you mean {meant[0]} {word}?" if len(meant) == 1 else "--help lists the options"
    return f"{word!r} belongs to no option; {hint}"


def _lacking(missing: Iterable[Option]) -> str:
    names = [option.name.upper() if option.positional else option.name for option in missing]
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} required; --help says what for"

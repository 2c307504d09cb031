"""What to say of a name that is not among the known ones: which there are, and which was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from wm_env.model.storage.facts import PATH, shown


def nearest(name: object, known: Iterable[object], most: int = 1) -> list[str]:
    """Return up to `most` of the `known` names that are spelled like `name`, the nearest first."""
    spelled = {str(each).lower(): str(each) for each in known}
    return [spelled[found] for found in difflib.get_close_matches(str(name).lower(), [*spelled], n=most)]


def did_you_mean(name: object, known: Iterable[object], most: int = 1) -> str:
    """Return "; did you mean A or B?", "" where nothing is near."""
    near = nearest(name, known, most)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def unknown(what: str, name: object, known: Iterable[object], more: str = "") -> str:
    """Return the sentence that refuses `name` as a `what`. more: what is valid beside names."""
    valid = [str(each) for each in known]
    listed = ", ".join(valid) + (f", {more}" if more else "")
    return f"unknown {what} {shown(name, PATH)}; valid are {listed}{did_you_mean(name, valid)}"


def lacking(what: str, given: object, protocol: type, expected: str) -> str:
    """Return the sentence that refuses an object that does not meet a protocol: what it lacks."""
    if isinstance(given, type):
        return f"{what}={given.__name__} is a class; give an object of it, as in {what}={given.__name__}()"
    members = sorted(name for name in vars(protocol) if not name.startswith("_"))
    missing = [name for name in members if not hasattr(given, name)]
    if len(missing) == len(members):
        return f"{what} is {_a(given)}; expected {expected}"
    return f"{what} is {_a(given)} without {', '.join(missing)}; expected {expected}"


def _a(given: object) -> str:
    name = type(given).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"

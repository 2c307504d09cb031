"""What a dataclass's docstring says of its fields, for tables of documents and help of the command line."""

from __future__ import annotations

import inspect
import re


def fields_of(cls: type) -> dict[str, str]:
    """Return what a class docstring says of each field: lines `name: text`, or `name, name: text`.

    A text goes on over the following lines, up to an empty one.
    """
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines()[1:]:
        match = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if match:
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        elif line.strip() and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found

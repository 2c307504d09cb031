"""JSON facts that are read back strictly, and one digest over facts and tensors.

A file of somebody else's, or one that was damaged, is refused by one `ValueError` that names the file and the
entry, whatever it holds: nothing is built, allocated or played before its facts are known to be possible.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

INT64 = 2**63 - 1
_SHOWN = 60  # characters of a value in a message
PATH = 400  # of a path, which is shown whole where any disk takes it


def parse_json(text: str | bytes, source: str, *, finite: bool = True) -> dict[str, Any]:
    """Return the object in a JSON text. finite: refuse NaN and infinities, which JSON does not have.

    Raises `ValueError` naming `source` for text that is no UTF-8, no JSON, nested too deep, or no object.
    """

    def not_finite(word: str) -> NoReturn:
        raise ValueError(f"{shown(word)} is not a finite number")

    def within(word: str) -> float:
        return float(word) if math.isfinite(float(word)) else not_finite(word)

    strict: dict[str, Any] = {"parse_constant": not_finite, "parse_float": within} if finite else {}
    try:
        values = json.loads(text, **strict)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"{source} cannot be read as JSON: {reason}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} holds a {type(values).__name__}; expected an object of names and values")
    return values


def read_json(path: Path, source: str | None = None, *, finite: bool = True) -> dict[str, Any]:
    """Return the object in a JSON file, as `parse_json`; source: what messages call it, default its path."""
    name = repr(str(path)) if source is None else source
    try:
        return parse_json(path.read_bytes(), name, finite=finite)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error


def check_fact(facts: Mapping[str, Any], name: str, fits: Callable[[Any], bool], expected: str) -> Any:
    """Return the entry `name` of facts, or raise `ValueError` saying what it is and what was expected."""
    if name not in facts:
        raise ValueError(f"{name} is missing; expected {expected}")
    value = facts[name]
    if not fits(value):
        raise ValueError(f"{name} is {shown(value)}; expected {expected}")
    return value


def whole(value: Any, least: int = 0, most: int = INT64) -> bool:
    """Return whether a value is an integer, and no bool, in `least` .. `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and bool(least <= value <= most)


def as_integer(value: Any) -> Any:
    """Return an integer of Python or NumPy, but no bool, as Python's, and anything else as None."""
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if isinstance(value, np.integer):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: Any, least: float, most: float) -> bool:
    """Return whether a value is a finite number of Python or NumPy, and no bool, in `least` .. `most`."""
    numeric = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return numeric and bool(least <= value <= most)


def check_numbers(
    facts: Mapping[str, Any], name: str, count: int, least: float, most: float, of: str
) -> None:
    """Raise `ValueError` where the entry `name` is no list of `count` numbers in `least` .. `most`.

    of: what there is one of, for the message.
    """

    def fits(value: Any) -> bool:
        right = isinstance(value, list) and len(value) == count
        return right and all(number(one, least, most) for one in value)

    check_fact(facts, name, fits, f"{count} numbers, one {of}")


def shown(value: Any, most: int = _SHOWN) -> str:
    """Return a value for a message, cut after `most` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep; an integer of more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


def brief(error: Exception) -> str:
    """Return what an error of somebody else's says, cut after 120 characters: some repeat the whole input."""
    text = " ".join(str(error).split())
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN]}..."


def content_sha256(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 over facts and tensors: names, dtypes, shapes and every byte.

    Neither the order of names nor where the bytes lie in a file matters.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.flatten().clone(memory_format=torch.contiguous_format)
        digest.update(memoryview(values.view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def check_finite(tensors: Mapping[str, Tensor], infinity_in: str | None = None) -> None:
    """Raise `ValueError` naming the first tensor with a value that is not finite, and how many there are.

    infinity_in: start of the names of tensors in which an infinity means something; NaN never does.
    """
    bad = []
    for name, tensor in tensors.items():
        allowed = infinity_in is not None and name.startswith(infinity_in)
        if tensor.is_floating_point() and not bool(
            (~tensor.isnan() if allowed else torch.isfinite(tensor)).all()
        ):
            bad.append(name)
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise ValueError(f"tensor {bad[0]}{more} holds values that are not finite")

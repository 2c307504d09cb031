"""Names of stored tensors: what wrappers put before them, and which do not fit, in a short sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

OUTER = "module"  # DataParallel and DistributedDataParallel, around the whole model
INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # around any part of one
_SHOWN = 5


def unwrapped(tensors: Mapping[str, T], source: str) -> dict[str, T]:
    """Return tensors under the names of the model itself, without those that wrappers put before them.

    `_orig_mod` (torch.compile) and those of FSDP go wherever they stand, `module` (DDP) where all names begin
    with it; one warning says so. Raises `ValueError` where two names become one.
    """
    names = {name: ".".join(part for part in name.split(".") if part not in INNER) for name in tensors}
    taken = {part for name in tensors for part in name.split(".") if part in INNER}
    while names and all(name.startswith(f"{OUTER}.") for name in names.values()):
        names = {stored: name.removeprefix(f"{OUTER}.") for stored, name in names.items()}
        taken.add(OUTER)
    if not taken:
        return dict(tensors)
    if len(set(names.values())) < len(names):
        seen: set[str] = set()
        twice = [name for name in names.values() if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise ValueError(f"{source} holds {some(twice)} twice, with and without the prefix of a wrapper")
    prefixes = ", ".join(repr(f"{part}.") for part in sorted(taken))
    warnings.warn(f"{source}: the prefix {prefixes} of a wrapper was taken off the names", stacklevel=3)
    return {names[stored]: tensor for stored, tensor in tensors.items()}


def some(names: Iterable[str]) -> str:
    """Return the first five of some names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def report_misfit(
    source: str, *, missing: Sequence[str], unexpected: Sequence[str], misshapen: Sequence[str]
) -> None:
    """Raise `ValueError` counting what does not fit and naming the first of each, if anything does not."""
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {some(sorted(names))}" for kind, names in problems.items() if names
        )
        raise ValueError(f"{source} does not fit the model: {listed}")

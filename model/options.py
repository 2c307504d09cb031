"""Numbers that many commands take: what no command can do with is refused by one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_env.model.storage.atomic import check_writable, same_file

LEAST = {"threads": 1, "steps": 1, "seed": 0}
MOST = {"threads": 1024}  # many more end the process
POSITIVE = ("seconds",)


def check_options(
    options: Mapping[str, Any], least: Mapping[str, int] = LEAST, positive: Sequence[str] = POSITIVE
) -> None:
    """Raise `ValueError` where an option makes no sense; what is absent or None is left to its command.

    options: values by name, as `vars` of a parsed command has them. least: smallest value by name.
    positive: those that must be above 0. A `device` must be one that torch finds.
    """
    for name, smallest in least.items():
        value = options.get(name)
        if value is not None and value < smallest:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {smallest}")
        if value is not None and name in MOST and value > MOST[name]:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at most {MOST[name]}")
    for name in positive:
        value = options.get(name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be above 0")
    if options.get("device") is not None:
        from wm_env.model.placement import (
            check_device,  # imports torch, which a list of commands does not need
        )

        check_device(options["device"])


def check_result(options: Mapping[str, Any]) -> None:
    """Raise `ValueError` or `OSError` where the file of `--json` would replace what it must not.

    options: values by name, as in `check_options`; "json" is the file, "overwrite" lets it replace one.
    """
    result: Path = options["json"]
    for name, value in options.items():
        if name != "json" and isinstance(value, Path) and same_file(value, result):
            raise ValueError(f"--json {str(result)!r} is the file of --{name.replace('_', '-')}; rename it")
    check_writable(result, overwrite=options["overwrite"])

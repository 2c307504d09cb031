"""What the scripts that measure one file of numbers share: where it goes, one thread, an atomic write."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wm_env.model.storage.atomic import atomic_path


def write(
    told: str | None,
    out: Path,
    measure: Callable[[], dict[str, Any]],
    quick: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Measure, and write the report as JSON to `out` or where the command line says; told: its docstring.

    quick: what --quick measures instead, where there is such a thing.
    """
    parser = argparse.ArgumentParser(description=(told or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=out, help="file to write")
    if quick is not None:
        parser.add_argument(
            "--quick", action="store_true", help="a run of minutes, whose numbers mean little"
        )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    report = quick() if quick is not None and chosen.quick else measure()
    with atomic_path(chosen.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

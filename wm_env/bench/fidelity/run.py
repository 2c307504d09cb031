"""`wm-env bench fidelity`: one world, its ablations, and the files that are written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from wm_env.bench.fidelity.figure import walks_figure
from wm_env.bench.fidelity.report import FidelityReport, markdown
from wm_env.bench.fidelity.rows import FidelitySettings
from wm_env.bench.fidelity.score import fidelity
from wm_env.bench.provenance import command_line
from wm_env.bench.row_file import append_line, open_parts, write_json
from wm_env.bench.worlds import with_ablations
from wm_env.model.png import write_png
from wm_env.model.storage.atomic import atomic_path, check_writable, remove_leftovers


def run(
    world: str,
    settings: FidelitySettings,
    out: Path,
    *,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[FidelityReport, list[Path]]:
    """Return the report of a world and its ablations, and the files that `out` has then: text,
    JSON and figures.

    world: preset or checkpoint folder. progress: called with (env steps done, in all, the part). Parts that
    `out` holds of the same world and settings are not measured again.
    """
    worlds = with_ablations(world, device)
    out.mkdir(parents=True, exist_ok=True)
    name = f"fidelity-{Path(world).name}"
    remove_leftovers(out, re.escape(name))
    text, table = (check_writable(out / f"{name}.{kind}") for kind in ("md", "json"))
    spec = next(iter(worlds.values())).spec
    identity = {"world": spec.label, "weights_sha256": spec.weights_sha256, **asdict(settings)}
    rows = out / f"{name}.jsonl"
    parts = open_parts(rows, json.loads(json.dumps({**identity, "rows": list(worlds)})))

    def keep(part: str, found: dict[str, Any]) -> None:
        append_line(rows, {"part": part, **found})

    figures = {split: out / f"{name}-{split}.png" for split in settings.splits}

    def draw(split: str, truth: Tensor, made: Tensor) -> None:
        write_png(figures[split], walks_figure(truth, made))

    report = fidelity(worlds, settings, command_line("fidelity"), progress, parts, keep, draw)
    write_json(table, report.to_json(), indent=2)
    with atomic_path(text) as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")
    return report, [text, table, *(figure for figure in figures.values() if figure.is_file())]

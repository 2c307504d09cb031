"""`wm-env bench throughput`: the worlds, the timing, and the files that are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wm_env.bench.provenance import command_line, provenance
from wm_env.bench.row_file import write_json
from wm_env.bench.throughput.report import ThroughputReport, markdown
from wm_env.bench.throughput.rows import ThroughputSettings, loaded
from wm_env.bench.throughput.score import throughput
from wm_env.model.storage.atomic import atomic_path, check_writable


def run(
    settings: ThroughputSettings, out: Path, *, progress: Callable[[int, int, str], None] | None = None
) -> tuple[ThroughputReport, list[Path]]:
    """Return the report and the files written: Markdown and JSON in `out`.

    progress: called with (env steps done, in all, what is timed).
    """
    worlds = loaded(settings)
    out.mkdir(parents=True, exist_ok=True)
    text, table = (check_writable(out / f"throughput.{kind}") for kind in ("md", "json"))
    measured = throughput(settings, progress)
    report = ThroughputReport(
        benchmark="throughput",
        **provenance(next(iter(worlds.values())).spec, command_line("throughput")),
        weights={name: world.spec.weights_sha256 for name, world in worlds.items()},
        settings=settings,
        **vars(measured),
    )
    write_json(table, report.to_json(), indent=2)
    with atomic_path(text) as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")
    return report, [text, table]

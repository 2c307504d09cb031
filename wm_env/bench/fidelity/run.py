"""`wm-env bench fidelity`: one world, its ablations, and the files that are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wm_env.bench.fidelity.report import FidelityReport, markdown
from wm_env.bench.fidelity.rows import FidelitySettings
from wm_env.bench.fidelity.score import fidelity
from wm_env.bench.provenance import command_line
from wm_env.bench.row_file import write_json
from wm_env.bench.worlds import with_ablations
from wm_env.model.storage.atomic import atomic_path, check_writable


def run(
    world: str,
    settings: FidelitySettings,
    out: Path,
    *,
    device: str = "cpu",
    progress: Callable[[int, str], None] | None = None,
) -> tuple[FidelityReport, list[Path]]:
    """Return the report of a world and its ablations, and the files written: Markdown and JSON in `out`.

    world: preset or checkpoint folder. progress: called with (parts in all, the part that begins).
    """
    worlds = with_ablations(world, device)
    out.mkdir(parents=True, exist_ok=True)
    text, table = (check_writable(out / f"fidelity-{Path(world).name}.{kind}") for kind in ("md", "json"))
    parts = len(settings.splits) * (4 + len(worlds) - int(len(worlds) == 1))

    def tell(what: str) -> None:
        if progress is not None:
            progress(parts, what)

    report = fidelity(worlds, settings, command_line("fidelity"), tell)
    write_json(table, report.to_json(), indent=2)
    with atomic_path(text) as temporary:
        temporary.write_text(markdown(report))
    return report, [text, table]

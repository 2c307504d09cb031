"""`wm-env bench context`: one world, and the files that are written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from wm_env.bench.context.report import ContextReport, markdown
from wm_env.bench.context.rows import ContextSettings, films_of_clips, films_of_scenes
from wm_env.bench.context.score import measure, rows
from wm_env.bench.provenance import command_line, provenance
from wm_env.bench.row_file import append_line, open_parts, write_json
from wm_env.model.storage.atomic import atomic_path, check_writable, expanded, remove_leftovers
from wm_env.worlds import resolve_world


def run(
    world: str,
    settings: ContextSettings,
    out: Path,
    *,
    clips: Sequence[Path] = (),
    device: str = "cpu",
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[ContextReport, list[Path]]:
    """Return the report of a world, and the files written: Markdown and JSON in `out`.

    world: preset or checkpoint folder. clips: what `PosedClip.load` reads, instead of scenes. progress:
    called with (env steps done, in all, the row). Rows that `out` holds of the same world and settings are
    not measured again. Raises `ValueError` before anything is drawn.
    """
    judged = resolve_world(world, device=device)
    spec = judged.spec
    if spec.sees_scene or not spec.takes_context:
        raise ValueError(f"world {spec.name!r} is shown nothing; choose a learned world, such as tiny")
    settings = replace(settings, clips=tuple(clip.name for clip in clips))
    out.mkdir(parents=True, exist_ok=True)
    name = f"context-{Path(world).name}"
    remove_leftovers(out, re.escape(name))
    text, table = (check_writable(out / f"{name}.{kind}") for kind in ("md", "json"))
    paths = [expanded(clip) for clip in clips]
    films = films_of_clips(judged, paths, settings) if clips else films_of_scenes(judged, settings)
    kept = out / f"{name}.jsonl"
    identity = {"world": spec.label, "weights_sha256": spec.weights_sha256, **asdict(settings)}
    parts = open_parts(kept, json.loads(json.dumps(identity)))
    step, done = spec.frames_per_step, 0
    chunks = (films.frames.shape[1] - 1) // step
    total = chunks * len(films.prompts) * len(settings.shown)

    def tick(steps: int) -> None:
        nonlocal done
        progress(done, total, f"row {1 + done // (chunks * len(films.prompts))} of {len(settings.shown)}")
        done += steps

    def keep(part: str, found: dict[str, Any]) -> None:
        append_line(kept, {"part": part, **found})

    found = measure(judged, films, settings, parts, keep, tick)
    report = ContextReport(
        benchmark="context",
        **provenance(spec, command_line("context")),
        settings=settings,
        rows=rows(found, settings, step),
    )
    write_json(table, report.to_json(), indent=2)
    with atomic_path(text) as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")
    return report, [text, table]

"""`wm-env bench annotate`: films are rendered, annotated and compared, tracks made wrong and judged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wm_env.annotation.matching import load_pycolmap
from wm_env.bench.annotate.films import Film, film_of
from wm_env.bench.annotate.report import AnnotateReport, markdown
from wm_env.bench.annotate.rows import FAULTS, AnnotateSettings, annotated, damaged, judged
from wm_env.bench.annotate.score import kind_rows, wrong_rows
from wm_env.bench.page import write_figures
from wm_env.bench.provenance import command_line, provenance
from wm_env.bench.row_file import append_line, open_parts, rounded, write_json
from wm_env.model.isolation import undisturbed
from wm_env.model.storage.atomic import atomic_path, check_writable, remove_leftovers
from wm_env.twin import TWIN_SPEC

ROWS = "annotate.jsonl"


@undisturbed()
def run(
    settings: AnnotateSettings,
    out: Path,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[AnnotateReport, list[Path]]:
    """Return the report, and the files written to `out`: annotate.json, .md and .png.

    Films stay in OUT/films, their annotations in OUT/annotated; rows that OUT holds of the same settings are
    not measured again. progress: called with (films and tracks done, in all, the one in work). Raises
    `ImportError` naming the extra where pycolmap or matplotlib is not installed, before anything is rendered.
    """
    version = str(load_pycolmap().__version__)
    draw = _figure()
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out, "annotate")
    text, table = (check_writable(out / f"annotate.{kind}") for kind in ("md", "json"))
    identity = {"pycolmap": version, **{k: v for k, v in asdict(settings).items() if k != "threads"}}
    parts = open_parts(out / ROWS, json.loads(json.dumps(identity)))
    jobs = settings.films()
    films: dict[str, Film] = {}
    total = len(jobs) + settings.wrong

    def measured(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a row that is kept, or make it and keep it."""
        if name not in parts:
            begun = time.perf_counter()
            row = rounded({**make(), "took": time.perf_counter() - begun})
            append_line(out / ROWS, {"part": name, **row})
            parts[name] = row
        return parts[name]

    rows: dict[str, dict[str, Any]] = {}
    for done, (kind, number) in enumerate(jobs):
        name = f"{kind} {number}"
        progress(done, total, name)
        film = film_of(kind, number, settings.seed, settings.steps, settings.size, out / "films")
        films[name] = film
        rows[name] = measured(name, partial(annotated, film, out / "annotated", settings))
    tracks = _tracks(
        films, rows, settings, out, measured, lambda at, what: progress(len(jobs) + at, total, what)
    )
    true, wrong = wrong_rows(tracks)
    torch.set_num_threads(settings.threads)
    report = AnnotateReport(
        benchmark="annotate",
        **provenance(TWIN_SPEC, command_line("annotate")),
        settings=settings,
        rows=kind_rows(rows),
        true=true,
        wrong=wrong,
        machine_minutes=sum(row["took"] for row in (*rows.values(), *tracks.values())) / 60,
    )
    write_json(table, report.to_json(), indent=2)
    with atomic_path(text) as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")
    pictures, _ = write_figures(out, [("annotate", "Errors of every film by kind", draw(rows))])
    return report, [text, table, *pictures]


def _figure() -> Callable[[dict[str, dict[str, Any]]], Any]:
    try:
        from wm_env.bench.annotate.figure import errors_figure
    except ImportError as error:
        raise ImportError(f"the figure needs matplotlib ({error}): pip install 'wm-env[bench]'") from error
    return errors_figure


def _tracks(
    films: dict[str, Film],
    rows: dict[str, dict[str, Any]],
    settings: AnnotateSettings,
    out: Path,
    measured: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]],
    progress: Callable[[int, str], None],
) -> dict[str, dict[str, Any]]:
    """Return the rows of tracks with a fault, and of the true ones of the same films.

    Tracks are the true poses of accepted walks and turns that are one shot; a spliced one goes on like
    another of the walks and turns.
    """
    moving = [name for name, row in rows.items() if row["kind"] in ("walk", "turns")]
    good = [name for name in moving if rows[name]["status"] == "accepted" and rows[name]["whole"]]
    tracks: dict[str, dict[str, Any]] = {}
    if not good or not settings.wrong:
        return tracks
    for name in good:
        film = films[name]
        make = partial(judged, film, out / "annotated", film.c2w, film.intrinsics, settings)
        tracks[f"true {name}"] = {"fault": "true", **measured(f"true {name}", make)}
    for number in range(settings.wrong):
        fault = FAULTS[number % len(FAULTS)]
        place = number // len(FAULTS)
        own = good[place % len(good)]
        others = [name for name in moving if name != own]
        other = others[place % len(others)]
        poses, camera = damaged(films[own], films[other], fault, place)
        progress(number, f"{fault} {place}")
        make = partial(judged, films[own], out / "annotated", poses, camera, settings)
        tracks[f"wrong {number}"] = {"fault": fault, **measured(f"wrong {number}", make)}
    return tracks

"""`wm-env bench trust`: one world, and the files that are written."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wm_env.bench.provenance import command_line, provenance
from wm_env.bench.row_file import append_line, open_parts, rounded, write_json
from wm_env.bench.trust.figure import reliability_diagram
from wm_env.bench.trust.films import surprise_of_pairs
from wm_env.bench.trust.report import Row, TrustReport, main_row, markdown
from wm_env.bench.trust.samples import plain, samples_of_walks, truth_of
from wm_env.bench.trust.score import event_of, row_of, table_of, truncation
from wm_env.bench.trust.settings import TrustSettings
from wm_env.bench.trust.violations import CHUNKS, EVENTS
from wm_env.bench.walks import batches, starts
from wm_env.model.rollout import LearnedWorld
from wm_env.model.signals import step_with_signals
from wm_env.model.storage.atomic import atomic_path, check_writable, remove_leftovers, write_atomic
from wm_env.model.trust_calibration import Calibration, find_calibration
from wm_env.model.world import World
from wm_env.worlds import resolve_world

TIMED = 12  # steps with and without signals, in turn

Progress = Callable[[int, int, str], None]


def run(
    world: str,
    settings: TrustSettings,
    out: Path,
    *,
    calibration: Path | None = None,
    device: str = "cpu",
    progress: Progress = lambda done, total, what: None,
) -> tuple[TrustReport, list[Path]]:
    """Return the report of a world, and the files written: Markdown, JSON and a figure in `out`.

    calibration: file of `wm-env trust calibrate`, by default the one beside the weights. progress: called
    with (env steps done, in all, what is measured). Parts that `out` holds of the same world, calibration and
    settings are not measured again. Raises before anything is drawn.
    """
    judged = resolve_world(world, device=device)
    spec = judged.spec
    known = find_calibration(world, spec, calibration)
    digest = known.digest()
    out.mkdir(parents=True, exist_ok=True)
    name = f"trust-{Path(world).name}"
    remove_leftovers(out, re.escape(name))
    text, table, figure = (check_writable(out / f"{name}.{kind}") for kind in ("md", "json", "png"))
    kept = out / f"{name}.jsonl"
    identity = {
        "world": spec.label,
        "weights_sha256": spec.weights_sha256,
        "calibration": digest,
        **asdict(settings),
    }
    parts = open_parts(kept, json.loads(json.dumps(identity)))

    def keep(part: str, found: dict[str, Any]) -> dict[str, Any]:
        told = rounded(found)
        append_line(kept, {"part": part, **told})
        return dict(told)

    measure(judged, known, settings, parts, keep, progress)
    report = scored(judged, known, digest, settings, parts, figure.name)
    write_json(table, report.to_json(), indent=1)
    with atomic_path(text) as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")
    packed = io.BytesIO()
    title = f"{report.world}, {settings.splits[-1]} scenes"
    reliability_diagram(main_row(report).bins, title).save(packed, "PNG", optimize=True)
    write_atomic(figure, packed.getvalue())
    return report, [text, table, figure]


def measure(
    world: World,
    known: Calibration,
    settings: TrustSettings,
    parts: dict[str, dict[str, Any]],
    keep: Callable[[str, dict[str, Any]], dict[str, Any]],
    progress: Progress,
) -> None:
    """Add to `parts` what is missing there: walks by split, context and batch, events, and the overhead."""
    asked = settings.samples
    jobs = [(split, context) for split in settings.splits for context in asked.contexts]
    surprised = settings.events if isinstance(world, LearnedWorld) and known.surprise is not None else 0
    of_event = surprised * 2 * CHUNKS
    total, done = len(jobs) * asked.scenes * asked.steps + len(EVENTS) * of_event, 0
    for split in settings.splits:
        truth = None
        for context in asked.contexts:
            for index, begin in enumerate(range(0, asked.scenes, asked.batch)):
                name, count = f"{split}/{context}/{index}", min(asked.batch, asked.scenes - begin)
                what = f"{split} scenes after context {context}"
                progress(done, total, what)
                if name not in parts:
                    truth = truth_of(world.spec, split, asked) if truth is None else truth
                    part = batches(truth, asked.batch)[index]
                    made = samples_of_walks(world, part, context, asked.batch, two_draws=settings.two_draws)
                    parts[name] = keep(name, plain(made))
                done += count * asked.steps
    if surprised and isinstance(world, LearnedWorld) and known.surprise is not None:
        for event in EVENTS:
            progress(done, total, f"surprise at {event}")
            done += of_event
            if f"surprise/{event}" not in parts:
                found = surprise_of_pairs(world, known.surprise, event, settings)
                parts[f"surprise/{event}"] = keep(f"surprise/{event}", found)
    if "overhead" not in parts:
        parts["overhead"] = keep("overhead", {"percent": overhead(world, settings)})


def scored(
    world: World,
    known: Calibration,
    digest: str,
    settings: TrustSettings,
    parts: dict[str, dict[str, Any]],
    figure: str,
) -> TrustReport:
    """Return the report of all parts. digest: of the calibration. figure: name of the diagram's file."""
    own = {name: part for name, part in parts.items() if name.count("/") == 2}
    appearance, place = {}, {}
    for split in settings.splits:
        of_split = {name: part for name, part in own.items() if name.startswith(f"{split}/")}
        groups = {split: of_split}
        for context in settings.samples.contexts:
            chosen = {name: part for name, part in of_split.items() if name.split("/")[1] == context}
            groups[f"{split}, {context}"] = chosen
        for name, group in groups.items():
            appearance[name] = _row(group, "appearance", known)
            if known.place is not None:
                place[name] = _row(group, "place", known)
    last = {name: part for name, part in own.items() if name.startswith(f"{settings.splits[-1]}/")}
    table = table_of(last, "appearance", known.appearance.probability)
    cuts = [truncation(table, least) for least in settings.floors]
    events = {name.split("/")[1]: part for name, part in parts.items() if name.startswith("surprise/")}
    return TrustReport(
        benchmark="trust",
        **provenance(world.spec, command_line("trust")),
        settings=settings,
        calibration_sha256=digest,
        bound=known.appearance.bound,
        place_bound=None if known.place is None else known.place.bound,
        appearance=appearance,
        place=place,
        truncation=tuple(cut for cut in cuts if cut is not None),
        surprise={
            name: event_of(part["control"], part["event"]) for name, part in events.items() if part["control"]
        },
        overhead_percent=float(parts["overhead"]["percent"]),
        figure=figure,
    )


def _row(group: dict[str, dict[str, Any]], target: str, known: Calibration) -> Row:
    model = known.appearance if target == "appearance" else known.place
    assert model is not None
    return row_of(table_of(group, target, model.probability), model.bound)


def overhead(world: World, settings: TrustSettings) -> float:
    """Return by how many percent signals lengthen a step of one slot: medians of CPU time, in turn."""
    asked = settings.samples
    one = type(asked)(scenes=1, contexts=("none",), steps=TIMED, seed=asked.seed, batch=1)
    truth = truth_of(world.spec, "train", one)
    _, state = world.begin(starts(world, truth))
    step, took = world.spec.frames_per_step, {"plain": [0.0], "signals": [0.0]}
    for begin in range(1, truth.c2w.shape[1], step):
        poses = truth.c2w[:, begin : begin + step]
        started = time.process_time()
        world.step_chunk(state, poses)
        between = time.process_time()
        _, state, _ = step_with_signals(world, state, poses)
        took["plain"].append(between - started)
        took["signals"].append(time.process_time() - between)
    plain_time, signals = (float(torch.tensor(took[name][3:]).median()) for name in ("plain", "signals"))
    return 100 * (signals / plain_time - 1)

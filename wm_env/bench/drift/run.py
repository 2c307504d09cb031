"""`wm-env bench drift`: which worlds stand in the report, their walks, and everything that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from wm_env.bench.drift.page import check_figures, write_report
from wm_env.bench.drift.pose_estimate import Gate
from wm_env.bench.drift.report import DriftReport, RunSettings, Telemetry, Track
from wm_env.bench.drift.rollouts import DriftSettings
from wm_env.bench.drift.rows import drift, seconds_to_steps
from wm_env.bench.drift.score import score
from wm_env.bench.provenance import command_line, provenance
from wm_env.bench.records import load, read_json
from wm_env.bench.row_file import write_json
from wm_env.bench.worlds import side_by_side, with_ablations
from wm_env.images import start_image
from wm_env.model.rollout import LearnedWorld
from wm_env.model.world import World
from wm_env.worlds import resolve_world

CONVENTIONS = {
    "psnr": "mean over frames of 10 log10(255^2 / MSE), uint8, 100 where equal",
    "ssim": "uniform 11x11 window, biased moments",
    "pose": "means over sampled frames, degrees and metres; rot_err_deg: first pose, unaligned; "
    "_known: of views of which 60% or more was shown before the walk",
}


def compared_worlds(names: Sequence[str], device: str) -> tuple[dict[str, World], dict[str, World]]:
    """Return the worlds that are compared, by label, and all that are walked: those, then ablations.

    names: presets or checkpoint folders; the first is judged, and its parts are removed.
    """
    whole = side_by_side(names, device)
    judged = next(iter(whole.values()))
    ablated = with_ablations(names[0], device)
    worlds = whole | {row: one for row, one in ablated.items() if one is not judged}
    if isinstance(judged, LearnedWorld) and judged.refiner is not None:
        worlds["refiner=none"] = resolve_world(names[0], device=device, refiner="none")
    return whole, worlds


def run(
    names: Sequence[str],
    settings: DriftSettings,
    out: Path,
    *,
    seconds: float,
    device: str = "cpu",
    image: Path | None = None,
    prompt: str = "",
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[DriftReport, list[Path]]:
    """Return the report of worlds and the paths of its page and figures, all written into `out`.

    names, device: as in `compared_worlds`. settings: what is walked, for `seconds` instead of its steps.
    image, prompt: start from this picture instead of from scenes: one scene, never spread.
    progress: called with (env steps done, in all, what is walked). What `out` holds of the same settings is
    not walked again. Raises `ValueError` for impossible settings and where figures cannot be drawn, before
    anything is walked.
    """
    check_figures()
    whole, worlds = compared_worlds(names, device)
    name, world = next(iter(whole.items()))
    spec = world.spec
    settings = replace(settings, steps=seconds_to_steps(seconds, world))
    if image is not None:
        settings = replace(settings, scenes=1, spread=False)
        if spec.sees_scene:
            raise ValueError(f"world {name!r} renders a scene and cannot start from --image")
        if settings.context != "none":
            raise ValueError(f"--context {settings.context} needs scenes; leave out --image")
    picture = None if image is None else start_image(str(image), None, spec.frame_size)
    rows = drift(worlds, settings, out, compared=len(whole), image=picture, prompt=prompt, report=progress)
    gate = load(Gate, out / "gate.json") if (out / "gate.json").exists() else None
    seconds = settings.steps * spec.frames_per_step / spec.fps
    report = DriftReport(
        benchmark="drift",
        **{**provenance(spec, command_line("drift")), "world": name},
        weights={row: one.spec.weights_sha256 for row, one in whole.items()},
        settings=RunSettings(**asdict(settings), image=None if image is None else image.name),
        seconds=seconds,
        trained_seconds=spec.trained_steps * spec.frames_per_step / spec.fps,
        fps=spec.fps,
        conventions=CONVENTIONS,
        **vars(score(rows, name, seconds, gate, settings.seed, [row for row in whole if row != name])),
        cost=_cost(out / "timing.json"),
    )
    write_json(out / "drift.json", report.to_json(), indent=2)
    return report, draw(report, rows, out)


def draw(report: DriftReport, rows: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Write the page and the figures of a report into `out`, with what else lies there; return their paths.

    rows: those of `rows.jsonl`, for the paths seen from above. Films and telemetry are drawn where `out` has
    them.
    """
    telemetry = out / "telemetry.json"
    shown = _tracks(rows, report) if "rot_err_deg" not in report.nulls else []
    return write_report(out, report, shown, load(Telemetry, telemetry) if telemetry.exists() else None)


def _cost(timing: Path) -> dict[str, float]:
    """Return CPU-seconds per second of video by row."""
    found = read_json(timing) if timing.exists() else {}
    return {row: one["cpu_s"] / one["video_s"] for row, one in found.items()}


def _tracks(rows: Sequence[dict[str, Any]], report: DriftReport) -> list[Track]:
    """Return the paths of the first walks of every trajectory and world, for the view from above."""
    each = 4 if len(report.settings.trajectories) == 1 else 2
    found: dict[tuple[str, str], list[Track]] = {}
    for row in rows:
        if row["row"] in (report.world, *report.compared) and row["noise"] == 0:
            seen = row.get("pose", {}).get("top_down")
            if seen is not None:
                track = Track(world=row["row"], trajectory=row["trajectory"], scene=row["scene"], **seen)
                found.setdefault((row["trajectory"], row["row"]), []).append(track)
    return [one for own in found.values() for one in own[:each]]

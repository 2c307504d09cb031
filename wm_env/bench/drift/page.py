"""A drift report on disk: `drift.json`, figures as PNG, and one HTML page that holds everything."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_env.bench.page import number, opening, table, write_figures, write_page
from wm_env.model.metrics.intervals import Band

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    out: Path,
    report: dict[str, Any],
    walks: Sequence[Mapping[str, Any]],
    telemetry: Mapping[str, Any] | None,
) -> list[Path]:
    """Write the figures and `report.html` into `out` and return their paths.

    walks: commanded and realised tracks for the top-down figure. telemetry: None without GDN states.
    """
    paths, blocks = write_figures(out, _draw(_require_figures(), out, report, walks, telemetry))
    title = f"Drift of {', '.join([report['world'], *report['compared']])}"
    page = write_page(out / "report.html", title, [*_text(report, telemetry), *blocks])
    return [*paths, page]


def _require_figures() -> tuple[Any, Any]:
    try:
        from wm_env.bench.drift import figures, figures_walks
    except ImportError as error:
        raise ValueError(
            f"the report's figures need matplotlib ({error}): pip install 'wm-env[bench]'"
        ) from error
    return figures, figures_walks


def check_figures() -> None:
    """Raise `ValueError` naming the extra to install where figures cannot be drawn."""
    _require_figures()


def _draw(
    modules: tuple[Any, Any],
    out: Path,
    report: Mapping[str, Any],
    walks: Sequence[Mapping[str, Any]],
    telemetry: Mapping[str, Any] | None,
) -> Iterator[tuple[str, str, Figure]]:
    """Yield (file stem, caption, figure)."""
    figures, walked = modules
    yield (
        "over_time",
        "Truth, place and motion over the episode; dashed: anchors; bands: 95% over scenes; above 45 dB is "
        "off the scale.",
        figures.over_time(report),
    )
    if "psnr" not in report["nulls"]:
        yield (
            "by_trajectory",
            "PSNR by trajectory; above 45 dB is off the scale.",
            figures.by_trajectory(report),
        )
        yield "first_worst_last", "First, worst and last bin.", figures.first_worst_last(report)
    if "psnr" not in report["nulls"] and report["cost"]:
        yield "pareto", "Quality against cost on one CPU thread.", figures.pareto(report)
    if any(cell["geo_db"] is not None for cell in report["bins"]):
        yield "place_and_picture", "Wrong place or wrong picture, and the latents.", figures.split(report)
    yield "deviations", "Signed deviations of reference-free statistics.", figures.deviations(report)
    if any(found is not None for found in report["horizon_h50"].values()):
        yield "survival", "For how long a walk stays useful (Kaplan-Meier).", figures.survival(report)
    if any(report["revisit"].values()):
        yield "revisits", "Coming back: memory and correctness.", figures.revisits(report)
    if walks:
        yield "top_down", "Commanded and realised paths from above.", walked.top_down(report, walks)
    for path in sorted((out / "films").glob("*.npz")):
        with np.load(path) as film:
            figure = walked.filmstrip(report, dict(film))
        caption = f"{path.stem.replace('--', ', ')}: truth, generated, error (0 to 80 grey levels)."
        yield f"film_{path.stem}", caption, figure
    if telemetry is not None:
        yield "telemetry", "GDN memories by layer over a random walk.", walked.telemetry(telemetry)
        yield "telemetry_curves", "Decay gates, recall, norm, writes.", walked.telemetry_curves(telemetry)


def _text(report: Mapping[str, Any], telemetry: Mapping[str, Any] | None) -> list[str]:
    """Return the page but for its figures."""
    judged = report["world"]
    rows = {judged: report["bins"], **report["baselines"]}
    titles = [f"{cell['t0']:.1f}-{cell['t1']:.1f} s" for cell in report["bins"]]

    def by_bin(key: str, digits: int = 2) -> str:
        cells = {name: [number(cell[key], digits) for cell in bins] for name, bins in rows.items()}
        return table(titles, {name: row for name, row in cells.items() if set(row) != {"-"}}, judged)

    psnr = {name: [_cell(cell["psnr"]) for cell in bins] for name, bins in rows.items()}
    parts = [
        opening(report),
        f"<p class='note'>Settings: <code>{html.escape(json.dumps(report['settings']))}</code></p>",
        *(f"<p><b>{html.escape(key)}</b>: {html.escape(why)}</p>" for key, why in report["nulls"].items()),
        "<h2>PSNR against the twin (dB), mean [95%]</h2>",
        table(titles, psnr, judged),
        f"<h2>What {html.escape(judged)} gains over each row (dB), paired by scene</h2>",
        "<p class='note'>* p &lt; 0.05 after Holm's correction over the bins.</p>",
        table(
            titles,
            {name: [_gain_cell(cell) for cell in found] for name, found in report["gain_over"].items()},
        ),
        "<h2>Skill (0: first frame repeated, 1: codec)</h2>",
        "<p class='note'>Over the walks whose codec is 1 dB or more above the repeated frame.</p>",
        by_bin("skill"),
        "<h2>Rotation error (deg), unaligned</h2>",
        by_bin("rot_err_deg"),
        "<h2>Translation error (m), unaligned</h2>",
        by_bin("trans_err"),
        "<h2>Wrong place: PSNR lost to the pose (dB)</h2>",
        by_bin("geo_db"),
        "<h2>Wrong picture: PSNR below the codec at the estimated pose (dB)</h2>",
        by_bin("app_db"),
        "<h2>Latent error |z - z*| / |z*|</h2>",
        by_bin("latent_error", 3),
        "<h2>Freeze index</h2>",
        by_bin("freeze", 3),
        "<h2>How PSNR falls</h2>",
        table(
            ["first - last (dB)", "worst (dB)", "mean drop (dB)", "slope (dB/s)"],
            {
                name: [
                    Band(**found[key]).text()
                    for key in ("first_minus_last", "worst", "auc", "slope_db_per_s")
                ]
                for name, found in report["growth"].items()
            },
            judged,
        ),
        "<h2>Faults (largest deviation in their direction, standard deviations)</h2>",
        table(
            list(next(iter(report["faults"].values()))),
            {name: [number(x) for x in found.values()] for name, found in report["faults"].items()},
            judged,
        ),
        *_behaviour(report),
    ]
    if telemetry is not None:
        parts += _memories(telemetry)
    return [*parts, "<h2>Figures</h2>"]


def _behaviour(report: Mapping[str, Any]) -> list[str]:
    judged = report["world"]
    lags = {
        name: [Band(**found["frames"]).text(1), Band(**found["correlation"]).text()]
        for name, found in report["latency"].items()
        if found["frames"]["mean"] is not None
    }
    lives = {
        name: [
            f"{'over ' if found['at_bound'] else ''}{found['half_life_s']:.2f}",
            number(found["M0_db"]),
            number(found["c_db"]),
            number(found["r2"]),
            str(found["gaps"]),
        ]
        for name, found in report["memory_half_life"].items()
        if found is not None
    }
    parts = [
        "<h2>Useful horizon H50</h2>",
        table(
            ["median (s)", "walks", "reached"],
            {
                name: [number(found["median_s"]), str(found["walks"]), str(found["reached"])]
                for name, found in report["horizon_h50"].items()
                if found is not None
            },
            judged,
        ),
        "<h2>Latency of the picture behind the command</h2>",
        table(["frames", "correlation"], lags, judged),
        "<h2>Memory of a view: M(d) = M0 2^(-d / half-life) + c</h2>",
        table(["half-life (s)", "M0 (dB)", "c (dB)", "r2", "gaps"], lives, judged)
        if lives
        else "<p>n too small: fewer than four gaps between visits.</p>",
    ]
    if any((report["loop_closure"] or {}).values()):
        cells = {
            f"{name}, {trajectory}": [Band(**one["deg"]).text(), Band(**one["share_of_path"]).text(3)]
            for name, found in report["loop_closure"].items()
            for trajectory, one in found.items()
        }
        parts += ["<h2>Loop closure</h2>", table(["degrees", "share of the path"], cells)]
    gained = {name: found for name, found in (report["gain"] or {}).items() if found}
    if gained:
        axes = next(iter(gained.values()))["diagonal"]
        cells = {name: [number(x) for x in found["diagonal"].values()] for name, found in gained.items()}
        parts += ["<h2>Gain: realised over commanded motion</h2>", table(list(axes), cells, judged)]
    if report["cost"]:
        cells = {name: [number(found)] for name, found in report["cost"].items()}
        parts += ["<h2>Cost</h2>", table(["CPU-seconds per second of video"], cells, judged)]
    return parts


def _memories(telemetry: Mapping[str, Any]) -> list[str]:
    share = 100 * telemetry["contraction_violations"]
    found = telemetry["next_bin"]
    names = [name for name in found if name != "pairs"]
    return [
        f"<p>GDN steps with tr(K^T beta K) above 1, beyond the bound that guarantees a contraction: "
        f"{share:.1f}% (should be 0; the norm's curve tells whether a memory grows).</p>",
        "<h2>Does a memory foretell the next bin's error? Spearman's rho within walks</h2>",
        table([*names, "pairs"], {"rho": [*(number(found[name]) for name in names), str(found["pairs"])]}),
        "<p class='note'>Evidence about the mechanism, no measure of quality; time alone moves both.</p>",
    ]


def _cell(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else Band(**found, n=0).text(1)


def _gain_cell(found: Mapping[str, Any]) -> str:
    text = Band(**{key: found[key] for key in ("mean", "lo", "hi", "n")}).text(1)
    return f"{text} *" if found["p_holm"] is not None and found["p_holm"] < 0.05 else text

"""A drift report on disk: `drift.json`, figures as PNG, and one HTML page that holds everything."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_env.bench.drift.columns import PSNR, Column, Spread, caption, in_panels, with_tables
from wm_env.bench.drift.report import DriftReport, Gain, Telemetry, Track
from wm_env.bench.drift.verdict import averaged, verdict
from wm_env.bench.page import folded, how, leading, number, table, words, write_figures, write_page
from wm_env.model.metrics.intervals import Band

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FILM = "film_"
MEMORIES = ("telemetry", "telemetry_curves")
WORDS = (
    *(
        "ablation",
        "bin",
        "clearly",
        "codec alone",
        "contraction bound",
        "copy last true frame",
        "dB",
        "faults",
    ),
    *(
        "freeze",
        "GDN memory",
        "half-life",
        "H50, useful horizon",
        "known view",
        "latency",
        "loop closure",
        "paired",
        "PSNR",
    ),
    *("memory of a view", "refiner", "repeat first frame", "revisit", "rotation error", "shuffled actions"),
    *("skill", "standing camera", "teacher forced", "twin", "wrong picture", "wrong place", "[95%]"),
)


def write_report(
    out: Path,
    report: DriftReport,
    walks: Sequence[Track],
    telemetry: Telemetry | None,
) -> list[Path]:
    """Write the figures and `report.html` into `out` and return their paths.

    walks: commanded and realised tracks for the top-down figure. telemetry: None without GDN states. The page
    begins with the verdict, a film strip and the course of PSNR; what is asked for more rarely is folded.
    """
    paths, blocks = write_figures(out, _draw(_require_figures(), out, report, walks, telemetry))
    drawn = {path.stem: block for path, block in zip(paths, blocks, strict=True)}
    films = [drawn.pop(name) for name in _in_order(report, [name for name in drawn if name.startswith(FILM)])]
    memories = [drawn.pop(name) for name in MEMORIES if name in drawn]
    first = drawn.pop("over_time")
    parts = [
        leading(verdict(report)),
        *(f"<p>{html.escape(told)}</p>" for told in [averaged(report)] if told),
        *(f"<p><b>{html.escape(key)}</b>: {html.escape(why)}</p>" for key, why in report.nulls.items()),
        *films[:1],
        first,
        *_first_tables(report),
        "<h2>Figures</h2>",
        *drawn.values(),
        *([folded("More film strips", films[1:])] if films[1:] else []),
        folded("More tables", _tables(report)),
        *([] if telemetry is None else [folded("What the memories do", [*_memories(telemetry), *memories])]),
        how(report, report.settings),
        words(WORDS),
    ]
    title = f"Drift of {', '.join([report.world, *report.compared])}"
    return [*paths, write_page(out / "report.html", title, parts)]


def _in_order(report: DriftReport, names: Sequence[str]) -> list[str]:
    """Return the names of film strips: a random walk of the judged world first, standing cameras last."""

    def place(name: str) -> tuple[bool, bool, bool]:
        trajectory, _, world = name.removeprefix(FILM).partition("--")
        return trajectory in report.standing, world != report.world, trajectory != "random_walk"

    return sorted(names, key=place)


def _require_figures() -> tuple[Any, Any]:
    try:
        import wm_env.bench.drift.figures as figures
        import wm_env.bench.drift.figures_walks as figures_walks
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
    report: DriftReport,
    walks: Sequence[Track],
    telemetry: Telemetry | None,
) -> Iterator[tuple[str, str, Figure]]:
    """Yield (file stem, caption, figure)."""
    figures, walked = modules
    yield (
        "over_time",
        "Truth, place and motion over the episode; dashed: anchors; bands: 95% over scenes; above 45 dB is "
        "off the scale.",
        figures.over_time(report),
    )
    if "psnr" not in report.nulls:
        yield (
            "by_trajectory",
            "PSNR by trajectory; above 45 dB is off the scale.",
            figures.by_trajectory(report),
        )
        yield "first_worst_last", "First, worst and last bin.", figures.first_worst_last(report)
    if "psnr" not in report.nulls and report.cost:
        yield "pareto", "Quality against cost on one CPU thread.", figures.pareto(report)
    for name, drawn in in_panels().items():
        if any(cell.mean(drawn[0]) is not None for cell in report.bins):
            yield name, caption(name), figures.panels(report, drawn)
    yield "deviations", "Signed deviations of reference-free statistics.", figures.deviations(report)
    if any(found is not None for found in report.horizon_h50.values()):
        yield "survival", "For how long a walk stays useful (Kaplan-Meier).", figures.survival(report)
    if any(report.revisit.values()):
        yield "revisits", "Coming back: memory and correctness.", figures.revisits(report)
    if walks:
        yield "top_down", "Commanded and realised paths from above.", walked.top_down(report, walks)
    for path in sorted((out / "films").glob("*.npz")):
        with np.load(path) as film:
            figure = walked.filmstrip(report, dict(film))
        told = f"{path.stem.replace('--', ', ')}: truth, generated, error (0 to 80 grey levels)."
        yield f"film_{path.stem}", told, figure
    if telemetry is not None:
        yield "telemetry", "GDN memories by layer over a random walk.", walked.telemetry(telemetry)
        yield "telemetry_curves", "Decay gates, recall, norm, writes.", walked.telemetry_curves(telemetry)


def _first_tables(report: DriftReport) -> list[str]:
    """Return PSNR by bin, what the judged world gains over each row, and walks that stand still, apart."""
    judged = report.world
    titles = _titles(report)
    psnr = {name: [_cell(cell.spread(PSNR)) for cell in bins] for name, bins in report.rows().items()}
    still = [
        part
        for one in (report.standing if len(report.standing) < len(report.trajectories) else ())
        for part in (
            f"<h2>{html.escape(PSNR.axis())} where the camera stands still: {html.escape(one)}</h2>",
            table(
                titles,
                {
                    name: [_cell(cell.spread(PSNR)) for cell in bins]
                    for name, bins in report.trajectories[one].items()
                },
                judged,
            ),
        )
    ]
    return [
        f"<h2>{html.escape(PSNR.axis())}, mean [95%]</h2>",
        table(titles, psnr, judged),
        f"<h2>What {html.escape(judged)} gains over each row (dB), paired by scene</h2>",
        "<p class='note'>* p &lt; 0.05 after Holm's correction over the bins.</p>",
        table(
            titles,
            {name: [_gain_cell(cell) for cell in found] for name, found in report.gain_over.items()},
        ),
        *still,
    ]


def _titles(report: DriftReport) -> list[str]:
    return [f"{cell.t0:.1f}-{cell.t1:.1f} s" for cell in report.bins]


def _tables(report: DriftReport) -> list[str]:
    """Return every other table."""
    judged = report.world
    rows = report.rows()
    titles = _titles(report)

    def by_bin(column: Column) -> list[str]:
        cells = {
            name: [number(cell.mean(column), column.digits) for cell in bins] for name, bins in rows.items()
        }
        known = {name: row for name, row in cells.items() if set(row) != {"-"}}
        if column.since and not known:  # the report is older than the column
            return []
        note = [f"<p class='note'>{html.escape(column.note)}</p>"] if column.note else []
        return [f"<h2>{html.escape(column.heading)}</h2>", *note, table(titles, known, judged)]

    return [
        *(part for column in with_tables() for part in by_bin(column)),
        "<h2>How PSNR falls</h2>",
        table(
            ["first - last (dB)", "worst (dB)", "mean drop (dB)", "slope (dB/s)"],
            {
                name: [
                    one.text()
                    for one in (found.first_minus_last, found.worst, found.auc, found.slope_db_per_s)
                ]
                for name, found in report.growth.items()
            },
            judged,
        ),
        "<h2>Faults (largest deviation in their direction, standard deviations)</h2>",
        table(
            list(next(iter(report.faults.values()))),
            {name: [number(x) for x in found.values()] for name, found in report.faults.items()},
            judged,
        ),
        *_behaviour(report),
    ]


def _behaviour(report: DriftReport) -> list[str]:
    judged = report.world
    lags = {
        name: [found.frames.text(1), found.correlation.text()]
        for name, found in report.latency.items()
        if found.frames.mean is not None
    }
    lives = {
        name: [
            f"{'over ' if found.at_bound else ''}{found.half_life_s:.2f}",
            number(found.M0_db),
            number(found.c_db),
            number(found.r2),
            str(found.gaps),
        ]
        for name, found in report.memory_half_life.items()
        if found is not None
    }
    parts = [
        "<h2>Useful horizon H50</h2>",
        table(
            ["median (s)", "walks", "reached"],
            {
                name: [number(found.median_s), str(found.walks), str(found.reached)]
                for name, found in report.horizon_h50.items()
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
    closed = report.loop_closure or {}
    if any(closed.values()):
        cells = {
            f"{name}, {trajectory}": [one.deg.text(), one.share_of_path.text(3)]
            for name, found in closed.items()
            for trajectory, one in found.items()
        }
        parts += ["<h2>Loop closure</h2>", table(["degrees", "share of the path"], cells)]
    gained = {name: found for name, found in (report.gain or {}).items() if found}
    if gained:
        axes = next(iter(gained.values())).diagonal
        cells = {name: [number(x) for x in found.diagonal.values()] for name, found in gained.items()}
        parts += ["<h2>Gain: realised over commanded motion</h2>", table(list(axes), cells, judged)]
    if report.cost:
        cells = {name: [number(found)] for name, found in report.cost.items()}
        parts += ["<h2>Cost</h2>", table(["CPU-seconds per second of video"], cells, judged)]
    return parts


def _memories(telemetry: Telemetry) -> list[str]:
    share = 100 * telemetry.contraction_violations
    found = telemetry.next_bin
    names = [name for name in found if name != "pairs"]
    return [
        f"<p>GDN steps with tr(K^T beta K) above 1, beyond the bound that guarantees a contraction: "
        f"{share:.1f}% (should be 0; the norm's curve tells whether a memory grows).</p>",
        "<h2>Does a memory foretell the next bin's error? Spearman's rho within walks</h2>",
        table([*names, "pairs"], {"rho": [*(number(found[name]) for name in names), str(found["pairs"])]}),
        "<p class='note'>Evidence about the mechanism, no measure of quality; time alone moves both.</p>",
    ]


def _cell(found: Spread | None) -> str:
    return "-" if found is None else Band(*found, n=0).text(1)


def _gain_cell(found: Gain) -> str:
    text = found.band().text(1)
    return f"{text} *" if found.p_holm is not None and found.p_holm < 0.05 else text

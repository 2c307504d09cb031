"""A drift report on disk: `drift.json`, figures as PNG, and one HTML page that holds everything."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_env.bench.intervals import Band
from wm_env.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: 2px 10px; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child { text-align: left }
img { max-width: 100% } code { background: #f2f2f2 } figcaption { color: #555; font-size: 13px }
"""
DPI = 110


def write_report(
    out: Path,
    report: dict[str, Any],
    walks: Sequence[Mapping[str, Any]],
    telemetry: Mapping[str, Any] | None,
) -> list[Path]:
    """Write the figures and `report.html` into `out` and return their paths.

    walks: commanded and realised tracks for the top-down figure. telemetry: None without GDN states.
    """
    figures = _require_figures()
    paths, blocks = [], []
    for name, caption, figure in _draw(figures, out, report, walks, telemetry):
        path = out / f"{name}.png"
        data = _png(figure)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        paths.append(path)
        picture = base64.b64encode(data).decode()
        blocks.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{picture}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    page = out / "report.html"
    with atomic_path(page) as temporary:
        temporary.write_text(_page(report, blocks, telemetry))
    return [*paths, page]


def _require_figures() -> Any:
    try:
        from wm_env.bench import figures
    except ImportError as error:
        raise ValueError(
            f"the report's figures need matplotlib ({error}): pip install 'wm-env[bench]'"
        ) from error
    return figures


def check_figures() -> None:
    """Raise `ValueError` naming the extra to install where figures cannot be drawn."""
    _require_figures()


def _draw(
    figures: Any,
    out: Path,
    report: Mapping[str, Any],
    walks: Sequence[Mapping[str, Any]],
    telemetry: Mapping[str, Any] | None,
) -> Iterator[tuple[str, str, Figure]]:
    """Yield (file stem, caption, figure)."""
    yield (
        "over_time",
        "Truth, place and motion over the episode; dashed: anchors; bands: 95% over scenes.",
        figures.over_time(report),
    )
    if "psnr" not in report["nulls"]:
        yield "by_trajectory", "PSNR by trajectory.", figures.by_trajectory(report)
        yield "first_worst_last", "First, worst and last bin.", figures.first_worst_last(report)
    yield "deviations", "Signed deviations of reference-free statistics.", figures.deviations(report)
    if any(found is not None for found in report["horizon_h50"].values()):
        yield "survival", "For how long a walk stays useful (Kaplan-Meier).", figures.survival(report)
    if any(report["revisit"].values()):
        yield "revisits", "Coming back: memory and correctness.", figures.revisits(report)
    if walks:
        yield "top_down", "Commanded and realised paths from above.", figures.top_down(report, walks)
    for path in sorted((out / "films").glob("*.npz")):
        with np.load(path) as film:
            figure = figures.filmstrip(report, path.stem, dict(film))
        yield f"film_{path.stem}", f"{path.stem}: truth, generated, error (0 to 80 grey levels).", figure
    if telemetry is not None:
        yield "telemetry", "GDN memories by layer over a random walk.", figures.telemetry(telemetry)
        yield "telemetry_curves", "Decay gates, recall, norm, writes.", figures.telemetry_curves(telemetry)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _page(report: Mapping[str, Any], blocks: Sequence[str], telemetry: Mapping[str, Any] | None) -> str:
    rows = {report["world"]: report["bins"], **report["baselines"]}
    titles = [f"{cell['t0']:.1f}-{cell['t1']:.1f} s" for cell in report["bins"]]
    parts = [
        "<!doctype html><meta charset='utf-8'>",
        f"<title>Drift of {html.escape(report['world'])}</title><style>{_STYLE}</style>",
        f"<h1>Drift of {html.escape(report['world'])}</h1>",
        f"<p>Weights sha256 <code>{report['weights_sha256'] or 'none'}</code>; {report['date']}; "
        f"{html.escape(report['hardware'])}, {report['threads']} thread(s), torch {report['torch']}.<br>"
        f"<code>{html.escape(report['command'])}</code></p>",
        f"<p>Settings: <code>{html.escape(json.dumps(report['settings']))}</code></p>",
        *(f"<p><b>{html.escape(key)}</b>: {html.escape(why)}</p>" for key, why in report["nulls"].items()),
        "<h2>PSNR against the twin (dB), mean [95%]</h2>",
        _table(titles, {name: [_cell(cell["psnr"]) for cell in bins] for name, bins in rows.items()}),
        "<h2>Skill (0: first frame repeated, 1: codec)</h2>",
        _table(titles, {name: [_number(cell["skill"]) for cell in bins] for name, bins in rows.items()}),
        "<h2>Rotation error (deg), unaligned</h2>",
        _table(
            titles, {name: [_number(cell["rot_err_deg"]) for cell in bins] for name, bins in rows.items()}
        ),
        "<h2>Freeze index</h2>",
        _table(titles, {name: [_number(cell["freeze"], 3) for cell in bins] for name, bins in rows.items()}),
        "<h2>How PSNR falls</h2>",
        _table(
            ["first - last (dB)", "worst (dB)", "mean drop (dB)", "slope (dB/s)"],
            {
                name: [
                    Band(**found[key]).text()
                    for key in ("first_minus_last", "worst", "auc", "slope_db_per_s")
                ]
                for name, found in report["growth"].items()
            },
        ),
        "<h2>Faults (largest deviation in their direction)</h2>",
        _table(
            list(next(iter(report["faults"].values()))),
            {name: [_number(x) for x in found.values()] for name, found in report["faults"].items()},
        ),
        "<h2>Useful horizon H50</h2>",
        _table(
            ["median (s)", "walks", "reached"],
            {
                name: [_number(found["median_s"]), str(found["walks"]), str(found["reached"])]
                for name, found in report["horizon_h50"].items()
                if found is not None
            },
        ),
    ]
    if report["loop_closure"]:
        parts += [
            "<h2>Loop closure</h2>",
            _table(
                ["degrees", "share of the path"],
                {
                    name: [Band(**found["deg"]).text(), Band(**found["share_of_path"]).text(3)]
                    for name, found in report["loop_closure"].items()
                },
            ),
        ]
    if report["gain"]:
        axes = report["gain"]["diagonal"]
        parts += [
            "<h2>Gain: realised over commanded motion</h2>",
            _table(list(axes), {report["world"]: [_number(x) for x in axes.values()]}),
        ]
    if telemetry is not None:
        share = 100 * telemetry["contraction_violations"]
        parts.append(f"<p>GDN steps that are no contraction: {share:.3f}% (must be 0).</p>")
    return "\n".join([*parts, "<h2>Figures</h2>", *blocks, ""])


def _table(titles: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in ["", *titles])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in [name, *cells]) + "</tr>"
        for name, cells in rows.items()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else Band(**found, n=0).text(1)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

"""A context report as values, and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from wm_env.bench.context.rows import ContextSettings
from wm_env.bench.page import markdown_end, number
from wm_env.bench.provenance import Report, provenance_lines
from wm_env.bench.records import Record
from wm_env.model.metrics.intervals import Band

WORDS = ("context", "dB", "paired", "PSNR", "[95%]")


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """PSNR (dB) of the held-out part, a film's chunks averaged first.

    psnr: whole frames. gain: over the first row, paired. views: frames of which at least 0.6 were shown.
    seen: on the pixels that were shown. share: how many of them. None where nobody knows the geometry.
    """

    psnr: Band
    gain: Band | None = None
    views: Band | None = None
    seen: Band | None = None
    share: Band | None = None


@dataclass(frozen=True, kw_only=True)
class ContextReport(Report):
    """The whole of `context-WORLD.json`. rows: by number of frames shown, then the baseline."""

    settings: ContextSettings
    rows: dict[str, Row]


def verdict(report: ContextReport) -> str:
    """Return what more pictures are worth, in one sentence."""
    shown = [name for name in report.rows if name.isdigit()]
    first, last = report.rows[shown[0]], report.rows[shown[-1]]
    part = "the turn that comes back" if not report.settings.clips else "the rest of the clips"
    if last.gain is None:
        return f"From {shown[0]} frame(s), `{report.world}` draws {part} at {number(first.psnr.mean, 1)} dB."
    gain = last.gain
    if gain.lo is None or gain.hi is None:
        sure = "too few films to be sure"
    else:
        sure = f"95% interval [{gain.lo:.1f}, {gain.hi:.1f}]{'' if gain.lo > 0 else ', which holds 0'}"
    return (
        f"Shown {shown[-1]} frames instead of {shown[0]}, `{report.world}` draws {part} at "
        f"{number(last.psnr.mean, 1)} instead of {number(first.psnr.mean, 1)} dB: {number(gain.mean, 1)} dB "
        f"more, {sure}."
    )


def markdown(report: ContextReport) -> str:
    """Return the report as Markdown: the verdict, the table, where the numbers come from."""
    what = "films are two turns on the spot; the first is shown, the second is drawn"
    if report.settings.clips:
        what = f"clips: the last {report.settings.held_out} chunks are drawn, those before them are shown"
    known = any(row.share is not None for row in report.rows.values())
    titles = ["frames shown", "PSNR (dB)", "gain over the first row"]
    titles += ["views shown before", "pixels shown before", "their share"] if known else []
    lines = [
        f"# What more pictures are worth to `{report.world}`",
        "",
        f"**{verdict(report)}**",
        "",
        "| " + " | ".join(titles) + " |",
        "|" + "---|" * len(titles),
    ]
    for name, row in report.rows.items():
        cells = [row.psnr.text(2), "" if row.gain is None else row.gain.text(2)]
        if known:
            cells += ["" if one is None else one.text(2) for one in (row.views, row.seen, row.share)]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += ["", f"{what[0].upper()}{what[1:]}. Intervals: 95% bootstrap over films.", ""]
    return "\n".join([*lines, *markdown_end(report.settings, provenance_lines(report), WORDS)])

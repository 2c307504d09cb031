"""How good the poses are that are found in films: docs/clips.md."""

from __future__ import annotations

from written import Files, made

from wm_env.bench.annotate import AnnotateReport, verdict
from wm_env.bench.records import read

MOVING = ("walk", "turns")


def annotated(files: Files) -> dict[str, str]:
    """Return the verdict on found poses, how far off scales are, and where that was measured."""
    found = files("docs/performance/annotate.json")
    report = read(AnnotateReport, found, "annotate.json")
    turns = report.rows["rotation"]
    seconds = [report.rows[kind].seconds.mean for kind in MOVING]
    return {
        "annotate": verdict(report),
        "annotate-turns": f"{turns.rotation_only} of {turns.films}",
        "annotate-distance": off(report, "known distance"),
        "annotate-height": off(report, "camera height"),
        "annotate-depth": off(report, "depth network"),
        "annotate-seconds": f"{max(one for one in seconds if one is not None):.1f}",
        "annotate-machine": made(found),
    }


def off(report: AnnotateReport, source: str) -> str:
    """Return by how much a source's scale is off on films with parallax: the mean of those that have one."""
    bands = [report.rows[kind].scale[source] for kind in MOVING]
    count = sum(band.n for band in bands)
    total = sum(band.mean * band.n for band in bands if band.mean is not None)
    return f"{100 * total / count:.1f}%"

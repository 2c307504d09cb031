"""The figure of an annotation report: errors of every film by kind. matplotlib is in the `bench` extra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from wm_env.bench.annotate.films import KINDS

PANELS = (
    ("rotation", 1.0, "rotation error (degrees)"),
    ("ate", 100.0, "ATE / path (%)"),
    ("focal", 100.0, "focal length error (%)"),
)


def errors_figure(films: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return a panel an error, a dot a film, by kind; wrong and refused films are marked by their colour."""
    figure = Figure(figsize=(11, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in films.values())]
    for axis, (name, factor, words) in zip(axes, PANELS, strict=True):
        for place, kind in enumerate(kinds):
            own = [row for row in films.values() if row["kind"] == kind and row.get(name) is not None]
            for number, row in enumerate(own):
                aside = (number % 5 - 2) * 0.08
                right = row["status"] in ("accepted", "rotation only")
                colour = "tab:red" if row.get("wrong") else "tab:blue" if right else "tab:gray"
                axis.plot(place + aside, max(factor * row[name], 1e-3), "o", color=colour, markersize=4)
        axis.set_yscale("log")
        axis.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right")
        axis.set_title(words, fontsize=10)
    return figure

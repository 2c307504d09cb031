"""The figures of a drift report, one function a figure; each returns a matplotlib figure.

matplotlib is in the `bench` extra and imported only here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wm_env.bench.drift.columns import LOST, MOTION, PSNR, ROTATION, Column
from wm_env.bench.drift.report import Bins, DriftReport
from wm_env.bench.drift.rollouts import CODEC, COPY, FORCED, REPEAT, SHUFFLED, TWIN
from wm_env.bench.page import DPI

TOP_DB = 45.0  # frames that hardly move repeat at up to the cap of 100 dB; nobody looks at those
COLOURS = ("#1f6fb4", "#d9541e", "#2a9d55", "#8c5fbf", "#b8860b", "#c2377e", "#17a2b8", "#7f5539", "#556b2f")
_ANCHORS = {REPEAT: "#8a8a8a", COPY: "#b5b5b5", CODEC: "#222222", TWIN: "#000000", FORCED: "#5a5a5a"}
_DASHES = {REPEAT: "--", COPY: ":", CODEC: (0, (6, 2)), TWIN: "-.", FORCED: (0, (3, 1, 1, 1))}
_Z_SHOWN = ("luma", "contrast", "saturation", "sharpness", "noise", "motion", "blockiness", "clipped")


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, dpi: int = DPI
) -> tuple[Figure, np.ndarray]:
    """Return a figure of inches and its axes `(rows, columns)`."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=dpi)
    return figure, np.atleast_1d(figure.subplots(rows, columns, squeeze=False))


def _style(report: DriftReport) -> dict[str, dict[str, Any]]:
    """Return how every row is drawn, alike in all figures: worlds wide, anchors grey and dashed."""
    worlds = [report.world, *report.compared]
    others = [name for name in report.baselines if name not in (*worlds, *_ANCHORS)]
    coloured = dict(zip([*worlds, *others], itertools.cycle(COLOURS), strict=False))
    return {
        name: {
            "color": _ANCHORS.get(name) or coloured[name],
            "linestyle": _DASHES.get(name, "-"),
            "linewidth": 2.4 if name in worlds else 1.2,
            "zorder": 3 if name in worlds else 2,
        }
        for name in [*worlds, *others, *(name for name in _ANCHORS if name in report.baselines)]
    }


def _rows(report: DriftReport) -> dict[str, Bins]:
    """Return the bins of every row, in the order in which they are drawn."""
    found = report.rows()
    return {name: found[name] for name in _style(report)}


def _centres(bins: Bins) -> list[float]:
    return [(cell.t0 + cell.t1) / 2 for cell in bins]


def _values(bins: Bins, column: Column) -> list[float]:
    """Return a column's number of every bin, NaN where it was not measured."""
    found = [cell.mean(column) for cell in bins]
    return [float("nan") if value is None else value for value in found]


def over_time(report: DriftReport) -> Figure:
    """Return PSNR, rotation error and motion energy against time, every row, bands, the trained length."""
    rows, style = _rows(report), _style(report)
    worlds = (report.world, *report.compared)
    figure, axes = new_figure(9, 10.5, 3)
    psnr, rotation, motion = axes[:, 0]
    shown = []
    for name, bins in rows.items():
        t = _centres(bins)
        values = _values(bins, PSNR)
        if name == TWIN and np.nanmin(values) > 60:
            psnr.plot([], [], label=f"{TWIN}: {np.nanmin(values):.0f} dB (off the scale)", **style[name])
        else:
            psnr.plot(t, values, marker="o", markersize=3, label=name, **style[name])
            shown += values
        bands = [cell.spread(PSNR) for cell in bins]
        if name in (*worlds, REPEAT) and all(one is not None and one.lo for one in bands):
            psnr.fill_between(
                t,
                [one.lo for one in bands if one is not None],
                [one.hi for one in bands if one is not None],
                color=style[name]["color"],
                alpha=0.15,
                linewidth=0,
            )
        angles = _values(bins, ROTATION)
        known = np.flatnonzero(np.isfinite(angles))
        if len(known):
            label = f"{name} (a camera that stays)" if name == REPEAT else name
            rotation.plot(
                np.array(t)[known],
                np.array(angles)[known],
                marker="o",
                markersize=3,
                label=label,
                **style[name],
            )
        motion.plot(t, [cell.mean(MOTION) for cell in bins], marker="o", markersize=3, **style[name])
    psnr.set_ylim(top=min(psnr.get_ylim()[1], TOP_DB))
    for axis, column in ((psnr, PSNR), (rotation, ROTATION), (motion, MOTION)):
        axis.set_ylabel(column.axis())
        if column.name in report.nulls:
            axis.text(0.5, 0.5, _wrapped(report.nulls[column.name]), transform=axis.transAxes, ha="center")
    for axis in (psnr, rotation, motion):
        axis.set_xlabel("time (s)")
        axis.set_xlim(0, report.seconds)
        axis.grid(alpha=0.25)
        if report.trained_seconds <= report.seconds:
            axis.axvline(report.trained_seconds, color="black", linestyle=":", linewidth=1)
    if np.isfinite(shown).any():
        own = [cell.spread(PSNR) for cell in report.bins]
        few = any(one is None or one.lo is None for one in own)
        told = "n too small for a 95% band" if few else "band: 95%"
        figure.legend(
            *psnr.get_legend_handles_labels(),
            loc="outside upper center",
            fontsize=8,
            ncols=3,
            title=f"{told}; dotted line: trained length",
            title_fontsize=8,
        )
    if rotation.lines and ROTATION.name not in report.nulls:
        rotation.set_yscale("symlog", linthresh=1.0)
        rotation.set_ylim(0, 180)
        rotation.set_yticks([0, 1, 3, 10, 30, 90, 180], ["0", "1", "3", "10", "30", "90", "180"])
        lost = [cell.mean(LOST) for cell in report.bins]
        shares = [x for x in lost if x is not None]
        if shares:
            rotation.set_title(f"frames lost to the estimator: {100 * np.mean(shares):.0f}%", fontsize=8)
        rotation.legend(fontsize=8)
    return figure


def first_worst_last(report: DriftReport) -> Figure:
    """Return the PSNR of the first, the worst and the last bin of every row but the twin, at its cap."""
    rows = {name: bins for name, bins in _rows(report).items() if bins[0].spread(PSNR) and name != TWIN}
    figure, axes = new_figure(max(9.0, 1.15 * len(rows)), 4)
    axis = axes[0, 0]
    place = np.arange(len(rows))
    curves = [_values(bins, PSNR) for bins in rows.values()]
    picked = {
        "first bin": [curve[0] for curve in curves],
        "worst bin": [min(curve) for curve in curves],
        "last bin": [curve[-1] for curve in curves],
    }
    for offset, (label, values) in enumerate(picked.items()):
        bars = axis.bar(place + 0.27 * (offset - 1), values, 0.25, label=label, color=COLOURS[offset])
        axis.bar_label(bars, fmt="%.1f", fontsize=7)
    axis.set_xticks(place, [name.replace(" ", "\n", 1) for name in rows], fontsize=8)
    axis.set_ylabel(PSNR.axis())
    figure.legend(loc="outside upper center", fontsize=8, ncols=3)
    return figure


def by_trajectory(report: DriftReport) -> Figure:
    """Return PSNR against time for every trajectory and every row but the twin, which is at its cap."""
    style = _style(report)
    names = [name for name in style if name != TWIN]
    trajectories = report.trajectories
    columns = min(4, len(trajectories))
    figure, axes = new_figure(
        max(8, 3 * columns), 2.6 * -(-len(trajectories) // columns), -(-len(trajectories) // columns), columns
    )
    for axis in axes.flat[len(trajectories) :]:
        axis.set_axis_off()
    for axis, (trajectory, rows) in zip(axes.flat, trajectories.items(), strict=False):
        for name in names:
            axis.plot(_centres(rows[name]), _values(rows[name], PSNR), label=name, **style[name])
        axis.set_ylim(top=min(axis.get_ylim()[1], TOP_DB))
        axis.set_title(trajectory, fontsize=9)
        axis.grid(alpha=0.25)
        axis.set_xlim(0, report.seconds)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, ncols=4)
    figure.supxlabel("time (s)", fontsize=9)
    figure.supylabel("PSNR (dB)", fontsize=9)
    return figure


def deviations(report: DriftReport) -> Figure:
    """Return the signed z of the statistics over time, small multiples, and their root mean square."""
    rows = report.statistics
    style = _style(report)
    names = [name for name in style if name in rows and name not in (COPY, SHUFFLED)]
    shown = (*_Z_SHOWN, "d_app")
    figure, axes = new_figure(10, 7, 3, 3)
    t = _centres(report.bins)
    for axis, component in zip(axes.flat, shown, strict=True):
        for name in names:
            axis.plot(
                t, [np.nan if x is None else x for x in rows[name][component]], label=name, **style[name]
            )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_title("all together (D_app)" if component == "d_app" else component, fontsize=9)
        axis.grid(alpha=0.25)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, ncols=4)
    figure.supxlabel("time (s)", fontsize=9)
    figure.supylabel("deviation from the reference (standard deviations)", fontsize=9)
    return figure


def survival(report: DriftReport) -> Figure:
    """Return the share of walks that are still useful against time (Kaplan-Meier)."""
    figure, axes = new_figure(7, 4)
    axis = axes[0, 0]
    rows = {name: found for name, found in report.horizon_h50.items() if found is not None}
    style = _style(report)
    for name, found in ((name, rows[name]) for name in style if name in rows):
        t, alive = found.curve.t, found.curve.alive
        median = found.median_s
        text = "not reached" if median is None else f"{median:.1f} s"
        axis.step(
            [*t, report.seconds],
            [*alive, alive[-1]],
            where="post",
            label=f"{name}: H50 {text}",
            **style[name],
        )
    axis.set_ylim(0, 1.02)
    axis.set_xlim(0, report.seconds)
    axis.set_xlabel("time (s)")
    axis.set_ylabel("share of walks with skill above 0.5")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    return figure


def revisits(report: DriftReport) -> Figure:
    """Return memory (left) and correctness (right) of revisited views against the time between the visits."""
    figure, axes = new_figure(10, 4, 1, 2)
    style = _style(report)
    rows = {name: report.revisit[name] for name in style if report.revisit[name]}
    memory = {name: [(cell.gap_s, cell.memory) for cell in found] for name, found in rows.items()}
    truth = {
        name: [(cell.gap_s, cell.truth) for cell in found] for name, found in rows.items() if name != TWIN
    }
    for axis, drawn, title in (
        (axes[0, 0], memory, "memory: PSNR to itself minus control (dB)"),
        (axes[0, 1], truth, "correctness: PSNR to the twin (dB)"),
    ):
        for name, found in drawn.items():
            points = [(gap, min(value, 60.0)) for gap, value in found if value is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **style[name])
        axis.set_xlabel("time between the visits (s)")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25)
    fit = report.memory_half_life[report.world]
    if fit is not None and not fit.at_bound:
        d = np.linspace(0.5, max(cell.gap_s for cell in rows[report.world]), 60)
        curve = fit.M0_db * 2 ** (-d / fit.half_life_s) + fit.c_db
        label = f"fit: half-life {fit.half_life_s:.1f} s"
        axes[0, 0].plot(d, curve, color="black", linewidth=0.8, label=label)
    _legend(figure, axes)
    return figure


def pareto(report: DriftReport) -> Figure:
    """Return the mean PSNR over the episode against CPU-seconds per second of video."""
    figure, axes = new_figure(8, 4.6)
    axis = axes[0, 0]
    style = _style(report)
    for name, bins in _rows(report).items():
        if name in (TWIN, REPEAT, COPY) or name not in report.cost or bins[0].spread(PSNR) is None:
            continue
        values = _values(bins, PSNR)
        spread = [[np.mean(values) - min(values)], [max(values) - np.mean(values)]]
        bar: dict[str, Any] = {"fmt": "o", "color": style[name]["color"], "capsize": 3, "elinewidth": 1}
        axis.errorbar(report.cost[name], np.mean(values), yerr=spread, label=name, **bar)
    for name in (REPEAT, COPY):
        if name in report.baselines and report.baselines[name][0].spread(PSNR) is not None:
            mean = np.mean(_values(report.baselines[name], PSNR))
            axis.axhline(mean, label=f"{name} (costs nothing)", **{**style[name], "zorder": 1})
    axis.set_ylim(top=min(axis.get_ylim()[1], TOP_DB))
    axis.axvline(1.0, color="black", linewidth=0.6)
    edge = {"fontsize": 8, "va": "bottom", "ha": "right"}
    axis.text(1.0, 0.01, "real time ", transform=axis.get_xaxis_transform(), **edge)
    axis.set_xscale("log")
    axis.set_xlabel("CPU-seconds per second of video, log scale")
    axis.set_ylabel("PSNR over the episode (dB); bar: worst to best bin")
    axis.grid(alpha=0.25, which="both")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def panels(report: DriftReport, columns: Sequence[Column]) -> Figure:
    """Return columns of every row against time, a panel a column, three beside each other."""
    across = min(3, len(columns))
    lines = -(-len(columns) // across)
    figure, axes = new_figure(11 * across / 3, 3.8 * lines, lines, across)
    style = _style(report)
    for axis in axes.flat[len(columns) :]:
        axis.set_axis_off()
    for axis, column in zip(axes.flat, columns, strict=False):
        for name, bins in _rows(report).items():
            values = _values(bins, column)
            if np.isfinite(values).any():
                axis.plot(_centres(bins), values, marker="o", markersize=3, label=name, **style[name])
        axis.set_title(column.axis(), fontsize=9)
        axis.set_xlabel("time (s)")
        axis.set_xlim(0, report.seconds)
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
        axis.grid(alpha=0.25)
    _legend(figure, axes)
    return figure


def _legend(figure: Figure, axes: np.ndarray) -> None:
    """Put one legend above the panels, every label once."""
    found: dict[str, Any] = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        found |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in found}
    figure.legend(found.values(), found.keys(), loc="outside upper center", fontsize=8, ncols=4)


def _wrapped(text: str, width: int = 70) -> str:
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line += f"{word} "
    return "\n".join([*lines, line])

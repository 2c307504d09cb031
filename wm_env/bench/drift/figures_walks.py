"""The figures of a drift report that show walks and memories: paths, filmstrips, state telemetry.

matplotlib is in the `bench` extra and imported only here and in `figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from wm_env.bench.drift.figures import COLOURS, new_figure
from wm_env.bench.drift.report import DriftReport, Telemetry, Track

FILM_DPI = 72  # pictures of 64 pixels need no more, and a page holds many


def top_down(report: DriftReport, walks: Sequence[Track]) -> Figure:
    """Return commanded and realised paths seen from above, four walks a row; marks are where they end."""
    columns = 4
    lines = max(1, -(-len(walks) // columns))
    figure, axes = new_figure(11, 2.9 * lines, lines, columns)
    for axis in axes.flat[len(walks) :]:
        axis.set_axis_off()
    for axis, one in zip(axes.flat, walks, strict=False):
        asked, got = np.array(one.commanded), np.array(one.realised)
        axis.plot(*asked.T, color="black", linewidth=2.5, alpha=0.4, label="commanded")
        axis.plot(*asked[-1], marker="s", markersize=7, color="black", alpha=0.4, linestyle="none")
        axis.plot(*got.T, color=COLOURS[1], linewidth=1.2, label="realised")
        gone = np.array(one.lost)
        axis.plot(*got[gone].T, "x", color="black", markersize=4, label="lost: as commanded")
        axis.plot(*got[-1], marker="o", markersize=4, color=COLOURS[1], linestyle="none")
        centre = (np.concatenate([asked, got]).max(0) + np.concatenate([asked, got]).min(0)) / 2
        for side in (-0.6, 0.6):  # at least 1.2 m wide: a step is 0.25 m
            axis.plot(*(centre + side), alpha=0)
        axis.set_aspect("equal", adjustable="datalim")
        beside = f"{one.world}: " if report.compared else ""
        axis.set_title(f"{beside}{one.trajectory}, scene {one.scene}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    axes.flat[0].legend(fontsize=7)
    figure.supxlabel("right (m)", fontsize=9)
    figure.supylabel("forward (m)", fontsize=9)
    return figure


def filmstrip(report: DriftReport, film: Mapping[str, np.ndarray]) -> Figure:
    """Return truth, generated frames and their error at seven times, one above the other."""
    index, frames = film["index"], film["frames"]
    own = str(film["row"])
    lines = [(own, frames)]
    if "truth" in film:
        error = np.abs(frames.astype(int) - film["truth"].astype(int)).mean(-1)
        lines = [("twin", film["truth"]), (own, frames), ("error", error)]
    figure, axes = new_figure(1.6 * len(index), 1.65 * len(lines) + 0.2, len(lines), len(index), FILM_DPI)
    for row, (label, pictures) in enumerate(lines):
        for column, picture in enumerate(pictures):
            axis = axes[row, column]
            if label == "error":
                axis.imshow(picture, cmap="magma", vmin=0, vmax=80)
            else:
                axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(f"{index[column] / report.fps:.1f} s", fontsize=9)
            if column == 0:
                axis.set_ylabel(label, fontsize=9)
    return figure


def telemetry(found: Telemetry) -> Figure:
    """Return the memory of every GDN layer over the rollout: norm, half-life, recall, rank, state drift."""
    tables = {name: np.array(table, dtype=float)[..., 1] for name, table in found.quantities.items()}
    panels = [
        ("log10 of the norm of S", np.log10(np.maximum(tables["norm"], 1e-9))),
        ("log10 of the half-life (s)", np.log10(tables["half_life"] * found.seconds_per_chunk)),
        ("recall of frame 0", tables["recall"]),
        ("retention by the decay gates", tables["retention"]),
        ("stable rank", tables["stable_rank"]),
        ("|S - S*| / |S*|, S* fed with the truth", np.array(found.state_drift["relative"], dtype=float)),
    ]
    figure, axes = new_figure(11, 7.5, 3, 2)
    seconds = len(tables["norm"]) * found.seconds_per_chunk
    for axis, (title, table) in zip(axes.flat, panels, strict=True):
        layers = table.shape[1]
        drawn = axis.imshow(table.T, aspect="auto", cmap="viridis", extent=(0, seconds, layers - 0.5, -0.5))
        figure.colorbar(drawn, ax=axis)
        axis.set_title(f"{title} (median over heads)", fontsize=9)
        axis.set_yticks(range(layers))
        axis.set_ylabel("GDN layer", fontsize=8)
    figure.supxlabel("time (s)", fontsize=9)
    return figure


def telemetry_curves(found: Telemetry) -> Figure:
    """Return quantiles over heads of half-life, recall, norm and write ratio against time, a line a layer."""
    figure, axes = new_figure(11, 6, 2, 2)
    names = (
        ("half_life", "half-life of the decay gate (s)", found.seconds_per_chunk),
        ("recall", "recall of frame 0", 1.0),
        ("norm", "norm of S", 1.0),
        ("write_ratio", "write ratio", 1.0),
    )
    for axis, (name, title, scale) in zip(axes.flat, names, strict=True):
        table = np.array(found.quantities[name], dtype=float) * scale  # (chunks, L, 3)
        t = (np.arange(len(table)) + 1) * found.seconds_per_chunk
        for layer in range(table.shape[1]):
            colour = COLOURS[layer % len(COLOURS)]
            axis.plot(t, table[:, layer, 1], color=colour, linewidth=1.2, label=f"layer {layer}")
            axis.fill_between(
                t, table[:, layer, 0], table[:, layer, 2], color=colour, alpha=0.08, linewidth=0
            )
        axis.set_yscale("log")
        if name == "recall":
            axis.set_ylim(bottom=1e-4)
        axis.set_title(f"{title}: median and 5-95% of heads", fontsize=9)
        axis.grid(alpha=0.25)
    axes[0, 0].legend(fontsize=7, ncols=2)
    figure.supxlabel("time (s)", fontsize=9)
    return figure

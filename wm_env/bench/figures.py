"""The figures of a drift report, one function a figure; each returns a matplotlib figure.

matplotlib is in the `bench` extra and imported only here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from wm_env.bench.rollouts import CODEC, FORCED, REPEAT, SHUFFLED, TWIN

matplotlib.use("Agg")

_COLOURS = ("#1f6fb4", "#d9541e", "#2a9d55", "#8c5fbf", "#b8860b", "#7a7a7a", "#c2377e", "#17a2b8", "#444444")
_DASHED = (REPEAT, CODEC, TWIN, FORCED)
_Z_SHOWN = ("luma", "contrast", "saturation", "sharpness", "noise", "motion", "blockiness", "clipped")


def _new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns, squeeze=False))


def _style(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return how every row is drawn, alike in all figures."""
    names = [report["world"], *report["baselines"]]
    return {
        name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": "--" if name in _DASHED else "-",
            "linewidth": 2.2 if i == 0 else 1.3,
        }
        for i, name in enumerate(names)
    }


def _centres(bins: Sequence[Mapping[str, Any]]) -> list[float]:
    return [(cell["t0"] + cell["t1"]) / 2 for cell in bins]


def over_time(report: Mapping[str, Any]) -> Figure:
    """Return PSNR, rotation error and motion energy against time, every row, bands, the trained length."""
    rows = {report["world"]: report["bins"], **report["baselines"]}
    style = _style(report)
    figure, axes = _new(9, 10.5, 3)
    psnr, rotation, motion = axes[:, 0]
    shown = []
    for name, bins in rows.items():
        t = _centres(bins)
        values = [np.nan if cell["psnr"] is None else cell["psnr"]["mean"] for cell in bins]
        if name == TWIN and np.nanmin(values) > 60:
            psnr.plot([], [], label=f"{TWIN}: {np.nanmin(values):.0f} dB (off the scale)", **style[name])
        else:
            psnr.plot(t, values, marker="o", markersize=3, label=name, **style[name])
            shown += values
        if name in (report["world"], REPEAT) and all(cell["psnr"] and cell["psnr"]["lo"] for cell in bins):
            psnr.fill_between(
                t,
                [cell["psnr"]["lo"] for cell in bins],
                [cell["psnr"]["hi"] for cell in bins],
                color=style[name]["color"],
                alpha=0.15,
                linewidth=0,
            )
        angles = [np.nan if cell["rot_err_deg"] is None else cell["rot_err_deg"] for cell in bins]
        if np.isfinite(angles).any():
            label = f"{name} (a camera that stays)" if name == REPEAT else name
            rotation.plot(t, angles, marker="o", markersize=3, label=label, **style[name])
        motion.plot(t, [cell["motion"] for cell in bins], marker="o", markersize=3, **style[name])
    psnr.set_ylabel("PSNR against the twin (dB)")
    rotation.set_ylabel("rotation error (deg)")
    motion.set_ylabel("motion energy (grey levels)")
    for axis, key in ((psnr, "psnr"), (rotation, "rot_err_deg")):
        if key in report["nulls"]:
            axis.text(0.5, 0.5, _wrapped(report["nulls"][key]), transform=axis.transAxes, ha="center")
    for axis in (psnr, rotation, motion):
        axis.set_xlabel("time (s)")
        axis.set_xlim(0, report["seconds"])
        axis.grid(alpha=0.25)
        if report["trained_seconds"] <= report["seconds"]:
            axis.axvline(report["trained_seconds"], color="black", linestyle=":", linewidth=1)
    if np.isfinite(shown).any():
        figure.legend(
            *psnr.get_legend_handles_labels(),
            loc="outside upper center",
            fontsize=8,
            ncols=3,
            title="band: 95%; dotted line: trained length",
            title_fontsize=8,
        )
    if rotation.lines and "rot_err_deg" not in report["nulls"]:
        rotation.set_yscale("symlog", linthresh=1.0)
        rotation.set_ylim(bottom=0)
        lost = [cell["lost_share"] for cell in report["bins"]]
        known = [x for x in lost if x is not None]
        if known:
            rotation.set_title(f"frames lost to the estimator: {100 * np.mean(known):.0f}%", fontsize=8)
        rotation.legend(fontsize=8)
    return figure


def first_worst_last(report: Mapping[str, Any]) -> Figure:
    """Return the PSNR of the first, the worst and the last bin of every row."""
    rows = {report["world"]: report["bins"], **report["baselines"]}
    rows = {name: bins for name, bins in rows.items() if bins[0]["psnr"] is not None and name != TWIN}
    figure, axes = _new(9, 4)
    axis = axes[0, 0]
    place = np.arange(len(rows))
    curves = [[cell["psnr"]["mean"] for cell in bins] for bins in rows.values()]
    picked = {
        "first bin": [curve[0] for curve in curves],
        "worst bin": [min(curve) for curve in curves],
        "last bin": [curve[-1] for curve in curves],
    }
    for offset, (label, values) in enumerate(picked.items()):
        bars = axis.bar(place + 0.27 * (offset - 1), values, 0.25, label=label, color=_COLOURS[offset])
        axis.bar_label(bars, fmt="%.1f", fontsize=7)
    axis.set_xticks(place, [name.replace(" ", "\n", 1) for name in rows], fontsize=8)
    axis.set_ylabel("PSNR against the twin (dB)")
    figure.legend(loc="outside upper center", fontsize=8, ncols=3)
    return figure


def by_trajectory(report: Mapping[str, Any]) -> Figure:
    """Return PSNR against time for every trajectory: the world, the first frame repeated, the codec."""
    names = [report["world"], *(name for name in (REPEAT, CODEC, SHUFFLED) if name in report["baselines"])]
    style = _style(report)
    trajectories = report["trajectories"]
    columns = min(4, len(trajectories))
    figure, axes = _new(
        max(8, 3 * columns), 2.6 * -(-len(trajectories) // columns), -(-len(trajectories) // columns), columns
    )
    for axis in axes.flat[len(trajectories) :]:
        axis.set_axis_off()
    for axis, (trajectory, rows) in zip(axes.flat, trajectories.items(), strict=False):
        for name in names:
            values = [np.nan if cell["psnr"] is None else cell["psnr"]["mean"] for cell in rows[name]]
            axis.plot(_centres(rows[name]), values, label=name, **style[name])
        axis.set_title(trajectory, fontsize=9)
        axis.grid(alpha=0.25)
        axis.set_xlim(0, report["seconds"])
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, ncols=4)
    figure.supxlabel("time (s)", fontsize=9)
    figure.supylabel("PSNR (dB)", fontsize=9)
    return figure


def deviations(report: Mapping[str, Any]) -> Figure:
    """Return the signed z of the statistics over time, small multiples, and their root mean square."""
    rows = report["statistics"]
    names = [name for name in rows if name not in (TWIN, SHUFFLED)]
    style = _style(report)
    shown = (*_Z_SHOWN, "d_app")
    figure, axes = _new(10, 7, 3, 3)
    t = _centres(report["bins"])
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


def survival(report: Mapping[str, Any]) -> Figure:
    """Return the share of walks that are still useful against time (Kaplan-Meier)."""
    figure, axes = _new(7, 4)
    axis = axes[0, 0]
    rows = {name: found for name, found in report["horizon_h50"].items() if found is not None}
    rows = {name: found for name, found in rows.items() if name not in (TWIN, CODEC, REPEAT)}
    style = _style(report)
    for name, found in rows.items():
        t, alive = found["curve"]["t"], found["curve"]["alive"]
        median = found["median_s"]
        text = "not reached" if median is None else f"{median:.1f} s"
        axis.step(
            [*t, report["seconds"]],
            [*alive, alive[-1]],
            where="post",
            label=f"{name}: H50 {text}",
            **style[name],
        )
    axis.set_ylim(0, 1.02)
    axis.set_xlim(0, report["seconds"])
    axis.set_xlabel("time (s)")
    axis.set_ylabel("share of walks with skill above 0.5")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    return figure


def revisits(report: Mapping[str, Any]) -> Figure:
    """Return memory (left) and correctness (right) of revisited views against the time between the visits."""
    figure, axes = _new(10, 4, 1, 2)
    rows = {
        name: found for name, found in report["revisit"].items() if name not in (TWIN, SHUFFLED) and found
    }
    style = _style(report)
    for axis, key, title in (
        (axes[0, 0], "memory", "memory: PSNR to itself minus control (dB)"),
        (axes[0, 1], "truth", "correctness: PSNR to the twin (dB)"),
    ):
        for name, found in rows.items():
            points = [(cell["gap_s"], cell[key]) for cell in found if cell[key] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **style[name])
        axis.set_xlabel("time between the visits (s)")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", fontsize=8, ncols=4)
    return figure


def top_down(report: Mapping[str, Any], walks: Sequence[Mapping[str, Any]]) -> Figure:
    """Return commanded and realised paths seen from above, four walks a row."""
    columns = 4
    lines = max(1, -(-len(walks) // columns))
    figure, axes = _new(11, 2.9 * lines, lines, columns)
    for axis in axes.flat[len(walks) :]:
        axis.set_axis_off()
    for axis, one in zip(axes.flat, walks, strict=False):
        asked, got = np.array(one["commanded"]), np.array(one["realised"])
        axis.plot(*asked.T, color="black", linewidth=2.5, alpha=0.4, label="commanded")
        axis.plot(*got.T, color=_COLOURS[1], linewidth=1.2, label="realised")
        gone = np.array(one["lost"])
        axis.plot(*got[gone].T, "x", color="black", markersize=4, label="lost: as commanded")
        axis.plot(*got[-1], marker="o", markersize=4, color=_COLOURS[1])
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_title(f"{one['trajectory']}, scene {one['scene']}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    axes.flat[0].legend(fontsize=7)
    figure.supxlabel("right (m)", fontsize=9)
    figure.supylabel("forward (m)", fontsize=9)
    return figure


def filmstrip(report: Mapping[str, Any], trajectory: str, film: Mapping[str, np.ndarray]) -> Figure:
    """Return truth, generated frames and their error at seven times, one above the other."""
    index, frames = film["index"], film["frames"]
    lines = [("generated", frames)]
    if "truth" in film:
        error = np.abs(frames.astype(int) - film["truth"].astype(int)).mean(-1)
        lines = [("truth", film["truth"]), ("generated", frames), ("error", error)]
    figure, axes = _new(1.6 * len(index), 1.65 * len(lines) + 0.2, len(lines), len(index))
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
                axis.set_title(f"{index[column] / report['fps']:.1f} s", fontsize=9)
            if column == 0:
                axis.set_ylabel(label, fontsize=9)
    return figure


def telemetry(found: Mapping[str, Any]) -> Figure:
    """Return the memory of every GDN layer over the rollout: norm, half-life, recall, rank, state drift."""
    tables = {name: np.array(table, dtype=float)[..., 1] for name, table in found["quantities"].items()}
    panels = [
        ("log10 of the norm of S", np.log10(np.maximum(tables["norm"], 1e-9))),
        ("log10 of the half-life (s)", np.log10(tables["half_life"] * found["seconds_per_chunk"])),
        ("recall of frame 0", tables["recall"]),
        ("retention by the decay gates", tables["retention"]),
        ("stable rank", tables["stable_rank"]),
        ("|S - S*| / |S*|, S* fed with the truth", np.array(found["state_drift"]["relative"], dtype=float)),
    ]
    figure, axes = _new(11, 7.5, 3, 2)
    seconds = len(tables["norm"]) * found["seconds_per_chunk"]
    for axis, (title, table) in zip(axes.flat, panels, strict=True):
        layers = table.shape[1]
        drawn = axis.imshow(table.T, aspect="auto", cmap="viridis", extent=(0, seconds, layers - 0.5, -0.5))
        figure.colorbar(drawn, ax=axis)
        axis.set_title(f"{title} (median over heads)", fontsize=9)
        axis.set_yticks(range(layers))
        axis.set_ylabel("GDN layer", fontsize=8)
    figure.supxlabel("time (s)", fontsize=9)
    return figure


def telemetry_curves(found: Mapping[str, Any]) -> Figure:
    """Return quantiles over heads of half-life, recall, norm and write ratio against time, a line a layer."""
    figure, axes = _new(11, 6, 2, 2)
    names = (
        ("half_life", "half-life of the decay gate (s)", found["seconds_per_chunk"]),
        ("recall", "recall of frame 0", 1.0),
        ("norm", "norm of S", 1.0),
        ("write_ratio", "write ratio", 1.0),
    )
    for axis, (name, title, scale) in zip(axes.flat, names, strict=True):
        table = np.array(found["quantities"][name], dtype=float) * scale  # (chunks, L, 3)
        t = (np.arange(len(table)) + 1) * found["seconds_per_chunk"]
        for layer in range(table.shape[1]):
            colour = _COLOURS[layer % len(_COLOURS)]
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


def _wrapped(text: str, width: int = 70) -> str:
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line += f"{word} "
    return "\n".join([*lines, line])

"""The figures of a transfer report. matplotlib is in the `bench` extra and imported only here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wm_env.agents.transfer.quantities import LEARNED, RANDOM, SIM, TRUE
from wm_env.agents.transfer.report import PolicyScore, TransferReport
from wm_env.bench.page import DPI
from wm_env.model.metrics.intervals import Band

matplotlib.use("Agg")

_COLOURS = {SIM: "#1f6fb4", TRUE: "#d9541e"}
Pick = Callable[[PolicyScore], Band]


def _new(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def scores(report: TransferReport) -> Figure:
    """Return success rate and return of every policy in both environments, with intervals."""
    roles = list(report.scores)
    figure, axes = _new(10, 0.6 + 0.55 * len(roles), 2)
    place = np.arange(len(roles))
    picked: tuple[tuple[Axes, Pick, str], ...] = (
        (axes[0], lambda cell: cell.success, "success rate"),
        (axes[1], lambda cell: cell.reward, "return"),
    )
    for axis, pick, title in picked:
        for shift, environment in ((-0.17, SIM), (0.17, TRUE)):
            cells = [pick(report.scores[role][environment]) for role in roles]
            means = np.array([_mean(cell) for cell in cells])
            spread = np.array(
                [
                    (0.0, 0.0) if cell.lo is None or cell.hi is None else (mean - cell.lo, cell.hi - mean)
                    for mean, cell in zip(means, cells, strict=True)
                ]
            )
            axis.barh(
                place + shift,
                means,
                0.32,
                xerr=spread.clip(0).T,
                color=_COLOURS[environment],
                label=environment,
                error_kw={"elinewidth": 1, "capsize": 2},
            )
        axis.set_yticks(place, roles if axis is axes[0] else [""] * len(roles), fontsize=9)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25, axis="x")
        axis.axvline(0, color="black", linewidth=0.6)
    axes[0].set_xlim(0, 1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", fontsize=9, ncols=2)
    return figure


def curves(report: TransferReport) -> Figure:
    """Return J in both environments against env steps, a panel for each world of training."""
    roles = list(report.curves)
    figure, axes = _new(10, 4, max(2, len(roles)))
    for axis, role in zip(axes, roles, strict=False):
        points = report.curves[role]
        steps = [point.env_steps for point in points]
        _line(axis, steps, [point.sim.reward for point in points], SIM)
        _line(axis, steps, [point.true.reward for point in points], TRUE)
        if RANDOM in report.scores:
            chance = _mean(report.scores[RANDOM][TRUE].reward)
            axis.axhline(chance, color="black", linewidth=0.8, linestyle=":", label=RANDOM)
        axis.set_title(role, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
        axis.set_xlabel("env steps of training")
        axis.set_ylabel("return")
        axis.grid(alpha=0.25)
    for axis in axes[len(roles) :]:
        axis.set_axis_off()
    _same_scale(axes[: len(roles)])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", fontsize=9, ncols=3)
    return figure


def horizons(report: TransferReport) -> Figure:
    """Return J^{0:H} in both environments (left) and their difference (right) against H."""
    figure, axes = _new(10, 3.8, 2)
    points = report.horizon
    steps = [point.steps for point in points]
    _line(axes[0], steps, [point.sim for point in points], SIM)
    _line(axes[0], steps, [point.true for point in points], TRUE)
    _line(axes[1], steps, [point.gap for point in points], "difference", "#2a9d55")
    axes[0].set_title(f"{LEARNED}: return until step H", fontsize=10)
    axes[1].set_title("G(H) = learned world minus twin", fontsize=10)
    axes[1].axhline(0, color="black", linewidth=0.6)
    for axis in axes:
        axis.set_xlabel("H (env steps)")
        axis.grid(alpha=0.25)
        axis.set_xlim(left=0)
    axes[0].legend(fontsize=9)
    return figure


def temperatures(report: TransferReport) -> Figure:
    """Return success and return in the learned world against its temperature, the twin's as a line."""
    figure, axes = _new(10, 3.8, 2)
    points = report.temperature
    temperature = [point.temperature for point in points]
    true = report.scores[LEARNED][TRUE]
    for axis, cells, truth, title in (
        (axes[0], [point.success for point in points], _mean(true.success), "success rate"),
        (axes[1], [point.reward for point in points], _mean(true.reward), "return"),
    ):
        _line(axis, temperature, cells, SIM)
        axis.axhline(truth, color=_COLOURS[TRUE], linestyle="--", label=TRUE)
        axis.set_title(f"{LEARNED}: {title}", fontsize=10)
        axis.set_xlabel("temperature of the learned world")
        axis.grid(alpha=0.25)
    axes[0].set_ylim(0, 1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", fontsize=9, ncols=2)
    return figure


def order(report: TransferReport) -> Figure:
    """Return true against simulated return, a point per policy and checkpoint, with the diagonal."""
    figure, axes = _new(5.2, 5)
    assert report.ranking is not None  # the page draws this figure only where there is one
    points = np.array(report.ranking.points)  # (n, 2): true, sim
    axis = axes[0]
    low, high = points.min() - 0.5, points.max() + 0.5
    axis.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle="--", label="equal")
    axis.plot(points[:, 1], points[:, 0], "o", markersize=5, color=_COLOURS[SIM], alpha=0.7)
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    axis.set_aspect("equal")
    axis.set_xlabel("return in the learned world")
    axis.set_ylabel("return in the twin")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)
    return figure


def _line(axis: Axes, x: list[Any], cells: list[Band], label: str, colour: str = "") -> None:
    colour = colour or _COLOURS[label]
    axis.plot(x, [_mean(cell) for cell in cells], marker="o", markersize=4, color=colour, label=label)
    known = [(cell.lo, cell.hi) for cell in cells if cell.lo is not None and cell.hi is not None]
    if len(known) == len(cells):
        lo, hi = np.array(known).T
        axis.fill_between(x, lo, hi, color=colour, alpha=0.15, linewidth=0)


def _mean(cell: Band) -> float:
    return float("nan") if cell.mean is None else cell.mean


def _same_scale(axes: list[Axes]) -> None:
    low = min(axis.get_ylim()[0] for axis in axes)
    high = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)

"""The sentence that a drift report begins with, computed from its numbers."""

from __future__ import annotations

from wm_env.bench.drift.columns import PSNR
from wm_env.bench.drift.report import DriftReport
from wm_env.bench.drift.rollouts import CODEC, REPEAT

ALPHA = 0.05  # of a clear difference, after Holm's correction


def verdict(report: DriftReport) -> str:
    """Return how a world does over the episode: from what to what, against no model and against its codec."""
    world, seconds = report.world, f"{report.seconds:g} s"
    if PSNR.name in report.nulls:
        moved = report.statistics[world]["d_app"][-1]
        far = "by an unknown amount" if moved is None else f"by {moved:.1f} standard deviations"
        return (
            f"Nothing true to compare {world} with: over {seconds} the statistics of its pictures move {far} "
            f"from its own first {report.bins[0].t1:.1f} s."
        )
    shown = "" if report.settings.context == "none" else f", shown a {report.settings.context} before,"
    told = f"Over {seconds} {world}{shown} goes from {_ends(report, world)} against the truth"
    told += _over_nothing(report) + _below_codec(report) + "."
    horizon = report.horizon_h50[world]
    if horizon is not None:
        lasts = "to the end and longer" if horizon.median_s is None else f"for {horizon.median_s:.1f} s"
        told += f" Half of its walks stay above half of what the codec allows (H50) {lasts}."
    return told


def averaged(report: DriftReport) -> str:
    """Return what the averages of a report are taken over, "" where that is every walk."""
    if not report.standing:
        return ""
    still = ", ".join(report.standing)
    if len(report.standing) == len(report.trajectories):
        return f"The camera stands still on every walk ({still}): a repeated frame cannot be beaten here."
    return (
        f"Averages are over walks whose camera moves. Where it stands still ({still}) a repeated frame equals"
        " the truth, 100 dB: those walks have a table of their own."
    )


def _ends(report: DriftReport, row: str) -> str:
    first, last = (report.rows()[row][k].mean(PSNR) for k in (0, -1))
    return " to ".join("-" if value is None else f"{value:.1f}" for value in (first, last)) + " dB"


def _over_nothing(report: DriftReport) -> str:
    if REPEAT not in report.gain_over or len(report.standing) == len(report.trajectories):
        return ""
    gains = report.gain_over[REPEAT]
    above = sum(cell.mean is not None and cell.mean > 0 for cell in gains)
    clear = [cell.mean or 0.0 for cell in gains if cell.p_holm is not None and cell.p_holm < ALPHA]
    where = f"above a repeated first frame in {above} of {len(gains)} bins"
    if all(cell.p_holm is None for cell in gains):
        surely = "n too small to say how surely"
    else:
        surely = f"clearly in {sum(gain > 0 for gain in clear)}"
        below = sum(gain < 0 for gain in clear)
        surely += f", clearly below in {below}" if below else ""
    return f", {where} ({surely}; {_ends(report, REPEAT)})"


def _below_codec(report: DriftReport) -> str:
    return f"; its codec alone would reach {_ends(report, CODEC)}" if CODEC in report.baselines else ""

"""A trust report as values, and as Markdown that leads with the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from wm_env.bench.page import markdown_end, number
from wm_env.bench.provenance import Report, provenance_lines
from wm_env.bench.records import Record
from wm_env.bench.trust.settings import TrustSettings
from wm_env.bench.trust.violations import EVENTS, FIRST_FIVE
from wm_env.model.metrics.forecasts import Bin
from wm_env.model.metrics.intervals import Band

WORDS = ("[95%]", "AUROC", "Brier skill", "context", "ECE", "paired", "surprise", "trust", "twin")
WANTED = {"auroc": 0.75, "gain": 0.05, "skill": 0.2, "ece": 0.05, "surprise": 0.9, "overhead": 5.0}


@dataclass(frozen=True, kw_only=True)
class Horizon(Record):
    """Steps first .. last: share of frames within the bound, AUROC of trust and of the best baseline."""

    first: int
    last: int
    within: float
    auroc: float | None
    baseline: float | None


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """One split and context, or all contexts of a split; intervals resample scenes.

    walks, frames: how many. within: share of frames within the bound. skill, ece: of the probability. auroc:
    for "error above the median of its steps", mean over horizons. baselines: the same of one number alone.
    gain: over the best of them, paired. bins: the reliability diagram. horizons: by steps.
    """

    walks: int
    frames: int
    within: float
    skill: Band
    ece: float
    auroc: Band
    baselines: dict[str, float | None]
    gain: Band
    bins: tuple[Bin, ...]
    horizons: tuple[Horizon, ...]


@dataclass(frozen=True, kw_only=True)
class Truncation(Record):
    """Walks that end where trust falls below `least`, beside walks that all end after as many steps.

    kept: share of frames kept. trusted, fixed: their mean error. gain: fixed minus trusted, scenes resampled.
    """

    least: float
    kept: float
    trusted: float
    fixed: float
    gain: Band


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """One kind of violation: pairs of films, and the AUROC of surprise against the controls."""

    films: int
    auroc: Band
    control: float
    event: float


@dataclass(frozen=True, kw_only=True)
class TrustReport(Report):
    """The whole of `trust-WORLD.json`. appearance, place: rows by "split" and "split, context"; place is
    empty where it is not calibrated. truncation: of the held-out split, by the least trust. surprise: by
    event. calibration_sha256: of its numbers. overhead_percent: what signals add to a step. figure: name of
    the file with the reliability diagram, beside the page."""

    settings: TrustSettings
    calibration_sha256: str
    bound: float
    place_bound: float | None
    appearance: dict[str, Row]
    place: dict[str, Row]
    truncation: tuple[Truncation, ...]
    surprise: dict[str, Event]
    overhead_percent: float
    figure: str


def main_row(report: TrustReport) -> Row:
    """Return the row that is judged: all contexts of the last split."""
    return report.appearance[report.settings.splits[-1]]


def verdict(report: TrustReport) -> str:
    """Return whether the trust of a world can be trusted, in a few sentences."""
    row = main_row(report)
    best = max((value for value in row.baselines.values() if value is not None), default=None)
    said = (
        f"Of two frames of `{report.world}` at like steps of {report.settings.splits[-1]} scenes, trust "
        f"picks the worse one {number(row.auroc.mean)} of the time (AUROC; the best single number "
        f"{number(best)}); its probabilities are worth {number(row.skill.mean)} of Brier skill and are off "
        f"by {number(row.ece)} on average."
    )
    cuts = report.truncation
    if cuts:
        cut = cuts[len(cuts) // 2]
        sure = cut.gain.lo is not None and cut.gain.lo > 0
        said += (
            f" Truncated at trust {cut.least:g}, frames are {number(cut.trusted, 1)} grey levels off instead "
            f"of {number(cut.fixed, 1)} at a fixed step that keeps as many"
            f"{'' if sure else ', which may be chance'}."
        )
    known = [report.surprise[name].auroc.mean for name in FIRST_FIVE if name in report.surprise]
    means = [value for value in known if value is not None]
    if means:
        said += f" Events are told from controls by surprise with AUROC {min(means):.2f} to {max(means):.2f}."
    missed = shortfalls(report)
    return said + (f" Short of what was wanted: {'; '.join(missed)}." if missed else "")


def shortfalls(report: TrustReport) -> list[str]:
    """Return what is worse than `WANTED`, each with its number."""
    row, missed = main_row(report), []
    for name, told, value in (
        ("auroc", "AUROC", row.auroc.mean),
        ("gain", "gain over the best single number", row.gain.mean),
        ("skill", "Brier skill", row.skill.mean),
    ):
        if value is None or value < WANTED[name]:
            missed.append(f"{told} {number(value)} (wanted {WANTED[name]:g})")
    if row.ece > WANTED["ece"]:
        missed.append(f"ECE {number(row.ece)} (wanted {WANTED['ece']:g})")
    for name in FIRST_FIVE:
        if name in report.surprise:
            value = report.surprise[name].auroc.mean
            if value is None or value < WANTED["surprise"]:
                missed.append(f"surprise at {name.replace('_', ' ')} {number(value)}")
    if report.overhead_percent > WANTED["overhead"]:
        missed.append(f"signals cost {report.overhead_percent:.1f}% of a step (wanted 5)")
    return missed


def markdown(report: TrustReport) -> str:
    """Return the report as Markdown."""
    lines = [f"# How far `{report.world}` can be trusted", "", f"**{verdict(report)}**", ""]
    unit = f"RMS error of at most {report.bound:g} grey levels"
    lines += [f"## Appearance: {unit}", "", *_rows(report.appearance)]
    judged = main_row(report)
    lines += ["", f"![Reliability diagram]({report.figure})", ""]
    lines += ["Reliability, " + report.settings.splits[-1] + " scenes:", ""]
    lines += ["| said | was | frames |", "|---|---|---|"]
    lines += [f"| {one.forecast:.2f} | {one.happened:.2f} | {one.n} |" for one in judged.bins]
    lines += [
        "",
        "By step:",
        "",
        "| steps | within the bound | AUROC | best single number |",
        "|---|---|---|---|",
    ]
    for one in judged.horizons:
        lines.append(
            f"| {one.first} to {one.last} | {one.within:.2f} | {number(one.auroc)} | {number(one.baseline)} |"
        )
    if report.place:
        assert report.place_bound is not None
        lines += ["", f"## Place: mean |log depth| of at most {report.place_bound:g}", ""]
        lines += _rows(report.place)
    if report.truncation:
        lines += ["", "## Truncation by trust", ""]
        lines += [
            "| least trust | frames kept | error, by trust | error, fixed step | gain |",
            "|---|---|---|---|---|",
        ]
        for cut in report.truncation:
            errors = f"{cut.trusted:.1f} | {cut.fixed:.1f} | {cut.gain.text(1)}"
            lines.append(f"| {cut.least:g} | {cut.kept:.0%} | {errors} |")
    if report.surprise:
        lines += ["", "## Surprise, after a turn as context", ""]
        lines += ["| event | films | AUROC | surprise of controls | of events |", "|---|---|---|---|---|"]
        for name in EVENTS:
            if name in report.surprise:
                event = report.surprise[name]
                cells = (event.auroc.text(2), number(event.control, 1), number(event.event, 1))
                lines.append(f"| {name.replace('_', ' ')} | {event.films} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Signals cost {report.overhead_percent:.1f}% of a step. Single numbers are taken in the direction "
        "that suits them. Intervals: 95% bootstrap over scenes, or pairs of films.",
        "",
    ]
    return "\n".join([*lines, *markdown_end(report.settings, provenance_lines(report), WORDS)])


def _rows(rows: dict[str, Row]) -> list[str]:
    names = list(next(iter(rows.values())).baselines)
    titles = ["scenes", "walks", "within", "Brier skill", "ECE", "AUROC", *names, "gain over the best"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for name, row in rows.items():
        cells = [name, str(row.walks), f"{row.within:.2f}", row.skill.text(2), f"{row.ece:.3f}"]
        cells += [row.auroc.text(2), *(number(value) for value in row.baselines.values()), row.gain.text(2)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines

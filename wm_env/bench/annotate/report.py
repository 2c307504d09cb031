"""A report on annotations as values, as a sentence, and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from wm_env.bench.annotate.rows import AnnotateSettings
from wm_env.bench.page import markdown_end, number
from wm_env.bench.provenance import Report, provenance_lines
from wm_env.bench.records import Record
from wm_env.model.metrics.intervals import Band

WORDS = ("[95%]", "twin")
SOURCES = ("known distance", "camera height", "depth network")


@dataclass(frozen=True, kw_only=True)
class KindRow(Record):
    """The films of one kind; errors are those of each film's median frame, then the mean over films.

    films: how many. accepted: written as clips. rotation_only: said to turn on the spot. placed: films of
    which at least 90% of the frames have a pose in one run. wrong: accepted films whose poses are wrong.
    rotation: degrees. translation: of the way over half a second, as a share of it. ate: root mean square of
    the places over the path. focal: share. scale: share, by source. seconds, cpu: a frame, of waiting and of
    computing.
    """

    films: int
    accepted: int
    rotation_only: int
    placed: int
    wrong: int
    rotation: Band
    translation: Band
    ate: Band
    focal: Band
    scale: dict[str, Band]
    seconds: Band
    cpu: Band


@dataclass(frozen=True, kw_only=True)
class WrongRow(Record):
    """Tracks with one fault: how many, and who refused them; accepted: nobody did."""

    tracks: int
    filters: int
    clip: int
    check: int
    accepted: int


@dataclass(frozen=True, kw_only=True)
class AnnotateReport(Report):
    """The whole of `annotate.json`.

    rows: by kind of film. true: the true poses, judged like the wrong ones, "accepted" is right. wrong: by
    fault. machine_minutes: that all of it took.
    """

    settings: AnnotateSettings
    rows: dict[str, KindRow]
    true: WrongRow
    wrong: dict[str, WrongRow]
    machine_minutes: float


def verdict(report: AnnotateReport) -> str:
    """Return how well poses are found, in one sentence."""
    moving = [row for name, row in report.rows.items() if name in ("walk", "turns")]
    films, placed = sum(row.films for row in moving), sum(row.placed for row in moving)
    bad = sum(row.wrong for row in report.rows.values())
    tracks = sum(row.tracks for row in report.wrong.values())
    through = sum(row.accepted for row in report.wrong.values())
    first = moving[0]
    return (
        f"Of {films} rendered films with parallax and texture {placed} are placed to 90%; on walks rotations "
        f"are off by {number(first.rotation.mean)} degrees, places by {number(_percent(first.ate.mean))}% of "
        f"the path, the focal length by {number(_percent(first.focal.mean))}%; {bad} accepted clips are "
        f"wrong, and {through} of {tracks} tracks made wrong on purpose pass."
    )


def markdown(report: AnnotateReport) -> str:
    """Return the report as Markdown: the verdict, the tables, where the numbers come from."""
    titles = ["films", "n", "placed to 90%", "accepted", "turn only", "accepted and wrong", "rotation (deg)"]
    titles += ["way over 0.5 s (%)", "ATE / path (%)", "focal (%)", "s a frame", "CPU s a frame"]
    lines = [
        "# Poses that `wm-env annotate` finds",
        "",
        f"**{verdict(report)}**",
        "",
        "| " + " | ".join(titles) + " |",
        "|---|" + "---:|" * (len(titles) - 1),
    ]
    for name, row in report.rows.items():
        counts = [row.films, row.placed, row.accepted, row.rotation_only, row.wrong]
        cells = [name, *(str(one) for one in counts), row.rotation.text(2)]
        cells += [_times(one, 100).text(2) for one in (row.translation, row.ate, row.focal)]
        lines.append("| " + " | ".join([*cells, row.seconds.text(2), row.cpu.text(2)]) + " |")
    lines += ["", "| scale off by (%) | " + " | ".join(SOURCES) + " |", "|---|" + "---:|" * len(SOURCES)]
    for name, row in report.rows.items():
        if row.scale["camera height"].n or row.scale["known distance"].n:
            told = [f"{_times(row.scale[one], 100).text(1)}, n={row.scale[one].n}" for one in SOURCES]
            lines.append(f"| {name} | " + " | ".join(told) + " |")
    lines += ["", "| tracks | n | refused by filters | by `PosedClip` | by context check | accepted |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, judged in {"true": report.true, **report.wrong}.items():
        counts = [judged.tracks, judged.filters, judged.clip, judged.check, judged.accepted]
        lines.append(f"| {name} | " + " | ".join(str(one) for one in counts) + " |")
    lines += ["", f"{report.machine_minutes:.0f} machine-minutes. ![errors by kind](annotate.png)", ""]
    return "\n".join([*lines, *markdown_end(report.settings, provenance_lines(report), WORDS)])


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _times(one: Band, factor: float) -> Band:
    scaled = [None if value is None else factor * value for value in one[:3]]
    return Band(scaled[0], scaled[1], scaled[2], one.n)

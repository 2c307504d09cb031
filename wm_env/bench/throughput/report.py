"""A throughput report as values, and as Markdown tables."""

from __future__ import annotations

from dataclasses import dataclass

from wm_env.bench.page import markdown_end
from wm_env.bench.provenance import Report
from wm_env.bench.records import Record
from wm_env.bench.throughput.rows import PARTS, ThroughputSettings


@dataclass(frozen=True, kw_only=True)
class Rate(Record):
    """One world at one batch size: rates over the median step, times in ms, `split_ms` by part."""

    world: str
    batch: int
    steps: int
    step_p50_ms: float
    step_p95_ms: float
    env_steps_per_s: float
    frames_per_s: float
    first_step_ms: float
    reset_ms: float
    split_ms: dict[str, float]
    state_mib: float

    def cells(self) -> list[str]:
        """Return the row of the table."""
        numbers = (
            *(self.frames_per_s, self.env_steps_per_s, self.step_p50_ms, self.step_p95_ms),
            *(self.first_step_ms, self.reset_ms, *(self.split_ms[part] for part in PARTS)),
        )
        return [self.world, str(self.batch), *(f"{x:.1f}" for x in numbers), f"{self.state_mib:.2f}"]


@dataclass(frozen=True, kw_only=True)
class Slope(Record):
    """How step time changes with the episode's length, with its 95% interval, fitted through `blocks`."""

    percent_per_1000_steps: float
    lo: float
    hi: float
    blocks: int


@dataclass(frozen=True, kw_only=True)
class LengthTest(Slope):
    """The same with the steps of the episode, its state's size and its median step."""

    steps: int
    state_bytes_first: float
    state_bytes_last: float
    step_p50_ms: float


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """What was timed: rates, the length test by world, and the largest memory of the run, MiB."""

    rows: tuple[Rate, ...]
    length: dict[str, LengthTest]
    peak_rss_mib: float | None
    gpu_peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class Head(Report):
    """What is said before the numbers."""

    weights: dict[str, str | None]
    settings: ThroughputSettings


@dataclass(frozen=True, kw_only=True)
class ThroughputReport(Measured, Head):
    """The whole of `throughput.json`."""


WORDS = ("env step", "frames/s", "p50, p95")


def verdict(report: ThroughputReport) -> str:
    """Return how fast every world is, alone and with most slots, and whether an episode's length matters."""
    told = []
    for world in dict.fromkeys(row.world for row in report.rows):
        rows = sorted((row for row in report.rows if row.world == world), key=lambda row: row.batch)
        rates = [
            f"{row.frames_per_s:.1f} frames/s in {row.batch} slot{'s' * (row.batch > 1)}" for row in rows
        ]
        ends = rates[:1] if len(rates) == 1 else [rates[0], rates[-1]]
        text = f"`{world}` makes {' and '.join(ends)}"
        if world in report.length:
            text += f"; {_by_length(report.length[world])}"
        told.append(text)
    return ". ".join(told) + "."


def _by_length(found: LengthTest) -> str:
    span = f"({found.percent_per_1000_steps:+.2f}% per 1000 steps [{found.lo:.2f}, {found.hi:.2f}])"
    if found.lo <= 0 <= found.hi:
        return f"over {found.steps} steps a step becomes neither slower nor faster {span}"
    return f"over {found.steps} steps a step becomes {'slower' if found.lo > 0 else 'faster'} {span}"


def markdown(report: ThroughputReport) -> str:
    """Return the report as Markdown: the verdict, the table, and folded how it was measured."""
    titles = (
        *("world", "envs", "frames/s", "env steps/s", "p50 ms", "p95 ms", "first step ms", "reset ms"),
        *(f"{part} ms" for part in PARTS),
        "state MiB",
    )
    measured = [
        f"{report.date}, {report.hardware}, {report.threads} thread(s), torch {report.torch}.",
        "",
        *(f"Weights of `{name}`: sha256 `{digest or 'none'}`." for name, digest in report.weights.items()),
        "",
        f"    {report.command}",
        "",
    ]
    lines = ["# Throughput", "", f"**{verdict(report)}**", ""]
    lines += ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in report.rows]
    if report.peak_rss_mib is not None:
        lines += ["", f"Peak resident memory of the whole run {report.peak_rss_mib:.0f} MiB.", ""]
    for world, found in report.length.items():
        lines.append(
            f"`{world}`, {found.steps} steps against a freshly reset environment in the same loop: step "
            f"time changes by {found.percent_per_1000_steps:.2f}% per 1000 steps "
            f"[{found.lo:.2f}, {found.hi:.2f}]; state {found.state_bytes_first / 2**20:.2f} MiB at "
            f"first, {found.state_bytes_last / 2**20:.2f} MiB at the end."
        )
    return "\n".join([*lines, "", *markdown_end(report.settings, measured, WORDS)])

"""A fidelity report as values, and as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wm_env.bench.fidelity.imagination_report import Imagination, imagination_lines
from wm_env.bench.fidelity.rows import FidelitySettings
from wm_env.bench.page import markdown_end
from wm_env.bench.provenance import Report, provenance_lines
from wm_env.bench.records import Record
from wm_env.model.metrics.intervals import Band


@dataclass(frozen=True, kw_only=True)
class View(Record):
    """PSNR (dB) of a view after turning away and coming back: against the renderer, and the world's own."""

    truth: Band
    itself: Band


@dataclass(frozen=True, kw_only=True)
class Appearance(Record):
    """Statistics of long rollouts over the truth's (1 = equal), and the share of frozen frames."""

    luma: Band
    contrast: Band
    saturation: Band
    freeze: Band

    def rows(self) -> dict[str, Band]:
        """Return the values by name."""
        return {
            "luma": self.luma,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "freeze": self.freeze,
        }


@dataclass(frozen=True, kw_only=True)
class Shown(Record):
    """Pixels that a context has shown, by horizon: PSNR (dB) on them, and their share of the view."""

    psnr: dict[str, Band]
    share: dict[str, Band]


@dataclass(frozen=True, kw_only=True)
class Split(Record):
    """The numbers of one split.

    psnr, gain_over: dB by row and horizon (pixel frames, as text). look_away: by test, then row or
    difference of rows. shown: by context. imagination: None in reports from before it was measured.
    """

    psnr: dict[str, dict[str, Band]]
    gain_over: dict[str, dict[str, Band]]
    look_away: dict[str, dict[str, View]]
    appearance: Appearance
    shown: dict[str, Shown] = field(default_factory=dict)
    imagination: Imagination | None = None


@dataclass(frozen=True, kw_only=True)
class FidelityReport(Report):
    """The whole of `fidelity-WORLD.json`."""

    settings: FidelitySettings
    splits: dict[str, Split]


WORDS = (
    *("ablation", "codec alone", "context", "dB", "freeze", "look-away", "paired", "PSNR"),
    *("repeat first frame", "twin", "wrong actions", "[95%]"),
)
REPEAT, CODEC = "repeat first frame", "codec alone"


def verdict(report: FidelityReport) -> str:
    """Return how true the world's frames are by horizon, against no model and its codec, and after a turn."""
    world = report.world
    (first, found), *others = report.splits.items()
    frames = _listed(list(found.psnr[world]))
    own = _listed(_means(found.psnr[world]))
    told = f"`{world}` is at {own} dB against the truth {frames} frames after the start"
    if REPEAT in found.gain_over:
        gains = found.gain_over[REPEAT]
        clear = sum(band.lo is not None and band.lo > 0 for band in gains.values())
        told += f", {_against(gains, 'a repeated first frame')} (clearly at {clear} of {len(gains)})"
    if CODEC in found.gain_over:
        told += f", {_against(found.gain_over[CODEC], 'its codec')}"
    beside = [f"; {split}: {_listed(_means(one.psnr[world]))} dB" for split, one in others]
    told += f" ({first}{''.join(beside)})."
    views = {split: one.look_away.get("full_turn", {}).get(world) for split, one in report.splits.items()}
    turned = [
        f"{view.itself.mean:.1f} dB ({split})"
        for split, view in views.items()
        if view is not None and view.itself.mean is not None
    ]
    return f"{told} After a full turn a view is at {_listed(turned)} to what it was." if turned else told


def _against(gains: Mapping[str, Band], what: str) -> str:
    """Return by how much the world is above or below a row."""
    known = [band.mean for band in gains.values() if band.mean is not None]
    if not known or (min(known) < 0 < max(known)):
        return f"{_listed(_means(gains, '+.1f'))} dB over {what}"
    side = "above" if max(known) > 0 else "below"
    return f"{_listed([text.lstrip('-') for text in _means(gains)])} dB {side} {what}"


def _means(bands: Mapping[str, Band], form: str = ".1f") -> list[str]:
    return ["-" if band.mean is None else f"{band.mean:{form}}" for band in bands.values()]


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def markdown(report: FidelityReport) -> str:
    """Return the report as Markdown: the verdict, the tables, and folded how it was measured."""
    settings = report.settings
    lines = [
        f"# Fidelity of `{report.world}`",
        "",
        f"**{verdict(report)}**",
        "",
        f"{settings.scenes} scenes a split. Intervals: 95% bootstrap over scenes.",
        "",
    ]
    for split, found in report.splits.items():
        horizons = list(next(iter(found.psnr.values())))
        titles = ["row", *(f"frame {h}" for h in horizons)]
        lines += [f"## {split}: PSNR (dB) against the twin", "", *_table(titles, found.psnr, 2), ""]
        lines += [f"### {split}: gain of the world over each row (dB, paired)", ""]
        lines += [*_table(titles, found.gain_over, 2), ""]
        if found.shown:
            lines += [
                f"### {split}: after a context, PSNR (dB) on the pixels that it has shown, and their share",
                "",
                *_table(titles, {name: one.psnr for name, one in found.shown.items()}, 2),
                "",
                *_table(titles, {name: one.share for name, one in found.shown.items()}, 2),
                "",
            ]
        for test, seen in found.look_away.items():
            views = {row: {"truth": one.truth, "itself": one.itself} for row, one in seen.items()}
            around = test == "full_turn"
            steps = settings.lead_steps if around else test.removeprefix("lead_")
            turned = "once around" if around else f"away for {settings.look_steps} steps and back"
            lines += [
                f"### {split}: PSNR (dB) of the view after turning {turned}, "
                f"{steps} steps forward beforehand",
                "",
                *_table(["row", "against the twin", "against itself before"], views, 2),
                "",
            ]
        statistics = {key: {"": value} for key, value in found.appearance.rows().items()}
        lines += [
            f"### {split}: last quarter of {settings.long_steps} steps, ratio to the twin (freeze: share)",
            "",
            *_table(["statistic", "value"], statistics, 3),
            "",
        ]
        if found.imagination is not None:
            lines += imagination_lines(split, found.imagination)
    return "\n".join([*lines, *markdown_end(settings, provenance_lines(report), WORDS)])


def _table(titles: Sequence[str], rows: Mapping[str, Mapping[str, Band]], digits: int) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row, cells in rows.items():
        texts = [cell.text(digits) for cell in cells.values()]
        lines.append("| " + " | ".join([row, *texts]) + " |")
    return lines

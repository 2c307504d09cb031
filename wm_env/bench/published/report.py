"""The published protocol's report as values; what upstream's evaluators wrote stays as they wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wm_env.bench.page import markdown_end
from wm_env.bench.published.table import Scores, comparison
from wm_env.bench.records import Record


@dataclass(frozen=True, kw_only=True)
class PairScore(Record):
    """PSNR (dB) and SSIM of two frames of nearly equal commanded pose."""

    frame_a: int
    frame_b: int
    psnr: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Mean(Record):
    """Means over pairs or scenes, None without any."""

    psnr: float | None
    ssim: float | None


@dataclass(frozen=True, kw_only=True)
class Overall(Mean):
    """The mean over all pairs; lpips: None, see `lpips_reason`."""

    lpips: float | None
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Revisits(Record):
    """The whole of `revisit_consistency.json`; unreadable: why a scene's video was not scored."""

    overall: Overall
    per_category: dict[str, Mean]
    per_scene: dict[str, tuple[PairScore, ...]]
    unreadable: dict[str, str]
    lpips_reason: str
    ssim_variant: str


@dataclass(frozen=True, kw_only=True)
class Info(Record):
    """The whole of `method_info.json`; resolution: height and width in pixels. refiner: a latent refiner that
    leaves frame 0 as the input image, None without one."""

    method: str
    weights_sha256: str | None
    fps: int
    resolution: tuple[int, ...]
    seed: int
    refiner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """What became of every split: counts of videos, problems by scene, evaluations, and why some are null.

    scores: ours by split, under the names of the published table, which is in `published`.
    """

    videos: dict[str, int]
    problems: dict[str, dict[str, str]]
    drops_first_frame: bool
    evaluations: dict[str, dict[str, Any]]
    poses: dict[str, Any]
    nulls: dict[str, str]
    scores: dict[str, Scores] = field(default_factory=dict)
    published: dict[str, dict[str, Scores]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Named(Record):
    """The benchmark's name, which opens the report."""

    benchmark: str


@dataclass(frozen=True, kw_only=True)
class PublishedReport(Outcome, Info, Named):
    """The whole of `report.json`."""


WORDS = ("dB", "PSNR", "revisit")


def verdict(report: PublishedReport) -> str:
    """Return how many scenes were filmed, how views come back, and what upstream has not scored yet."""
    told = []
    for split, count in report.videos.items():
        overall = _overall(report, split)
        psnr, ssim = overall.get("psnr"), overall.get("ssim")
        seen = f"{overall.get('pairs', 0)} revisits" if psnr is not None else "no revisit scored"
        scores = "" if psnr is None or ssim is None else f" at PSNR {psnr:.1f} dB, SSIM {ssim:.3f}"
        told.append(f"{split}: {count} videos of {report.method}, {seen}{scores}")
    odd = sum(len(found) for found in report.problems.values())
    problems = f" {odd} scene{'s' * (odd > 1)} could not be used." if odd else ""
    left = len(report.nulls)
    missing = f" Upstream's evaluators have still to score {left} part{'s' * (left > 1)}." if left else ""
    return "; ".join(told) + "." + problems + missing


def markdown(report: PublishedReport) -> str:
    """Return the report as Markdown: the verdict, revisits by split, problems, and how it was measured."""
    lines = ["# Published protocol", "", f"**{verdict(report)}**", ""]
    lines += ["| split | videos | revisits | PSNR (dB) | SSIM |", "|---|---|---|---|---|"]
    for split, count in report.videos.items():
        overall = _overall(report, split)
        cells = [
            str(overall.get("pairs", 0)),
            _number(overall.get("psnr"), 2),
            _number(overall.get("ssim"), 3),
        ]
        lines.append("| " + " | ".join([split, str(count), *cells]) + " |")
    lines.append("")
    for split, ours in report.scores.items():
        lines += [*comparison(split, report.method, ours), ""]
    for split, found in report.problems.items():
        lines += [f"- {split}/{name}: {why}" for name, why in found.items()]
    lines += [f"- `{name}` is missing: {why}" for name, why in report.nulls.items()]
    measured = [
        f"World `{report.method}`, weights sha256 `{report.weights_sha256 or 'none'}`, "
        f"{report.resolution[0]}x{report.resolution[1]} at {report.fps} fps.",
        "",
    ]
    settings = {"seed": report.seed, "drops_first_frame": report.drops_first_frame}
    return "\n".join([*lines, "", *markdown_end(settings, measured, WORDS)])


def _overall(report: PublishedReport, split: str) -> dict[str, Any]:
    """Return the means over all revisits of a split, {} where they were not scored."""
    found = report.evaluations.get(split, {}).get("revisit_consistency")
    return dict(found.get("overall") or {}) if isinstance(found, dict) else {}


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

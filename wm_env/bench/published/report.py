"""The published protocol's report as values; what upstream's evaluators wrote stays as they wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """The whole of `method_info.json`; resolution: height and width in pixels."""

    method: str
    weights_sha256: str | None
    fps: int
    resolution: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """What became of every split: counts of videos, problems by scene, evaluations, and why some are null."""

    videos: dict[str, int]
    problems: dict[str, dict[str, str]]
    drops_first_frame: bool
    evaluations: dict[str, dict[str, Any]]
    poses: dict[str, Any]
    nulls: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Named(Record):
    """The benchmark's name, which opens the report."""

    benchmark: str


@dataclass(frozen=True, kw_only=True)
class PublishedReport(Outcome, Info, Named):
    """The whole of `report.json`."""

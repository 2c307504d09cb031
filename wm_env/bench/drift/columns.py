"""The columns of the drift report: what every row has in every time bin, from the pixels to the page.

To add a column, add a `Column` to `COLUMNS`. It is then measured in every rollout, averaged over the walks,
written into `drift.json`, shown as a table of the page where it has a heading, and drawn where it names a
figure. Definitions: docs/reference/evaluation.md. Legend: `F` frames, `S` scenes, `K` noise seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.drift.bins import BINS, bin_means, bin_of
from wm_env.bench.drift.rollouts import CODEC, REPEAT
from wm_env.bench.drift.rows_table import Rows
from wm_env.bench.drift.survival import skill
from wm_env.model.metrics.appearance import colour_distance, histograms
from wm_env.model.metrics.images import psnr, ssim
from wm_env.model.metrics.intervals import band, mean_of
from wm_env.model.metrics.motion import frozen, motion_energy

SSIM_EVERY = 8
OVER_TIME, PLACE = "over_time", "place_and_picture"
CAPTIONS = {PLACE: "Wrong place or wrong picture, and the latents."}  # of figures that columns name


class Clip(NamedTuple):
    """One rollout: frames and truth uint8 `(1 + F, h, w, 3)`, the latter None where there is none."""

    frames: Tensor
    truth: Tensor | None


class View(NamedTuple):
    """The measured rows that a number is a mean of: one row name over some trajectories."""

    table: Rows
    name: str
    trajectories: tuple[str, ...]
    seed: int

    def values(self, *path: str, of: str | None = None) -> np.ndarray:
        """Return entry `path` of the row, or of row `of`, `(S, K, bins)`, NaN where absent."""
        return self.table.table(self.name if of is None else of, path, self.trajectories)


class Spread(NamedTuple):
    """A mean with its 95% interval, None where n is too small for one."""

    mean: float
    lo: float | None
    hi: float | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of every row and time bin.

    name: its key in `drift.json`. label, unit: what an axis says. measure: its value per bin of one rollout,
    kept in `rows.jsonl` under its name. path: where the rows hold it, for what is measured together with
    others. score: its value per bin where that is no mean over scenes. needs: what it cannot be measured
    without. interval: it is a mean with a 95% interval. heading, digits, note: of its table on the page, ""
    for none. figure: file stem of the figure it has a panel in, "" for none. since: version that added it;
    files of earlier ones lack it. follows: where it is null another column is, for the reason in `nulls`.
    """

    name: str
    label: str
    unit: str = ""
    measure: Callable[[Clip], list[float]] | None = None
    path: tuple[str, ...] = ()
    score: Callable[[View], Sequence[float | None]] | None = None
    needs: Literal["frames", "truth", "poses"] = "frames"
    interval: bool = False
    heading: str = ""
    digits: int = 2
    note: str = ""
    figure: str = ""
    since: str = ""
    follows: bool = False

    def axis(self) -> str:
        """Return the label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def of(self, view: View) -> list[float | Spread | None]:
        """Return the value of every bin."""
        if self.score is not None:
            return list(self.score(view))
        found = view.values(*(self.path or (self.name,)))
        if not self.interval:
            return [mean_of(found[..., k]) for k in range(BINS)]
        bands = [band(found[..., k], view.seed) for k in range(BINS)]
        return [None if one.mean is None else Spread(one.mean, one.lo, one.hi) for one in bands]


# Measured in a rollout


def _true(clip: Clip) -> Tensor:
    assert clip.truth is not None  # `measured` asks only for what can be measured
    return clip.truth


def _bins(clip: Clip) -> np.ndarray:
    return bin_of(len(clip.frames) - 1, BINS)


def psnr_by_bin(clip: Clip) -> list[float]:
    """Return the mean over frames of PSNR, dB."""
    return bin_means(psnr(clip.frames[1:], _true(clip)[1:]).numpy(), _bins(clip), BINS)


def _difference(clip: Clip) -> Tensor:
    return (clip.frames[1:].float() - _true(clip)[1:].float()).flatten(1)  # (F, h * w * 3)


def mse_by_bin(clip: Clip) -> list[float]:
    """Return the mean squared error, grey levels squared."""
    return bin_means(_difference(clip).square().mean(1).numpy(), _bins(clip), BINS)


def mae_by_bin(clip: Clip) -> list[float]:
    """Return the mean absolute error, grey levels."""
    return bin_means(_difference(clip).abs().mean(1).numpy(), _bins(clip), BINS)


def ssim_by_bin(clip: Clip) -> list[float]:
    """Return SSIM, mean over every eighth frame."""
    some = np.arange(1, len(clip.frames), SSIM_EVERY)
    return bin_means(ssim(clip.frames[some], _true(clip)[some]).numpy(), _bins(clip)[some - 1], BINS)


def freeze_by_bin(clip: Clip) -> list[float]:
    """Return the freeze index: share of frames that move less than a tenth of what they should.

    That is the truth's motion (where it moves at all), else the median of the clip's first bin.
    """
    where = _bins(clip)
    own = motion_energy(clip.frames).numpy()
    still = clip.truth is None
    wanted = np.full_like(own, np.median(own[where == 0])) if still else motion_energy(_true(clip)).numpy()
    return bin_means(frozen(own, wanted), where, BINS)


def colour_by_bin(clip: Clip) -> list[float]:
    """Return the distance of colour histograms to the truth's, or to the clip's own first bin."""
    where = torch.from_numpy(_bins(clip))
    own = [histograms(clip.frames[1:][where == k]) for k in range(BINS)]
    if clip.truth is None:
        return [colour_distance(table, own[0]) for table in own]
    true = [histograms(clip.truth[1:][where == k]) for k in range(BINS)]
    return [colour_distance(a, b) for a, b in zip(own, true, strict=True)]


# Made of other numbers


def skill_by_bin(view: View) -> list[float | None]:
    """Return the skill of the mean PSNRs over the walks where codec - repeat is at least 1 dB.

    Where the camera stands still the repeated frame is perfect and skill means nothing.
    """
    own, repeat, codec = (
        np.concatenate([view.table.family(row, ["psnr"], one).mean(1) for one in view.trajectories])
        for row in (view.name, REPEAT, CODEC)
    )  # (walks, bins)
    used = np.isfinite(own) & np.isfinite(skill(own, repeat, codec))
    walks = used.sum(0)
    means = [np.where(used, x, 0.0).sum(0) / np.maximum(walks, 1) for x in (own, repeat, codec)]
    return _known(np.where(walks > 0, skill(*means), np.nan))


def place_by_bin(view: View) -> list[float | None]:
    """Return what the wrong place costs, dB: PSNR at the estimated pose minus at the commanded one."""
    commanded, estimated = (_places(view, key) for key in ("psnr_commanded", "psnr_estimated"))
    return [
        None if there is None or here is None else there - here
        for here, there in zip(commanded, estimated, strict=True)
    ]


def picture_by_bin(view: View) -> list[float | None]:
    """Return what the wrong picture costs, dB: the codec's PSNR minus that at the estimated pose."""
    commanded, estimated = (_places(view, key) for key in ("psnr_commanded", "psnr_estimated"))
    flat = view.values("psnr", of=CODEC).reshape(-1, BINS)
    count = np.isfinite(flat).sum(0)
    codec = _known(np.where(count > 0, np.nansum(flat, 0) / np.maximum(count, 1), np.nan))
    return [
        None if here is None or there is None or best is None else best - there
        for here, there, best in zip(commanded, estimated, codec, strict=True)
    ]


def _places(view: View, key: str) -> list[float | None]:
    found = view.values("place", key)
    return [mean_of(found[..., k]) for k in range(BINS)]


def _known(values: np.ndarray) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in values]


PSNR = Column(
    name="psnr", label="PSNR against the twin", unit="dB", measure=psnr_by_bin, needs="truth",
    interval=True, figure=OVER_TIME,
)  # fmt: skip
SKILL = Column(
    name="skill", label="skill", score=skill_by_bin, needs="truth",
    heading="Skill (0: first frame repeated, 1: codec)",
    note="Over the walks whose codec is 1 dB or more above the repeated frame.",
)  # fmt: skip
ROTATION = Column(
    name="rot_err_deg", label="rotation error", unit="deg", path=("pose", "first", "rot_err_deg"),
    needs="poses", heading="Rotation error (deg), unaligned", figure=OVER_TIME,
)  # fmt: skip
TRANSLATION = Column(
    name="trans_err", label="translation error", unit="m", path=("pose", "first", "trans_err"),
    needs="poses", heading="Translation error (m), unaligned",
)  # fmt: skip
ROTATION_KNOWN = Column(
    name="rot_err_deg_known", label="rotation error, known views", unit="deg",
    path=("pose", "known", "rot_err_deg"), needs="poses", since="0.2", follows=True,
    heading="Rotation error (deg), unaligned, of known views",
    note="60% of the true view, or more, was shown before the walk; empty where no view was.",
)  # fmt: skip
TRANSLATION_KNOWN = Column(
    name="trans_err_known", label="translation error, known views", unit="m",
    path=("pose", "known", "trans_err"), needs="poses", since="0.2", follows=True,
    heading="Translation error (m), unaligned, of known views",
)  # fmt: skip
LOST = Column(
    name="lost_share",
    label="frames lost to the estimator",
    path=("pose", "lost_share"),
    needs="poses",
    follows=True,
)
GEO = Column(
    name="geo_db", label="wrong place: PSNR lost to the pose", unit="dB", score=place_by_bin, needs="poses",
    heading="Wrong place: PSNR lost to the pose (dB)", figure=PLACE, follows=True,
)  # fmt: skip
APP = Column(
    name="app_db", label="wrong picture: PSNR below the codec", unit="dB", score=picture_by_bin,
    needs="poses", heading="Wrong picture: PSNR below the codec at the estimated pose (dB)", figure=PLACE,
    follows=True,
)  # fmt: skip
LATENT_ERROR = Column(
    name="latent_error", label="latents: |z - z*| / |z*|", path=("latent", "error"), needs="truth",
    heading="Latent error |z - z*| / |z*|", digits=3, figure=PLACE, follows=True,
)  # fmt: skip
FREEZE = Column(name="freeze", label="freeze index", measure=freeze_by_bin, heading="Freeze index", digits=3)
MOTION = Column(
    name="motion", label="motion energy", unit="grey levels", path=("statistics", "motion"), figure=OVER_TIME
)

COLUMNS: tuple[Column, ...] = (
    PSNR,
    SKILL,
    ROTATION,
    TRANSLATION,
    ROTATION_KNOWN,
    TRANSLATION_KNOWN,
    Column(name="cammc", label="CamMC", path=("pose", "first", "cammc"), needs="poses", follows=True),
    Column(
        name="rot_err_deg_interval", label="rotation error", unit="deg", path=ROTATION.path, needs="poses",
        interval=True, follows=True,
    ),
    Column(
        name="rot_err_deg_upstream", label="rotation error, aligned", unit="deg",
        path=("pose", "upstream", "rot_err_deg"), needs="poses", follows=True,
    ),
    LOST,
    Column(name="ssim", label="SSIM", measure=ssim_by_bin, needs="truth"),
    Column(
        name="mse", label="mean squared error", unit="grey levels^2", measure=mse_by_bin, needs="truth"
    ),
    Column(name="mae", label="mean absolute error", unit="grey levels", measure=mae_by_bin, needs="truth"),
    GEO,
    APP,
    LATENT_ERROR,
    Column(
        name="latent_mean_shift", label="shift of latent means", path=("latent", "mean_shift"), needs="truth",
        follows=True,
    ),
    Column(
        name="latent_std_ratio", label="spread of latents", path=("latent", "std_ratio"), needs="truth",
        follows=True,
    ),
    FREEZE,
    Column(
        name="colour", label="distance of colour histograms", unit="grey levels", measure=colour_by_bin
    ),
    MOTION,
)  # fmt: skip


def measured(clip: Clip) -> dict[str, list[float]]:
    """Return what a row holds of every column that is measured in a rollout on its own."""
    return {
        column.name: column.measure(clip)
        for column in COLUMNS
        if column.measure is not None and (clip.truth is not None or column.needs == "frames")
    }


def scored(view: View, poses: bool) -> list[dict[str, float | Spread | None]]:
    """Return the values of all columns by name, one dict a bin; without `poses` what needs them is None."""
    nothing: list[float | Spread | None] = [None] * BINS
    found = {
        column.name: column.of(view) if poses or column.needs != "poses" else nothing for column in COLUMNS
    }
    return [{name: values[k] for name, values in found.items()} for k in range(BINS)]


def kinds() -> dict[str, Any]:
    """Return the type of every column's value in a report, by name."""
    return {column.name: Spread | None if column.interval else float | None for column in COLUMNS}


def younger() -> set[str]:
    """Return the names of the columns that reports of earlier versions may lack."""
    return {column.name for column in COLUMNS if column.since}


def explained(*needs: str) -> list[str]:
    """Return the names of the columns that need one of these and whose absence `nulls` explains."""
    return [column.name for column in COLUMNS if column.needs in needs and not column.follows]


def with_tables() -> list[Column]:
    """Return the columns that have a table on the page."""
    return [column for column in COLUMNS if column.heading]


def in_panels() -> dict[str, list[Column]]:
    """Return the columns of every figure with a panel a column, by the figure's file stem."""
    found: dict[str, list[Column]] = {}
    for column in COLUMNS:
        if column.figure and column.figure != OVER_TIME:
            found.setdefault(column.figure, []).append(column)
    return found


def caption(figure: str) -> str:
    """Return the caption of such a figure."""
    return CAPTIONS.get(figure, ", ".join(column.label for column in in_panels()[figure]).capitalize() + ".")

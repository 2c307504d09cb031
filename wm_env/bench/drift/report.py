"""A drift report as values: what `drift.json` and `telemetry.json` hold, read strictly and written.

What a row has in a time bin is not a field but a column: `wm_env.bench.drift.columns` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from wm_env.bench.drift.columns import Column, Spread, kinds, younger
from wm_env.bench.drift.pose_estimate import Gate
from wm_env.bench.drift.rollouts import DriftSettings
from wm_env.bench.provenance import Report
from wm_env.bench.records import Record, plain, read
from wm_env.model.metrics.intervals import Band


@dataclass(frozen=True)
class Bin(Record):
    """One row from t0 to t1 (seconds): the value of every column by name; n: scenes with a PSNR in it."""

    t0: float
    t1: float
    values: dict[str, float | Spread | None]
    n: int

    def spread(self, column: Column) -> Spread | None:
        """Return the mean and interval of a column that has one, None where it was not measured."""
        found = self.values.get(column.name)
        return found if isinstance(found, Spread) else None

    def mean(self, column: Column) -> float | None:
        """Return the number of a column, None where it was not measured."""
        found = self.values.get(column.name)
        return found.mean if isinstance(found, Spread) else found

    def to_json(self) -> dict[str, Any]:
        """Return the cell as JSON: a key per column between t1 and n."""
        return {"t0": self.t0, "t1": self.t1, **plain(self.values), "n": self.n}

    @classmethod
    def from_json(cls, found: Any, where: str = "bin") -> Self:
        """Return the cell; a column that is younger than the file may be missing."""
        wanted: dict[str, Any] = {"t0": float, "t1": float, **kinds(), "n": int}
        if not isinstance(found, dict):
            raise ValueError(f"{where} is no object with a key per column")
        for key in found:
            if key not in wanted:
                raise ValueError(f"{where} has an unknown key {key!r}; known are {', '.join(wanted)}")
        for key in wanted:
            if key not in found and key not in younger():
                raise ValueError(f"{where} lacks the key {key!r}")
        known = {
            key: read(kind, found[key], f"{where}.{key}") for key, kind in wanted.items() if key in found
        }
        t0, t1, n = known.pop("t0"), known.pop("t1"), known.pop("n")
        return cls(t0, t1, known, n)


Bins = tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class Gain(Record):
    """What the judged world gains over a row in a bin, dB, paired by scene.

    p: two-sided, of the bootstrap of the mean. p_holm: corrected for the bins looked at together.
    """

    mean: float | None
    lo: float | None
    hi: float | None
    n: int
    p: float | None
    p_holm: float | None

    def band(self) -> Band:
        """Return the gain with its interval."""
        return Band(self.mean, self.lo, self.hi, self.n)


@dataclass(frozen=True, kw_only=True)
class Growth(Record):
    """How PSNR falls: first minus last bin, worst and mean drop (dB), Theil-Sen slope (dB/s)."""

    first_minus_last: Band
    worst: Band
    auc: Band
    slope_db_per_s: Band


@dataclass(frozen=True, kw_only=True)
class Curve(Record):
    """A survival curve: from t[i] seconds on, the share alive[i] of walks is still useful."""

    t: tuple[float, ...]
    alive: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Horizon(Record):
    """The useful horizon H50 of a row; median_s: None where more than half of the walks stay useful."""

    median_s: float | None
    walks: int
    reached: int
    curve: Curve
    rule: str


@dataclass(frozen=True, kw_only=True)
class Revisit(Record):
    """PSNR (dB) of a view seen again after gap_s seconds: to itself, to a control, and to the truth."""

    gap_s: int
    pairs: int
    itself: float | None
    control: float | None
    memory: float | None
    truth: float | None


@dataclass(frozen=True, kw_only=True)
class HalfLife(Record):
    """The fit M(d) = M0 2^(-d / half-life) + c; at_bound: the memory outlasts what was walked."""

    half_life_s: float
    at_bound: bool
    M0_db: float
    c_db: float
    r2: float | None
    gaps: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Latency(Record):
    """By how many frames the picture follows the command, and the correlation at that lag."""

    frames: Band
    correlation: Band


@dataclass(frozen=True, kw_only=True)
class LoopClosure(Record):
    """How far a loop that should have closed has not: degrees, metres over metres walked."""

    deg: Band
    share_of_path: Band


@dataclass(frozen=True, kw_only=True)
class MotionGain(Record):
    """Realised over commanded motion by axis, None for an axis that was hardly moved."""

    diagonal: dict[str, float | None]
    matrix: tuple[tuple[float | None, ...], ...]
    meaning: str


@dataclass(frozen=True, kw_only=True)
class RunSettings(DriftSettings):
    """What was walked, and the name of the picture it started from, if any."""

    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class Head(Report):
    """What is said before the numbers: weights by world, settings, the length of walks and of training."""

    weights: dict[str, str | None]
    settings: RunSettings
    seconds: float
    trained_seconds: float
    fps: int
    conventions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Scores(Record):
    """The numbers of a report by row name; `nulls` says why what could not be measured is None.

    standing: trajectories whose camera stands still. They are in `trajectories` and in no other number (in
    reports of 0.1, which name none, they are in all).
    """

    bins: Bins
    baselines: dict[str, Bins]
    compared: tuple[str, ...]
    nulls: dict[str, str]
    gain_over: dict[str, tuple[Gain, ...]]
    trajectories: dict[str, dict[str, Bins]]
    growth: dict[str, Growth]
    statistics: dict[str, dict[str, tuple[float | None, ...]]]
    faults: dict[str, dict[str, float]]
    drift15: dict[str, dict[str, float | None]]
    horizon_h50: dict[str, Horizon | None]
    revisit: dict[str, tuple[Revisit, ...]]
    memory_half_life: dict[str, HalfLife | None]
    latency: dict[str, Latency]
    loop_closure: dict[str, dict[str, LoopClosure]] | None
    gain: dict[str, MotionGain | None] | None
    pose_gate: Gate | None
    standing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DriftReport(Scores, Head):
    """The whole of `drift.json`; cost: CPU-seconds per second of video by row."""

    cost: dict[str, float]

    def rows(self) -> dict[str, Bins]:
        """Return the bins of every row, the judged world first."""
        return {self.world: self.bins, **self.baselines}


@dataclass(frozen=True, kw_only=True)
class Telemetry(Record):
    """What the Gated DeltaNet memories do over a random walk: all of `telemetry.json`.

    quantities: by name, percentiles over walks and heads by chunk and layer. state_drift: medians by chunk
    and layer. next_bin: Spearman's rho of a quantity and the next bin's error, and the pairs it is made of.
    """

    walks: int
    seconds_per_chunk: float
    percentiles: tuple[int, ...]
    meaning: dict[str, str]
    quantities: dict[str, tuple[tuple[tuple[float | None, ...], ...], ...]]
    contraction_violations: float
    state_drift: dict[str, tuple[tuple[float | None, ...], ...]]
    next_bin: dict[str, int | float | None]


@dataclass(frozen=True, kw_only=True)
class Track:
    """A commanded and a realised path from above, (right, forward) metres; lost: where no pose was found."""

    world: str
    trajectory: str
    scene: int
    commanded: list[list[float]]
    realised: list[list[float]]
    lost: list[bool]

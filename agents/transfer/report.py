"""A transfer report as values: what `transfer.json` holds, read strictly and written."""

from __future__ import annotations

from dataclasses import dataclass

from wm_env.agents.transfer.settings import TransferSettings
from wm_env.bench.provenance import Report
from wm_env.bench.records import Record
from wm_env.model.metrics.intervals import Band


@dataclass(frozen=True, kw_only=True)
class PolicyScore(Record):
    """What a policy scores in an environment, over starts and training seeds; steps and metres are means."""

    episodes: int
    training_seeds: int
    success: Band
    reward: Band
    spl: Band
    soft_spl: Band
    steps: float
    distance: float | None
    collisions_per_metre: float | None


@dataclass(frozen=True, kw_only=True)
class HorizonPoint(Record):
    """The return until env step `steps` in both environments, and their difference."""

    steps: int
    sim: Band
    true: Band
    gap: Band


@dataclass(frozen=True, kw_only=True)
class ReplayBin(Record):
    """The same actions in both: gap of rewards, precision and recall of endings, None without any."""

    until_step: int
    reward_gap: float | None
    endings: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """Return and success rate."""

    reward: Band
    success: Band


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Record):
    """What the policies score in both environments after `env_steps` of training."""

    env_steps: int
    sim: Scored
    true: Scored


@dataclass(frozen=True, kw_only=True)
class TemperaturePoint(Record):
    """What the policy trained in the learned world scores there at a temperature."""

    temperature: float
    reward: Band
    success: Band


@dataclass(frozen=True, kw_only=True)
class SeedScores(Record):
    """The interquartile mean of success over training seeds, and the chance to beat the blind agent."""

    success_in_twin: dict[str, Band]
    probability_of_improvement_over_blind: float | None


@dataclass(frozen=True, kw_only=True)
class Ranking(Record):
    """How well the learned world orders policies; points: (true, simulated) return of each."""

    n: int
    pearson: float | None
    spearman: float | None
    kendall: float | None
    mmrv: float
    points: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TransferHead(Report):
    """What is said before the numbers; policies: the SHA-256 of every file by role and training seed."""

    settings: TransferSettings
    policies: dict[str, dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class TransferScores(Record):
    """The numbers of a run; `nulls` says why what cannot be said is missing.

    scores: by role and environment. walked_in_both: whether a role sees pictures. quantities: those of
    `wm_env.agents.transfer.quantities` that the policies at hand allow. claim: whether transfer may be
    claimed, None where nothing can be said.
    """

    scores: dict[str, dict[str, PolicyScore]]
    walked_in_both: dict[str, bool]
    gaps: dict[str, Band]
    quantities: dict[str, Band]
    horizon: tuple[HorizonPoint, ...]
    replay: tuple[ReplayBin, ...]
    curves: dict[str, tuple[CurvePoint, ...]]
    temperature: tuple[TemperaturePoint, ...]
    iqm: SeedScores
    claim: bool | None
    exploitation: float | None
    ranking: Ranking | None
    nulls: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TransferReport(TransferScores, TransferHead):
    """The whole of `transfer.json`."""

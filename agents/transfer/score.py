"""From episodes to the transfer report's numbers: scores by policy and environment, differences, curves.

What cannot be said is missing and `nulls` says why. Intervals resample starts, paired over policies and
environments, and training seeds. With one training seed an interval covers the starts alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wm_env.agents.transfer.quantities import (
    BLIND,
    LEARNED,
    SIM,
    TRUE,
    TWIN,
    exploitation,
    quantities,
    ranking,
    returns_by_horizon,
)
from wm_env.agents.transfer.report import (
    CurvePoint,
    HorizonPoint,
    PolicyScore,
    Ranking,
    ReplayBin,
    Scored,
    SeedScores,
    TemperaturePoint,
    TransferScores,
)
from wm_env.model.metrics.intervals import (
    MIN_SCENES,
    Band,
    band,
    iqm_band,
    probability_of_improvement,
    resampled_band,
    resampled_means,
    wilson,
)

BINS = 6  # of an episode: horizons that returns are told at, and bins of a replay
MIN_RANKED = 5


class Episodes(NamedTuple):
    """Records of one role in one environment, at one temperature and checkpoint: `(S, K)` episodes."""

    results: list[list[dict[str, Any]]]  # by training seed, then start

    def table(self, name: str) -> np.ndarray:
        """Return a field `(S, K)` float64."""
        return np.array([[one[name] for one in seed] for seed in self.results], dtype=np.float64).T


class Records:
    """All records of a run, looked up by role, environment, checkpoint and temperature."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._records = records
        self.roles = list(dict.fromkeys(one["role"] for one in records))
        self.sees = {one["role"]: one["sees"] for one in records}

    def get(
        self, role: str, environment: str, checkpoint: int | None = None, temperature: float = 1.0
    ) -> Episodes | None:
        """Return the episodes, those of the twin for an agent that sees nothing; None where never walked."""
        asked = environment if self.sees.get(role, True) else TRUE
        key = (role, asked, checkpoint, temperature if asked == SIM else 1.0)
        found = [
            one["results"]
            for one in self._records
            if (one["role"], one["environment"], one["checkpoint"], one["temperature"]) == key
        ]
        return Episodes(found) if found else None

    def checkpoints(self, role: str) -> list[int]:
        """Return the env steps of a role's checkpoints that all of its training seeds have."""
        steps: dict[int, set[int]] = {}
        seeds = {one["seed"] for one in self._records if one["role"] == role}
        for one in self._records:
            if one["role"] == role and one["checkpoint"] is not None:
                steps.setdefault(one["checkpoint"], set()).add(one["seed"])
        return sorted(step for step, found in steps.items() if found == seeds)

    def temperatures(self, role: str) -> list[float]:
        return sorted({one["temperature"] for one in self._records if one["role"] == role and one["sees"]})


def score(
    records: Sequence[Mapping[str, Any]], replayed: Mapping[str, Any], limit: int, seed: int = 0
) -> TransferScores:
    """Return the numbers of a run; limit: env steps of an episode, replayed: what `rows.replay` found."""
    table = Records(records)
    final = {
        (environment, role): episodes
        for role in table.roles
        for environment in (SIM, TRUE)
        if (episodes := table.get(role, environment)) is not None
    }
    returns = {key: found.table("reward") for key, found in final.items()}
    success = {key: found.table("success") for key, found in final.items()}
    found, nulls = quantities(returns, success, seed)
    curves = {role: _curve(table, role, seed) for role in (LEARNED, TWIN)}
    claim, reason = _claim(found)
    if reason:
        nulls["claim"] = reason
    gained = None
    if len(curves[LEARNED]) >= 2:
        sim, true = (
            np.array([side.reward.mean for side in sides])
            for sides in ([one.sim for one in curves[LEARNED]], [one.true for one in curves[LEARNED]])
        )
        gained = exploitation(sim, true)
    else:
        nulls["exploitation"] = nulls["curves"] = (
            "no checkpoints were scored: the policies were not trained here"
        )
    seeing = {key: found for key, found in final.items() if table.sees[key[1]]}
    order = _ranking(seeing, curves, nulls)
    nulls["simulation_lemma"] = (
        "the bound needs the largest error of a transition's distribution, which pictures do not give"
    )
    return TransferScores(
        scores={
            role: {environment: _scores(final[environment, role], seed) for environment in (SIM, TRUE)}
            for role in table.roles
        },
        walked_in_both={role: table.sees[role] for role in table.roles},
        gaps={role: _gap(returns, role, seed) for role in table.roles},
        quantities=found,
        horizon=_by_horizon(final, limit, seed),
        replay=replay_scores(replayed),
        curves={role: curve for role, curve in curves.items() if curve},
        temperature=_by_temperature(table, seed),
        iqm=_seed_scores(success, seed),
        claim=claim,
        exploitation=gained,
        ranking=order,
        nulls=nulls,
    )


def _scores(episodes: Episodes, seed: int) -> PolicyScore:
    """Return what navigation reports, over starts and training seeds."""
    field = episodes.table
    success, walked, shortest = field("success"), field("walked"), field("start_distance")
    progress = np.clip(1 - field("distance") / np.maximum(shortest, 1e-9), 0, 1)
    soft = progress * shortest / np.maximum(np.maximum(walked, shortest), 1e-9)
    rate = band(success, seed)
    if success.shape[1] == 1:  # Wilson's interval needs independent trials
        trials = wilson(int(success.sum()), len(success))
        rate = Band(trials.mean, trials.low, trials.high, len(success)) if rate.lo is not None else rate
    return PolicyScore(
        episodes=success.size,
        training_seeds=success.shape[1],
        success=rate,
        reward=band(field("reward"), seed),
        spl=band(field("spl"), seed),
        soft_spl=band(soft, seed),
        steps=float(field("steps").mean()),
        distance=float(field("distance").mean()),
        collisions_per_metre=float(field("collisions").sum() / max(1e-9, walked.sum())),
    )


def _gap(returns: Mapping[tuple[str, str], np.ndarray], role: str, seed: int) -> Band:
    """Return J_sim - J_true of one policy."""
    means = resampled_means({key: returns[key] for key in ((SIM, role), (TRUE, role))}, seed)
    return resampled_band(means[SIM, role] - means[TRUE, role], len(returns[SIM, role]))


def _by_horizon(final: Mapping[tuple[str, str], Episodes], limit: int, seed: int) -> tuple[HorizonPoint, ...]:
    """Return J^{0:H} of the policy trained in the learned world in both, and G(H), at six horizons."""
    if (SIM, LEARNED) not in final:
        return ()
    horizons = [round(limit * (k + 1) / BINS) for k in range(BINS)]
    tables = {
        environment: np.stack(
            [
                returns_by_horizon([one["rewards"] for one in results], horizons)
                for results in episodes.results
            ],
            axis=1,
        )  # (S, K, bins)
        for environment, episodes in ((name, final[name, LEARNED]) for name in (SIM, TRUE))
    }
    out = []
    for k, horizon in enumerate(horizons):
        columns = {(name, LEARNED): values[..., k] for name, values in tables.items()}
        out.append(
            HorizonPoint(
                steps=horizon,
                sim=band(columns[SIM, LEARNED], seed),
                true=band(columns[TRUE, LEARNED], seed),
                gap=_gap(columns, LEARNED, seed),
            )
        )
    return tuple(out)


def replay_scores(replayed: Mapping[str, Any]) -> tuple[ReplayBin, ...]:
    """Return the replay gap e_r = mean |r_sim - r_true| and precision and recall of endings, by time bin.

    replayed: rewards `(T, B, 2)` and ended `(T, B, 2)`, the learned world first; a slot counts until it ends
    in either. Precision and recall are None in a bin without an ending.
    """
    rewards, ended = np.array(replayed["rewards"]), np.array(replayed["ended"], dtype=bool)
    before: np.ndarray = np.cumsum(ended.any(-1), axis=0) - ended.any(-1)
    alive: np.ndarray = before == 0  # (T, B)
    out = []
    for chosen in np.array_split(np.arange(len(rewards)), BINS):
        if len(chosen) == 0:
            continue
        use: np.ndarray = alive[chosen]
        gap = np.abs(rewards[chosen, :, 0] - rewards[chosen, :, 1])[use]
        sim, true = (ended[chosen][..., side][use] for side in (0, 1))
        both = int((sim & true).sum())
        out.append(
            ReplayBin(
                until_step=int(chosen[-1]) + 1,
                reward_gap=float(gap.mean()) if len(gap) else None,
                endings=int(true.sum()),
                precision=both / int(sim.sum()) if sim.any() else None,
                recall=both / int(true.sum()) if true.any() else None,
            )
        )
    return tuple(out)


def _curve(table: Records, role: str, seed: int) -> tuple[CurvePoint, ...]:
    """Return success and return in both environments at every checkpoint."""
    out = []
    for step in table.checkpoints(role):
        both = []
        for environment in (SIM, TRUE):
            episodes = table.get(role, environment, step)
            assert episodes is not None  # checkpoints are walked in both
            both.append(
                Scored(
                    reward=band(episodes.table("reward"), seed),
                    success=band(episodes.table("success"), seed),
                )
            )
        out.append(CurvePoint(env_steps=step, sim=both[0], true=both[1]))
    return tuple(out)


def _by_temperature(table: Records, seed: int) -> tuple[TemperaturePoint, ...]:
    """Return what the policy trained in the learned world scores there at every temperature."""
    out = []
    for temperature in table.temperatures(LEARNED) if LEARNED in table.roles else []:
        episodes = table.get(LEARNED, SIM, None, temperature)
        if episodes is not None:
            reward, success = (band(episodes.table(name), seed) for name in ("reward", "success"))
            out.append(TemperaturePoint(temperature=temperature, reward=reward, success=success))
    return tuple(out)


def _seed_scores(success: Mapping[tuple[str, str], np.ndarray], seed: int) -> SeedScores:
    """Return the IQM over training seeds of success in the twin, and the chance to beat the blind agent."""
    means = {role: values.mean(0) for (name, role), values in success.items() if name == TRUE}
    probability = None
    if LEARNED in means and BLIND in means and min(len(means[LEARNED]), len(means[BLIND])) >= MIN_SCENES:
        probability = probability_of_improvement(means[LEARNED], means[BLIND])
    return SeedScores(
        success_in_twin={role: iqm_band(values, seed) for role, values in means.items()},
        probability_of_improvement_over_blind=probability,
    )


def _claim(found: Mapping[str, Band]) -> tuple[bool | None, str]:
    """Return whether transfer may be claimed: above blind in the twin, the interval without zero."""
    if "over_blind_success" not in found:
        return None, "a claim needs a policy trained in the learned world and a blind one beside it"
    difference = found["over_blind_success"]
    if difference.lo is None:
        return None, f"n too small: {difference.n} starts"
    return difference.lo > 0, ""


def _ranking(
    final: Mapping[tuple[str, str], Episodes],
    curves: Mapping[str, Sequence[CurvePoint]],
    nulls: dict[str, str],
) -> Ranking | None:
    """Return how well the learned world orders policies and checkpoints by return.

    final: of policies that see; the others are equal in both by construction and would flatter it.
    """
    points = [
        (final[TRUE, role].table("reward").mean(), final[SIM, role].table("reward").mean())
        for role in dict.fromkeys(role for _, role in final)
    ]
    points += [(one.true.reward.mean, one.sim.reward.mean) for curve in curves.values() for one in curve]
    if len(points) < MIN_RANKED:
        nulls["ranking"] = (
            f"n too small: {len(points)} policies and checkpoints that see, {MIN_RANKED} needed"
        )
        return None
    true, sim = np.array(points).T
    pairs = tuple((float(a), float(b)) for a, b in np.array(points))
    return Ranking(**ranking(true, sim)._asdict(), points=pairs)

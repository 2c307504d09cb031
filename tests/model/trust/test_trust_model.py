"""The logistic model finds what made the numbers, and forecasts are scored by their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from wm_env.model.metrics.forecasts import (
    auroc,
    auroc_within,
    brier_skill,
    calibration_error,
    reliability,
)
from wm_env.model.trust_model import TrustModel, fit_trust, sigmoid


def drawn(n: int = 4000) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Return signals, errors that are 0 or 1, walks, and the true probability of 0."""
    rng = np.random.default_rng(0)
    signals = {"a": rng.normal(3, 2, n), "b": rng.normal(size=n), "noise": rng.normal(size=n)}
    p = sigmoid(0.5 - 1.2 * (signals["a"] - 3) / 2 + 0.8 * signals["b"])
    return signals, (rng.random(n) > p).astype(float), np.arange(n) // 20, p


def test_the_fit_finds_the_probabilities_that_made_the_samples() -> None:
    signals, error, walk, p = drawn()
    model = fit_trust(signals, error, walk, bound=0.5, unit="x", names=list(signals))
    found = model.probability(signals)
    assert np.abs(found - p).mean() < 0.03
    assert abs(model.weight[2]) < 0.15 < 0.5 < -model.weight[0]
    assert TrustModel.from_json(model.to_json()) == model
    with pytest.raises(ValueError, match="the signals b are missing"):
        model.probability({"a": signals["a"], "noise": signals["noise"]})


def test_samples_of_one_kind_alone_are_refused() -> None:
    signals, error, walk, _ = drawn(100)
    with pytest.raises(
        ValueError, match=r"100 of 100 samples are within 2 x; a probability needs some on eit"
    ):
        fit_trust(signals, error, walk, bound=2, unit="x", names=["a"])


def test_a_signal_that_never_changes_says_nothing() -> None:
    signals, error, walk, _ = drawn(400)
    signals["flat"] = np.full(400, 7.0)
    model = fit_trust(signals, error, walk, bound=0.5, unit="x", names=["a", "flat"])
    assert model.weight[1] == model.square[1] == 0 and model.std[1] == 1


def test_brier_skill_is_one_for_certainty_and_zero_for_the_base_rate() -> None:
    happened = np.array([True, False, False, True, False])
    assert brier_skill(happened.astype(float), happened) == 1
    assert brier_skill(np.full(5, 0.4), happened) == pytest.approx(0)
    assert brier_skill(np.full(5, 0.4), np.ones(5, bool)) is None
    forecast = np.array([0.9, 0.2, 0.1, 0.6, 0.3])
    score = (0.01 + 0.04 + 0.01 + 0.16 + 0.09) / 5
    assert brier_skill(forecast, happened) == pytest.approx(1 - score / 0.24)


def test_the_calibration_error_weighs_bins_by_their_size() -> None:
    forecast = np.repeat([0.1, 0.7], [30, 10])
    happened = np.concatenate([np.arange(30) < 6, np.arange(10) < 5])
    bins = reliability(forecast, happened, bins=4)
    assert [one.n for one in bins] == [10] * 4
    assert calibration_error(forecast, happened, bins=4) == pytest.approx(
        sum(one.n * abs(one.forecast - one.happened) for one in bins) / 40
    )
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_auroc_counts_pairs_and_ties_half() -> None:
    score, happened = np.array([1.0, 2, 2, 3, 0]), np.array([False, True, False, True, False])
    pairs = [(a, b) for a in score[happened] for b in score[~happened]]
    wanted = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert auroc(score, happened) == pytest.approx(wanted)
    assert auroc(score, np.zeros(5, bool)) is None
    group = np.array([0] * 6 + [1] * 6)
    value = np.concatenate([np.arange(6), np.arange(6) + 100.0])
    assert auroc_within(value, value, group, [0, 1]) == 1
    assert auroc_within(group * 1.0, value, group, [0, 1]) == 0.5  # between groups alone

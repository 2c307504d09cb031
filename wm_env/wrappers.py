"""Wrappers of environments that look at trust."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from wm_env.model.storage.facts import number, shown

LARGEST = 1e6


class TrustPenalty(gym.Wrapper[Any, Any, Any, Any]):
    """Takes `weight * (1 - trust)` off every reward, so that an agent gains nothing by what is made up.

    env: made with `trust=True`, `trust="map"` or `min_trust=`. weight: from 0, in units of the reward.
    `info["trust_penalty"]` is what was taken off. Raises `ValueError` for another weight, and for an
    environment that says no trust.
    """

    def __init__(self, env: gym.Env[Any, Any], weight: float = 1.0) -> None:
        if not number(weight, 0, LARGEST):
            raise ValueError(f"weight={shown(weight)} must be a number from 0 to {LARGEST:g}")
        config = vars(env.unwrapped).get("config")
        if config is None or (config.trust is False and config.min_trust is None):
            raise ValueError(
                "TrustPenalty needs the trust of every step of a single environment; make it with trust=True"
            )
        super().__init__(env)
        self.weight = float(weight)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:  # type: ignore[override]
        """Return the step of the environment, its reward lessened."""
        observed, reward, terminated, truncated, info = self.env.step(action)
        taken = self.weight * (1 - info["trust"])
        return observed, reward - taken, terminated, truncated, {**info, "trust_penalty": taken}  # type: ignore[operator]

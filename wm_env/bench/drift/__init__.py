"""How a world drifts over long episodes: rows, score, report, figures and page, a file each."""

from wm_env.bench.drift.report import DriftReport
from wm_env.bench.drift.rollouts import DriftSettings
from wm_env.bench.drift.rows import drift, seconds_to_steps

__all__ = ["DriftReport", "DriftSettings", "drift", "seconds_to_steps"]

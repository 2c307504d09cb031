"""How far a world can be trusted: its probabilities and its surprise, beside the truth."""

from wm_env.bench.trust.report import TrustReport, markdown, verdict
from wm_env.bench.trust.settings import TrustSettings

__all__ = ["TrustReport", "TrustSettings", "markdown", "verdict"]

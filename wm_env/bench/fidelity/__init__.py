"""How true a world's frames are, by horizon: rows, score, report and command, a file each."""

from wm_env.bench.fidelity.report import FidelityReport, markdown, verdict
from wm_env.bench.fidelity.rows import FidelitySettings
from wm_env.bench.fidelity.score import appearance, fidelity

__all__ = ["FidelityReport", "FidelitySettings", "appearance", "fidelity", "markdown", "verdict"]

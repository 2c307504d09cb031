"""What a step costs: rows, score, report and command, a file each."""

from wm_env.bench.throughput.report import ThroughputReport, markdown, verdict
from wm_env.bench.throughput.rows import ThroughputSettings, loaded
from wm_env.bench.throughput.score import slope_of, throughput

__all__ = [
    "ThroughputReport",
    "ThroughputSettings",
    "loaded",
    "markdown",
    "slope_of",
    "throughput",
    "verdict",
]

"""How good the poses are that `wm-env annotate` finds: rendered films against their truth."""

from wm_env.bench.annotate.report import AnnotateReport, markdown, verdict
from wm_env.bench.annotate.rows import AnnotateSettings

__all__ = ["AnnotateReport", "AnnotateSettings", "markdown", "verdict"]

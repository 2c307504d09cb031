"""What a world gains by more pictures of a place: frames to predict after contexts of several lengths."""

from wm_env.bench.context.report import ContextReport, markdown, verdict
from wm_env.bench.context.rows import ContextSettings

__all__ = ["ContextReport", "ContextSettings", "markdown", "verdict"]

"""The published one-minute protocol: its scenes in, its result layout out, its evaluators' scores back in."""

from wm_env.bench.published.folder import SPLITS, BenchScene, RevisitPair, read_split
from wm_env.bench.published.report import PublishedReport, markdown, verdict
from wm_env.bench.published.results import EVALUATIONS, Results, read_results, write_results
from wm_env.bench.published.rows import film_scene, read_video, video_path, write_video
from wm_env.bench.published.score import revisit_consistency, score_revisits, windows

__all__ = [
    "EVALUATIONS",
    "SPLITS",
    "BenchScene",
    "PublishedReport",
    "Results",
    "RevisitPair",
    "film_scene",
    "markdown",
    "read_results",
    "read_split",
    "read_video",
    "revisit_consistency",
    "score_revisits",
    "verdict",
    "video_path",
    "windows",
    "write_results",
    "write_video",
]

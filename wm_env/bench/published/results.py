"""The published layout of a method's results, written and read.

    METHOD/method_info.json
    METHOD/SPLIT/SCENE_generated.mp4
    METHOD/eval/SPLIT/{vbench_scores,revisit_consistency,temporal_degradation,summary}.json
    METHOD/SPLIT/eval_poses.json

The videos and `revisit_consistency.json` are ours; the other files come from the upstream evaluators, which
run in an environment of their own, and are parsed here. A score that no evaluator wrote stays None, never a
substitute under the same name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_env.bench.published.folder import SPLITS
from wm_env.model.storage.atomic import atomic_path

EVALUATIONS = ("vbench_scores", "revisit_consistency", "temporal_degradation", "summary")


@dataclass(frozen=True, kw_only=True)
class Results:
    """A method's folder: its info, videos by split and scene, and evaluations by split and name (or None)."""

    info: dict[str, Any]
    videos: dict[str, dict[str, Path]]
    evaluations: dict[str, dict[str, Any]]
    poses: dict[str, Any]

    @property
    def drops_first_frame(self) -> bool:
        """Whether frame 0 is the input image and takes part in no score: a truthy `refiner` entry."""
        return bool(self.info.get("refiner"))


def write_results(method: Path, results: Results) -> None:
    """Write everything but the videos in the published layout."""
    method.mkdir(parents=True, exist_ok=True)
    _write(method / "method_info.json", results.info)
    for split, found in results.evaluations.items():
        for name, value in found.items():
            if value is not None:
                _write(method / "eval" / split / f"{name}.json", value)
    for split, value in results.poses.items():
        if value is not None:
            _write(method / split / "eval_poses.json", value)


def read_results(method: Path) -> Results:
    """Return what a method's folder holds; evaluations that no evaluator wrote are None."""
    info = method / "method_info.json"
    if not info.is_file():
        raise FileNotFoundError(f"{info} is missing: {method} is no result folder")
    splits = [split for split in SPLITS if (method / split).is_dir() or (method / "eval" / split).is_dir()]
    suffix = "_generated.mp4"
    return Results(
        info=_read(info),
        videos={
            split: {
                path.name.removesuffix(suffix): path for path in sorted((method / split).glob(f"*{suffix}"))
            }
            for split in splits
        },
        evaluations={
            split: {name: _read(method / "eval" / split / f"{name}.json") for name in EVALUATIONS}
            for split in splits
        },
        poses={split: _read(method / split / "eval_poses.json") for split in splits},
    )


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error

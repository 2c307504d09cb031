"""The scenes of a benchmark folder: first frame, prompt, camera path and revisit pairs of each.

A folder holds, for a split, the first frames, one camera file a scene, `run_manifest.jsonl` and
`scene_trajectories_v2.json` (docs/reference/evaluation.md#one-minute-benchmark).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wm_env.model.geometry import check_rigid

SPLITS = {"simple_60s": "benchmark_v2_smooth_60s", "hard_60s": "benchmark_v2_hard_60s"}
REVISIT_PAIRS = 5
MANIFEST, TRAJECTORIES = "run_manifest.jsonl", "scene_trajectories_v2.json"


class RevisitPair(NamedTuple):
    """Two frames of nearly equal commanded pose; the lower the quality score, the better the pair."""

    frame_a: int
    frame_b: int
    quality_score: float


@dataclass(frozen=True, kw_only=True)
class BenchScene:
    """One scene of a split.

    c2w: `(F, 4, 4)` float64. intrinsics: `(3, 3)` of frame 0 in pixels of the image.
    """

    id: str
    prompt: str
    image: Path
    c2w: np.ndarray
    intrinsics: np.ndarray
    fps: int
    scene_type: str
    pairs: tuple[RevisitPair, ...]


class Folder(NamedTuple):
    """What a benchmark folder holds: usable scenes, and why the others cannot be used, by id."""

    scenes: list[BenchScene]
    problems: dict[str, str]


def read_split(bench: Path, split: str) -> Folder:
    """Return the scenes of `split`; a scene with missing or broken files is listed, not fatal."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known are {', '.join(SPLITS)}")
    folder = bench / SPLITS[split]
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest} is missing: {bench} is no SANA-WM-Bench folder")
    pairs = _pairs(folder / TRAJECTORIES)
    kept = folder / "scene_set" / "kept_scenes.txt"
    chosen = set(kept.read_text(encoding="utf-8").split()) if kept.is_file() else None
    scenes, problems = [], {}
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = file_name(entry["id"])
        except (ValueError, KeyError, TypeError) as error:
            problems[f"line {number}"] = f"{manifest.name} has no scene there: {error!r}"
            continue
        if chosen is not None and name not in chosen:
            continue
        try:
            scenes.append(_read_scene(folder, entry, pairs.get(name, ())))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            problems[name] = f"{type(error).__name__}: {error}"
    for name in sorted((chosen or set()) - {scene.id for scene in scenes} - set(problems)):
        problems[name] = f"listed in {kept.name} but absent from {MANIFEST}"
    return Folder(scenes, problems)


def file_name(scene: Any) -> str:
    """Return a scene's id, or raise `ValueError` where it cannot be part of a file's name."""
    if not isinstance(scene, str) or not scene or Path(scene).name != scene:
        raise ValueError(f"the id {scene!r} is not a file name")
    return scene


def _read_scene(folder: Path, entry: Mapping[str, Any], pairs: Sequence[RevisitPair]) -> BenchScene:
    image = folder / entry["image_path"]
    if not image.is_file():
        raise FileNotFoundError(f"the first frame {image} is missing")
    with np.load(folder / entry["camera_path"]) as camera:
        c2w, intrinsics = camera["c2w"].astype(np.float64), camera["intrinsics"].astype(np.float64)
        fps, frames = int(camera["fps"]), int(camera["num_frames"])
    if c2w.shape != (frames, 4, 4) or intrinsics.shape != (frames, 3, 3):
        raise ValueError(f"c2w {c2w.shape} and intrinsics {intrinsics.shape} are not for {frames} frames")
    check_rigid(torch.from_numpy(c2w))
    return BenchScene(
        id=entry["id"],
        prompt=entry["prompt"],
        image=image,
        c2w=c2w,
        intrinsics=intrinsics[0],
        fps=fps,
        scene_type=entry["scene_type"],
        pairs=tuple(pairs),
    )


def _pairs(path: Path) -> dict[str, list[RevisitPair]]:
    if not path.is_file():
        return {}
    out = {}
    try:
        for scene in json.loads(path.read_text(encoding="utf-8"))["scenes"]:
            found = [
                RevisitPair(pair["frame_a"], pair["frame_b"], pair["quality_score"])
                for pair in scene["evaluation_pairs"]
            ]
            out[scene["id"]] = sorted(found, key=lambda pair: pair.quality_score)[:REVISIT_PAIRS]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not list revisit pairs by scene: {error!r}") from error
    return out

"""`wm-env bench published`: run a SANA-WM-Bench folder through a world, in the published result layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from wm_env.bench.published.folder import (
    EVALUATIONS,
    Results,
    film_scene,
    read_results,
    read_split,
    score_revisits,
    video_path,
    write_results,
    write_video,
)
from wm_env.cli import write_json
from wm_env.model.storage.atomic import check_writable
from wm_env.worlds import resolve_world


@dataclass(frozen=True, kw_only=True)
class Published:
    """Film the scenes of a SANA-WM-Bench folder and score what needs no external network.

    Writes OUT/method_info.json, OUT/SPLIT/SCENE_generated.mp4 and OUT/eval/SPLIT/revisit_consistency.json;
    upstream's evaluators score the videos, and their JSON files in OUT are read back into the result. Videos
    that exist are kept. Scenes that cannot be used are listed and the rest is scored.
    """

    bench: Path
    """The benchmark folder, with benchmark_v2_smooth_60s and benchmark_v2_hard_60s."""
    out: Path
    """Folder of the method's results; it is made if missing."""
    world: str = "tiny"
    """Preset or checkpoint folder."""
    splits: tuple[Literal["simple_60s", "hard_60s"], ...] = ("simple_60s", "hard_60s")
    """Splits to run."""
    scenes: int | None = None
    """Only the first scenes of each split; all by default."""
    seed: int = 42
    """Noise seed of every scene."""
    device: str = "cpu"
    """Torch device of the world."""
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON."""

    def run(self) -> dict[str, Any]:
        if self.scenes is not None and self.scenes < 1:
            raise ValueError(f"--scenes {self.scenes} must be at least 1")
        world = resolve_world(self.world, device=self.device)
        if world.spec.sees_scene:
            raise ValueError(
                f"world {world.spec.label!r} renders its own scenes and cannot start from a picture"
            )
        folders = {split: read_split(self.bench, split) for split in self.splits}
        self.out.mkdir(parents=True, exist_ok=True)
        check_writable(self.out / "method_info.json")
        torch.set_num_threads(self.threads)
        info = {
            "method": world.spec.label,
            "weights_sha256": world.spec.weights_sha256,
            "fps": world.spec.fps,
            "resolution": list(world.spec.frame_size),
            "seed": self.seed,
        }
        found: dict[str, dict[str, Any]] = {}
        problems: dict[str, dict[str, str]] = {}
        for split, folder in folders.items():
            scenes = folder.scenes[: self.scenes]
            refused: dict[str, str] = {}
            for scene in tqdm(scenes, unit="scene", desc=split):
                path = video_path(self.out, split, scene.id)
                if path.exists():
                    continue
                try:
                    frames = film_scene(world, scene, self.seed)
                except ValueError as error:  # a broken picture or an impossible lens
                    refused[scene.id] = str(error)
                    continue
                write_video(path, frames, world.spec.fps)
            revisits = score_revisits(scenes, self.out, split)
            found[split] = {"revisit_consistency": revisits}
            problems[split] = folder.problems | revisits["unreadable"] | refused
            for name, why in problems[split].items():
                print(f"{split}/{name}: {why}")
        write_results(self.out, Results(info=info, videos={}, evaluations=found, poses={}))
        results = read_results(self.out)
        report = {
            "benchmark": "published",
            **info,
            "videos": {split: len(videos) for split, videos in results.videos.items()},
            "problems": problems,
            "drops_first_frame": results.drops_first_frame,
            "evaluations": results.evaluations,
            "poses": results.poses,
            "nulls": {
                f"{split}/{name}": "no evaluator wrote it"
                for split, evaluated in results.evaluations.items()
                for name in EVALUATIONS
                if evaluated[name] is None
            },
        }
        write_json(self.out / "report.json", report)
        print(self.out / "report.json")
        return report

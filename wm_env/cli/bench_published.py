"""`wm-env bench published`: run a SANA-WM-Bench folder through a world, in the published result layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wm_env.bench.published import verdict
from wm_env.bench.published.run import paths, run
from wm_env.cli.options import (
    CameraDtype,
    Device,
    Dtype,
    FrameSize,
    Offload,
    Precision,
    Refiner,
    RefinerHistory,
    Weights,
    Window,
    World,
)
from wm_env.config import EnvConfig


@dataclass(frozen=True, kw_only=True)
class Published:
    """Film the scenes of a SANA-WM-Bench folder, score what needs no other network, compare with the paper.

    Writes OUT/method_info.json, OUT/SPLIT/SCENE_generated.mp4 and OUT/eval/SPLIT/revisit_consistency.json;
    upstream's evaluators score the videos, and their JSON files in OUT are read back into the result. Videos
    that exist are kept. Scenes that cannot be used are listed and the rest is scored.
    """

    bench: Path
    """The benchmark folder, with benchmark_v2_smooth_60s and benchmark_v2_hard_60s."""
    out: Path
    """Folder of the method's results; it is made if missing."""
    world: World = "tiny"
    weights: Weights = None
    refiner: Refiner = "default"
    dtype: Dtype = None
    offload: Offload = ("text",)
    frame_size: FrameSize = None
    precision: Precision = "bf16"
    refiner_history: RefinerHistory = 10
    window: Window = None
    camera_dtype: CameraDtype = "float32"
    sampler_steps: int = 60
    """Denoising steps of a model that draws a whole clip at once."""
    splits: tuple[Literal["simple_60s", "hard_60s"], ...] = ("simple_60s", "hard_60s")
    """Splits to run."""
    scenes: int | None = None
    """Only the first scenes of each split; all by default."""
    seed: int = 42
    """Noise seed of every scene."""
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if self.scenes is not None and self.scenes < 1:
            raise ValueError(f"--scenes {self.scenes} must be at least 1")
        if self.sampler_steps < 1:
            raise ValueError(f"--sampler-steps {self.sampler_steps} must be at least 1")
        torch.set_num_threads(self.threads)
        asked = EnvConfig(
            world=self.world,
            weights=self.weights,
            refiner=self.refiner,
            dtype=self.dtype,
            offload=self.offload,
            frame_size=self.frame_size,
            precision=self.precision,
            refiner_history=self.refiner_history,
            window=self.window,
            camera_dtype=self.camera_dtype,
        )
        report = run(
            self.bench,
            self.out,
            world=self.world,
            splits=self.splits,
            scenes=self.scenes,
            seed=self.seed,
            device=self.device,
            options=asked.world_options(),
            sampler_steps=self.sampler_steps,
        )
        for split, problems in report.problems.items():
            for name, why in problems.items():
                print(f"{split}/{name}: {why}")
        print(verdict(report))
        print("\n".join(str(path) for path in paths(self.out)))
        return report.to_json()

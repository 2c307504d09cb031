"""`wm-env bench published`: run a SANA-WM-Bench folder through a world, in the published result layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wm_env.bench.published import verdict
from wm_env.bench.published.run import paths, run
from wm_env.cli.options import Device, World


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
    world: World = "tiny"
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
        torch.set_num_threads(self.threads)
        report = run(
            self.bench,
            self.out,
            world=self.world,
            splits=self.splits,
            scenes=self.scenes,
            seed=self.seed,
            device=self.device,
        )
        for split, problems in report.problems.items():
            for name, why in problems.items():
                print(f"{split}/{name}: {why}")
        print(verdict(report))
        print("\n".join(str(path) for path in paths(self.out)))
        return report.to_json()

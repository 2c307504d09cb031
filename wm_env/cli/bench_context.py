"""`wm-env bench context`: what more pictures of a place are worth to a world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_env.bench.context import ContextSettings, verdict
from wm_env.bench.context import run as context
from wm_env.cli.options import Device, Split, World
from wm_env.progress import Bar


@dataclass(frozen=True, kw_only=True)
class BenchContext:
    """Frames a world has to predict after contexts of several lengths, against the truth.

    Of scenes, a full turn is shown, or its last chunks, and the world draws another in which every view comes
    back. Of clips of your own (--clips) the last chunks are predicted. Writes OUT/context-WORLD.json and .md.
    32 scenes take about 6 minutes on one CPU core.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: World = "tiny"
    shown: tuple[int, ...] = (0, 1, 4, 16, 25)
    """Chunks shown before the start, 0 for one picture; 1 + 4 x 25 frames in the embedded worlds."""
    clips: tuple[Path, ...] = ()
    """Posed clips of your own, instead of scenes: anything that `context=` takes."""
    held_out: int = 8
    """Chunks at the end of a clip that are predicted."""
    split: Split = "val"
    scenes: int = 32
    """Scenes; fewer than 5 give no confidence interval."""
    seed: int = 0
    """First scene seed; noise follows from it."""
    batch: int = 8
    """Films in one world call."""
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        settings = ContextSettings(
            shown=tuple(self.shown),
            split=self.split,
            scenes=self.scenes,
            seed=self.seed,
            clips=tuple(clip.name for clip in self.clips),
            held_out=self.held_out,
            batch=self.batch,
        )
        torch.set_num_threads(self.threads)
        with Bar(None, "measuring") as bar:
            report, paths = context.run(
                self.world,
                settings,
                self.out,
                clips=self.clips,
                device=self.device,
                progress=bar.to,
            )
        print(verdict(report))
        print("\n".join(str(path) for path in paths))
        return report.to_json()

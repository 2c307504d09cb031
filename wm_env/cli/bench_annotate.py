"""`wm-env bench annotate`: how good the poses are that `wm-env annotate` finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_env.bench.annotate import AnnotateSettings, verdict
from wm_env.bench.annotate.run import run
from wm_env.progress import Bar


@dataclass(frozen=True, kw_only=True)
class BenchAnnotate:
    """Poses of rendered films against their truth, and poses made wrong on purpose, which must not pass.

    Walks, turns with parallax, turns on the spot, zooms, fog, little texture, motion blur, compression.
    Writes OUT/annotate.json, .md and .png. A film of 65 frames takes about 1.5 minutes on one CPU core, all
    of the default 1.5 to 2 hours. Needs the extras annotate and bench.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    clips: int = 32
    """Films with parallax and texture, half walks, half turns."""
    rotations: int = 16
    """Films of turns on the spot."""
    hard: int = 4
    """Films of each of the other kinds."""
    wrong: int = 100
    """Tracks that are made wrong on purpose."""
    steps: int = 16
    """Steps of 4 frames in a film."""
    size: int = 384
    """Width and height of the films in pixels."""
    seed: int = 30000
    """First scene seed."""
    threads: int = 1
    """CPU threads."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        settings = AnnotateSettings(
            clips=self.clips,
            rotations=self.rotations,
            hard=self.hard,
            wrong=self.wrong,
            steps=self.steps,
            size=self.size,
            seed=self.seed,
            threads=self.threads,
        )
        torch.set_num_threads(self.threads)
        with Bar(None, "annotating") as bar:
            report, paths = run(settings, self.out, progress=bar.to)
        print(verdict(report))
        print("\n".join(str(path) for path in paths))
        return report.to_json()

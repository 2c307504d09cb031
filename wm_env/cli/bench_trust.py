"""`wm-env bench trust`: how good a world's trust and surprise are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wm_env.bench.trust import TrustSettings, verdict
from wm_env.bench.trust import run as trust
from wm_env.bench.trust.samples import SampleSettings
from wm_env.cli.options import Calibration, Device, World
from wm_env.progress import Bar


@dataclass(frozen=True, kw_only=True)
class BenchTrust:
    """Whether a world's trust can be trusted: its probabilities against the truth, and what surprises it.

    Walks of scenes that the calibration has not seen, by horizon and context, beside three single numbers;
    films in which something impossible happens, against the same films without it. Writes
    OUT/trust-WORLD.json, .md and .png. The defaults take about 40 minutes on one CPU core.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: World = "tiny"
    calibration: Calibration = None
    splits: tuple[Literal["train", "val", "heldout"], ...] = ("val", "heldout")
    """Scenes; the last split is judged."""
    contexts: tuple[Literal["none", "turn", "walk"], ...] = ("none", "turn", "walk")
    """Contexts that walks start after."""
    scenes: int = 24
    """Walks of every split and context."""
    steps: int = 32
    """Env steps of a walk."""
    events: int = 24
    """Pairs of films of every violation of expectation; 0 for none."""
    floors: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Least trusts at which walks are truncated."""
    two_draws: bool = False
    """Also ask how far two draws of every step are apart; three times the time."""
    seed: int = 0
    """First scene seed; noise follows from it."""
    batch: int = 8
    """Walks in one world call."""
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        settings = TrustSettings(
            samples=SampleSettings(
                scenes=self.scenes,
                contexts=tuple(self.contexts),
                steps=self.steps,
                seed=self.seed,
                batch=self.batch,
            ),
            splits=tuple(self.splits),
            events=self.events,
            floors=tuple(self.floors),
            two_draws=self.two_draws,
        )
        torch.set_num_threads(self.threads)
        with Bar(None, "walking") as bar:
            report, paths = trust.run(
                self.world,
                settings,
                self.out,
                calibration=self.calibration,
                device=self.device,
                progress=bar.to,
            )
        print(verdict(report))
        print("\n".join(str(path) for path in paths))
        return report.to_json()

"""`wm-env trust calibrate` and `wm-env surprise`: how far a world can be trusted, and what surprises it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from wm_env.bench.provenance import typed_command
from wm_env.bench.trust.fit import FitSettings, calibrate
from wm_env.bench.trust.samples import SampleSettings
from wm_env.cli.options import Calibration, Device, World
from wm_env.model.storage.atomic import check_writable
from wm_env.progress import Bar
from wm_env.surprises import surprise_of
from wm_env.worlds import resolve_world

BAR = 40  # characters of the longest line of a chunk
WIDEST = 8.0  # standard deviations that it stands for


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Learn the probability that a world's frames are near the truth from walks beside the renderer.

    Scenes are of the training split, other seeds for every context. With --clips the ends of posed clips are
    predicted instead, for worlds of other places. OUT is a JSON file bound to the weights; beside them, as
    NAME.trust.json, it is found by itself. 144 walks of 32 steps take about 25 minutes on one CPU core; the
    more scenes, the better: with 48 walks of `tiny` the Brier skill on walks left out was 0.21, with 96 0.35.
    """

    out: Path
    """JSON file to write; its folder must exist."""
    world: World = "tiny"
    clips: Path | None = None
    """Folder of posed clips to predict the ends of, instead of scenes."""
    contexts: tuple[Literal["none", "turn", "walk"], ...] = ("none", "turn", "walk")
    """Contexts that walks start after."""
    scenes: int = 48
    """Walks after every context, each in a scene of its own."""
    steps: int = 32
    """Env steps of a walk."""
    surprise: int = 12
    """Walks that the null distribution of surprise is of; 0 leaves it out."""
    bound: float | None = None
    """RMS error in grey levels up to which a frame counts as near the truth; by default the median."""
    place_bound: float | None = None
    """Mean |log depth| up to which things count as in their places; by default the median."""
    held_out: int = 8
    """Chunks at the end of a clip that are predicted."""
    shown: int = 1
    """Chunks of a clip that are committed before them."""
    seed: int = 0
    """First scene seed."""
    batch: int = 8
    """Walks in one world call."""
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside OUT."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        settings = FitSettings(
            samples=SampleSettings(
                scenes=self.scenes,
                contexts=tuple(self.contexts),
                steps=self.steps,
                seed=self.seed,
                batch=self.batch,
            ),
            bound=self.bound,
            place_bound=self.place_bound,
            surprise=self.surprise,
            held_out=self.held_out,
            shown=self.shown,
        )
        check_writable(self.out, overwrite=self.overwrite)
        clips = _clips_in(self.clips)
        torch.set_num_threads(self.threads)
        world = resolve_world(self.world, device=self.device)
        with Bar(None, "walking") as bar:
            found, samples = calibrate(world, settings, command=typed_command(), clips=clips, progress=bar.to)
        found.save(self.out, overwrite=self.overwrite)
        within = float((samples.appearance <= found.appearance.bound).mean())
        print(
            f"{self.out}: trust is the probability that a frame is within {found.appearance.bound:g} "
            f"{found.appearance.unit} of the truth; {within:.0%} of {len(samples)} frames were"
        )
        return found.to_json()


@dataclass(frozen=True, kw_only=True)
class FilmSurprise:
    """Say how unexpected every chunk of a posed film is to a world, given the film before it and the camera.

    About 0 where all is as usual, in standard deviations over true walks of training scenes; more where
    something happens that neither the past nor the motion explains. Layouts of clips: docs/clips.md.
    """

    clip: Annotated[Path, tyro.conf.Positional]
    """Folder of the clip, a film, or a camera file."""
    world: World = "tiny"
    calibration: Calibration = None
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    seed: int = 0
    """Accepted for uniformity; the noises are always the same."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        torch.set_num_threads(self.threads)
        world: Any = self.world if self.device == "cpu" else resolve_world(self.world, device=self.device)
        with Bar(None, "watching") as bar:
            found = surprise_of(
                world,
                self.clip,
                calibration=self.calibration,
                progress=lambda done, total: bar.to(done, total, "chunks"),
            )
        for second, value in zip(found.seconds, found.chunks, strict=True):
            print(f"{second:7.2f} s  {value:6.2f}  {'#' * round(BAR * min(1.0, max(0.0, value) / WIDEST))}")
        most = found.most
        print(f"most surprising: the chunk at {found.seconds[most]:.2f} s, {found.chunks[most]:.1f}")
        return {
            "clip": str(self.clip),
            "world": self.world,
            "chunks": found.chunks.tolist(),
            "seconds": found.seconds.tolist(),
            "frames": found.frames.tolist(),
            "most": most,
        }


def _clips_in(folder: Path | None) -> list[Path]:
    """Return the clips of a folder, sorted; `ValueError` where there are none."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise ValueError(f"--clips {str(folder)!r} is not a folder of posed clips")
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not found:
        raise ValueError(f"--clips {str(folder)!r} holds no clips")
    return found

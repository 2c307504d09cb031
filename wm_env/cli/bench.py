"""`wm-env bench fidelity|drift|throughput`: measure a world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from wm_env.bench.drift import DriftSettings
from wm_env.bench.drift import run as drift
from wm_env.bench.drift.verdict import verdict as drift_verdict
from wm_env.bench.fidelity import FidelitySettings
from wm_env.bench.fidelity import run as fidelity
from wm_env.bench.fidelity import verdict as fidelity_verdict
from wm_env.bench.throughput import ThroughputSettings
from wm_env.bench.throughput import run as throughput
from wm_env.bench.throughput import verdict as throughput_verdict
from wm_env.cli.options import Device, Image, Prompt, Split, World
from wm_env.progress import Bar


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """PSNR against the true twin by horizon, the look-away test, how long rollouts look, what they imagine.

    Writes OUT/fidelity-WORLD.json and .md with rows for the world, its ablations, the codec alone, the first
    frame repeated and wrong actions, and a figure of eight long walks a split. 32 scenes of two splits take
    about 20 minutes on one CPU core.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: World = "tiny"
    splits: tuple[Literal["train", "val", "heldout"], ...] = ("val", "heldout")
    """Scene splits."""
    scenes: int = 32
    """Scenes of every split; fewer than 5 give no confidence interval."""
    seed: int = 0
    """First scene seed; walks and noise follow from it."""
    horizons: tuple[int, ...] = (4, 16, 64)
    """Pixel frames after the start at which frames are compared."""
    long_steps: int = 64
    """Env steps of the rollouts that are asked how they look and what they imagine (4 pixel frames each)."""
    still_steps: int = 32
    """Env steps without a command, after which the picture should still stand and events still show."""
    contexts: Annotated[tuple[Literal["none", "turn", "walk"], ...], tyro.conf.arg(name="context")] = ()
    """Also measure after contexts of these kinds, with the pixels that they have shown apart."""
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
        settings = FidelitySettings(
            splits=tuple(self.splits),
            scenes=self.scenes,
            seed=self.seed,
            horizons=tuple(self.horizons),
            long_steps=self.long_steps,
            still_steps=self.still_steps,
            batch=self.batch,
            contexts=tuple(self.contexts),
        )
        torch.set_num_threads(self.threads)
        with Bar(None, "measuring") as bar:
            report, paths = fidelity.run(self.world, settings, self.out, device=self.device, progress=bar.to)
        print(fidelity_verdict(report))
        print("\n".join(str(path) for path in paths))
        return report.to_json()


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a world drifts over an episode: truth, skill, pose, appearance, memory, survival, state telemetry.

    Writes OUT/drift.json, rows.jsonl (one line per walk), figures and a self-contained report.html. Run again
    with the same options to continue an interrupted run. A walk of 16 s with all rows takes 30 to 60 s of one
    CPU core: 32 scenes x 7 trajectories 2 to 4 hours, --scenes 8 --trajectories random_walk 4 to 8 minutes.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: tuple[str, ...] = ("tiny",)
    """Presets or checkpoint folders; the first is judged, with ablations, the others stand beside it."""
    scenes: int = 32
    """Scenes; fewer than 5 give no confidence interval."""
    seeds: int = 1
    """Noise seeds of every scene."""
    horizon: str = "16s"
    """Length of a walk, such as 16s or 60s."""
    trajectories: str = "forward,out_and_back,loop,spin360,look_away,random_walk,idle"
    """Trajectories, joined by commas; also figure8, whip_pan, and look_away_N to look away for N chunks."""
    spread: bool = False
    """Let every scene walk one of the trajectories, in turn, instead of all: as many times cheaper."""
    split: Split = "val"
    context: Literal["none", "turn", "walk"] = "none"
    """What the worlds are shown before every walk: a full turn, or a walk that ends at the start."""
    image: Image = None
    prompt: Prompt = ""
    pose_every: int = 8
    """Pixel frames between two pose estimates (0.4 to 0.8 s of CPU each); 0 switches them off."""
    batch: int = 8
    """Scenes in one world call."""
    seed: int = 0
    """First scene seed; walks, noise and bootstrap follow from it."""
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        settings = DriftSettings(
            trajectories=tuple(self.trajectories.split(",")),
            split=self.split,
            scenes=self.scenes,
            seeds=self.seeds,
            seed=self.seed,
            batch=self.batch,
            pose_every=self.pose_every,
            context=self.context,
            spread=self.spread and self.image is None,
        )
        torch.set_num_threads(self.threads)
        with Bar(None, "walking") as bar:
            report, paths = drift.run(
                self.world,
                settings,
                self.out,
                seconds=_seconds(self.horizon),
                device=self.device,
                image=self.image,
                prompt=self.prompt or "",
                progress=bar.to,
            )
        print(drift_verdict(report))
        print("\n".join(str(path) for path in paths))
        return report.to_json()


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Frames per second and step latency by number of environments, split by part, and by episode length.

    Writes OUT/throughput.json and .md. Variants are interleaved in one run; do not run anything else beside.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: tuple[str, ...] = ("tiny",)
    """Presets or checkpoint folders, one or more."""
    envs: tuple[int, ...] = (1, 4, 16)
    """Numbers of environments stepped in one world call."""
    dtype: tuple[Literal["float32", "bfloat16"], ...] = ()
    """Precisions that learned worlds are timed in; the world's own by default."""
    steps: int = 40
    """Timed env steps of each, after 5 of warm-up."""
    length: int = 400
    """Env steps of the episode-length test; 0 skips it."""
    seed: int = 0
    """Seed of scenes and actions."""
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        settings = ThroughputSettings(
            worlds=tuple(self.world),
            dtypes=tuple(self.dtype) or (None,),
            batches=tuple(self.envs),
            steps=self.steps,
            length=self.length,
            device=self.device,
            seed=self.seed,
        )
        torch.set_num_threads(self.threads)
        with Bar(None, "timing") as bar:
            report, paths = throughput.run(settings, self.out, progress=bar.to)
        print(throughput_verdict(report))
        print("\n".join(str(path) for path in paths))
        return report.to_json()


def _seconds(horizon: str) -> float:
    text = horizon.strip().lower().removesuffix("s")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--horizon {horizon!r} is not a time in seconds such as 16s or 60s") from error

"""`wm-env bench fidelity|drift|throughput`: measure a world."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from wm_env.bench.drift.page import check_figures, write_report
from wm_env.bench.drift.rollouts import DriftSettings
from wm_env.bench.drift.rows import drift, seconds_to_steps
from wm_env.bench.drift.score import summarise
from wm_env.bench.fidelity.rows import FidelitySettings, fidelity, markdown
from wm_env.bench.provenance import provenance
from wm_env.bench.row_file import finite
from wm_env.bench.throughput import rows as speed
from wm_env.cli import write_json
from wm_env.images import start_image
from wm_env.model.rollout import ABLATIONS, LearnedWorld
from wm_env.model.storage.atomic import atomic_path, check_writable
from wm_env.model.world import World
from wm_env.worlds import resolve_world


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """PSNR against the true twin by horizon, the look-away test, and the appearance of long rollouts.

    Writes OUT/fidelity-WORLD.json and .md with rows for the world, its ablations, the codec alone, the first
    frame repeated and wrong actions. 32 scenes of two splits take about 15 minutes on one CPU core.
    """

    out: Path
    """Folder to write to; it is made if missing."""
    world: str = "tiny"
    """Preset or checkpoint folder."""
    splits: tuple[Literal["train", "val", "heldout"], ...] = ("val", "heldout")
    """Scene splits."""
    scenes: int = 32
    """Scenes of every split; fewer than 5 give no confidence interval."""
    seed: int = 0
    """First scene seed; walks and noise follow from it."""
    horizons: tuple[int, ...] = (4, 16, 64)
    """Pixel frames after the start at which frames are compared."""
    long_steps: int = 64
    """Env steps of the appearance test (4 pixel frames each)."""
    batch: int = 8
    """Walks in one world call."""
    device: str = "cpu"
    """Torch device of the world."""
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""

    def run(self) -> dict[str, Any]:
        settings = FidelitySettings(
            splits=tuple(self.splits),
            scenes=self.scenes,
            seed=self.seed,
            horizons=tuple(self.horizons),
            long_steps=self.long_steps,
            batch=self.batch,
        )
        worlds = with_ablations(self.world, self.device)
        table, text = (_inside(self.out, f"fidelity-{self._stem()}.{kind}") for kind in ("json", "md"))
        torch.set_num_threads(self.threads)
        phases = len(settings.splits) * (4 + len(worlds) - int(len(worlds) == 1))
        with tqdm(total=phases, unit="part") as bar:
            result = fidelity(worlds, settings, command_line("fidelity"), _telling(bar))
        write_json(table, result)
        with atomic_path(text) as temporary:
            temporary.write_text(markdown(result))
        print(f"{text}\n{table}")
        return result

    def _stem(self) -> str:
        return Path(self.world).name


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a world drifts over an episode: truth, skill, pose, appearance, memory, survival, state telemetry.

    Writes OUT/drift.json, rows.jsonl (one line per walk), figures and a self-contained report.html. Run again
    with the same options to continue an interrupted run. A walk of 16 s with all rows takes about 25 s of one
    CPU core: 32 scenes x 7 trajectories 1.5 hours, --scenes 8 --trajectories random_walk 4 minutes.
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
    split: Literal["train", "val", "heldout"] = "val"
    """Scene split."""
    image: Path | None = None
    """Start from this picture instead of from scenes; what needs the truth is then null."""
    prompt: str = ""
    """Prompt that goes with --image."""
    pose_every: int = 8
    """Pixel frames between two pose estimates (about 0.2 s of CPU each); 0 switches them off."""
    batch: int = 8
    """Scenes in one world call."""
    seed: int = 0
    """First scene seed; walks, noise and bootstrap follow from it."""
    device: str = "cpu"
    """Torch device of the world."""
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""

    def run(self) -> dict[str, Any]:
        check_figures()
        whole = side_by_side(self.world, self.device)
        (name, world), *others = whole.items()
        ablated = with_ablations(self.world[0], self.device)
        worlds = whole | {row: one for row, one in ablated.items() if one is not world}
        if isinstance(world, LearnedWorld) and world.refiner is not None:
            worlds["refiner=none"] = resolve_world(self.world[0], device=self.device, refiner="none")
        spec = world.spec
        settings = DriftSettings(
            trajectories=tuple(self.trajectories.split(",")),
            split=self.split,
            scenes=self.scenes if self.image is None else 1,
            seeds=self.seeds,
            seed=self.seed,
            steps=seconds_to_steps(_seconds(self.horizon), world),
            batch=self.batch,
            pose_every=self.pose_every,
            spread=self.spread and self.image is None,
        )
        if self.image is not None and spec.sees_scene:
            raise ValueError(f"world {name!r} renders a scene and cannot start from --image")
        picture = None if self.image is None else start_image(str(self.image), None, spec.frame_size)
        torch.set_num_threads(self.threads)
        with tqdm(unit="group") as bar:
            rows = drift(
                worlds,
                settings,
                self.out,
                compared=len(whole),
                image=picture,
                prompt=self.prompt,
                report=_counting(bar),
            )
        gate, telemetry, timing = (
            _read(self.out / f"{part}.json") for part in ("gate", "telemetry", "timing")
        )
        seconds = settings.steps * spec.frames_per_step / spec.fps
        report = {
            "benchmark": "drift",
            **provenance(spec, command_line("drift")),
            "world": name,
            "weights": {row: one.spec.weights_sha256 for row, one in whole.items()},
            "settings": asdict(settings) | {"image": None if self.image is None else self.image.name},
            "seconds": seconds,
            "trained_seconds": spec.trained_steps * spec.frames_per_step / spec.fps,
            "fps": spec.fps,
            "conventions": {
                "psnr": "mean over frames of 10 log10(255^2 / MSE), uint8, 100 where equal",
                "ssim": "uniform 11x11 window, biased moments",
                "pose": "means over sampled frames, degrees and metres; rot_err_deg: first pose, unaligned",
            },
            **summarise(rows, name, seconds, gate, self.seed, [row for row, _ in others]),
            "cost": {row: one["cpu_s"] / one["video_s"] for row, one in (timing or {}).items()},
        }
        report = finite(report)
        write_json(self.out / "drift.json", report)
        tracks = _tracks(rows, tuple(whole), 4 if len(settings.trajectories) == 1 else 2)
        shown = tracks if "rot_err_deg" not in report["nulls"] else []
        print("\n".join(str(path) for path in write_report(self.out, report, shown, telemetry)))
        return report


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
    device: str = "cpu"
    """Torch device of the worlds."""
    threads: int = 1
    """CPU threads of torch."""
    json: Path | None = None
    """File for the result as JSON, beside the one in OUT."""

    def run(self) -> dict[str, Any]:
        settings = speed.ThroughputSettings(
            worlds=tuple(self.world),
            dtypes=tuple(self.dtype) or (None,),
            batches=tuple(self.envs),
            steps=self.steps,
            length=self.length,
            device=self.device,
            seed=self.seed,
        )
        specs = {name: world.spec for name, world in speed.loaded(settings).items()}
        table, text = (_inside(self.out, f"throughput.{kind}") for kind in ("json", "md"))
        torch.set_num_threads(self.threads)
        with tqdm(unit="step") as bar:
            found = speed.throughput(settings, _counting(bar))
        opening = provenance(next(iter(specs.values())), command_line("throughput"))
        digests = {world: spec.weights_sha256 for world, spec in specs.items()}
        report = {"benchmark": "throughput", **opening, "weights": digests, "settings": asdict(settings)}
        report = finite(report | found)
        write_json(table, report)
        with atomic_path(text) as temporary:
            temporary.write_text(speed.markdown(report))
        print(f"{text}\n{table}")
        return report


def side_by_side(names: Sequence[str], device: str) -> dict[str, World]:
    """Return worlds by their names, by folder where two have the same name."""
    if not names or len(set(names)) != len(names):
        raise ValueError(f"--world {' '.join(names)} must be one or more different worlds")
    found = [resolve_world(name, device=device) for name in names]
    own = [world.spec.label for world in found]
    told = own if len(set(own)) == len(own) else list(names)
    return dict(zip(told, found, strict=True))


def with_ablations(world: str, device: str) -> dict[str, World]:
    """Return the world by its name, and its ablations as `ablate=PART` where it has parts to remove."""
    whole = resolve_world(world, device=device)
    worlds: dict[str, World] = {whole.spec.label: whole}
    if isinstance(whole, LearnedWorld):
        parts = [part for part in ABLATIONS if part != "memory" or whole.refiner is not None]
        worlds |= {f"ablate={part}": resolve_world(world, device=device, ablate=part) for part in parts}
    return worlds


def command_line(name: str) -> str:
    """Return the command that a report is the result of, as it was typed."""
    words = sys.argv[1:]
    typed = words if words[:2] == ["bench", name] else ["bench", name]
    return "wm-env " + shlex.join(typed)


def _tracks(rows: Sequence[dict[str, Any]], worlds: Sequence[str], each: int) -> list[dict[str, Any]]:
    """Return the paths of the first `each` walks of every trajectory and world, for the view from above."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["row"] in worlds and row["noise"] == 0 and "top_down" in row.get("pose", {}):
            told = {"world": row["row"], "trajectory": row["trajectory"], "scene": row["scene"]}
            found.setdefault((row["trajectory"], row["row"]), []).append(told | row["pose"]["top_down"])
    return [one for own in found.values() for one in own[:each]]


def _telling(bar: tqdm) -> Callable[[str], None]:
    """Return `report(what begins now)`, which moves the bar to the part that ended."""
    begun: list[str] = []

    def report(what: str) -> None:
        bar.update(int(bool(begun)))
        begun.append(what)
        bar.set_postfix_str(what)

    return report


def _counting(bar: tqdm) -> Callable[[int, int, str], None]:
    """Return `report(done, total, what begins now)` that moves a bar."""

    def report(done: int, total: int, what: str) -> None:
        bar.total = total
        bar.update(done - bar.n)
        bar.set_postfix_str(what)

    return report


def _seconds(horizon: str) -> float:
    text = horizon.strip().lower().removesuffix("s")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--horizon {horizon!r} is not a time in seconds such as 16s or 60s") from error


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _inside(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return check_writable(folder / name)

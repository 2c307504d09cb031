"""The published one-minute protocol: its scenes in, its result layout out, its evaluators' scores back in.

A benchmark folder holds, for a split, the first frames, one camera file a scene, `run_manifest.jsonl` and
`scene_trajectories_v2.json` (docs/reference/evaluation.md#one-minute-benchmark). A world writes

    METHOD/method_info.json
    METHOD/SPLIT/SCENE_generated.mp4
    METHOD/eval/SPLIT/{vbench_scores,revisit_consistency,temporal_degradation,summary}.json
    METHOD/SPLIT/eval_poses.json

The videos and `revisit_consistency.json` are ours; the other files come from the upstream evaluators, which
run in an environment of their own, and are parsed here. A score that no evaluator wrote stays None, never a
substitute under the same name.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v2 as imageio
import numpy as np
import torch
from torch import Tensor

from wm_env.images import start_image
from wm_env.model.geometry import check_rigid, relative_to_first
from wm_env.model.metrics import psnr, ssim
from wm_env.model.storage.atomic import atomic_path
from wm_env.model.world import Start, World

SPLITS = {"simple_60s": "benchmark_v2_smooth_60s", "hard_60s": "benchmark_v2_hard_60s"}
EVALUATIONS = ("vbench_scores", "revisit_consistency", "temporal_degradation", "summary")
WINDOW_SECONDS = 10
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
    chosen = set(kept.read_text().split()) if kept.is_file() else None
    scenes, problems = [], {}
    for number, line in enumerate(manifest.read_text().splitlines(), start=1):
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
        for scene in json.loads(path.read_text())["scenes"]:
            found = [
                RevisitPair(pair["frame_a"], pair["frame_b"], pair["quality_score"])
                for pair in scene["evaluation_pairs"]
            ]
            out[scene["id"]] = sorted(found, key=lambda pair: pair.quality_score)[:REVISIT_PAIRS]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not list revisit pairs by scene: {error!r}") from error
    return out


def film_scene(world: World, scene: BenchScene, noise_seed: int) -> Tensor:
    """Return the world's frames uint8 `(F, h, w, 3)` along the scene's path, frame 0 the input image.

    A last chunk that the path does not fill is completed by standing still and cut off again.
    """
    picture = start_image(str(scene.image), scene.intrinsics, world.spec.frame_size)
    told = Start(
        image=picture.pixels, intrinsics=picture.intrinsics, prompt=scene.prompt, noise_seed=noise_seed
    )
    c2w = relative_to_first(torch.from_numpy(scene.c2w))[None]  # (1, F, 4, 4)
    chunk, total = world.spec.frames_per_step, c2w.shape[1]
    missing = -(total - 1) % chunk
    c2w = torch.cat([c2w, c2w[:, -1:].expand(-1, missing, -1, -1)], dim=1)
    first, state = world.begin([told])
    shown = [first.frames.cpu()]
    for begin in range(1, c2w.shape[1], chunk):
        made, state = world.step_chunk(state, c2w[:, begin : begin + chunk])
        shown.append(made.frames.cpu())
    return torch.cat(shown, dim=1)[0, :total]


def video_path(method: Path, split: str, scene: str) -> Path:
    """Return where the video of a scene belongs."""
    return method / split / f"{scene}_generated.mp4"


def write_video(path: Path, frames: Tensor, fps: int) -> None:
    """Write frames `(F, h, w, 3)` uint8 as mp4, nearly lossless; the file appears only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"fps": fps, "codec": "libx264", "quality": 10, "macro_block_size": 1}
    with atomic_path(path) as temporary:
        writer: Any = imageio.get_writer(temporary, format="FFMPEG", **settings)
        with writer:
            for frame in frames.numpy():
                writer.append_data(frame)


def read_video(path: Path) -> Tensor:
    """Return the frames uint8 `(F, h, w, 3)` of a video, or raise `ValueError` saying what is wrong."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        reader: Any = imageio.get_reader(path, format="FFMPEG")
        with reader:
            frames = [np.asarray(frame) for frame in reader]
    except (OSError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a video: {' '.join(str(error).split())[:200]}") from error
    if not frames:
        raise ValueError(f"{path} holds no frames")
    return torch.from_numpy(np.stack(frames))


def windows(frames: int, fps: int = 16) -> list[tuple[int, int]]:
    """Return the whole ten-second windows [begin, end) of a video: 6 for 960 and for 961 frames."""
    length = WINDOW_SECONDS * fps
    return [(i * length, (i + 1) * length) for i in range(frames // length)]


def revisit_consistency(scene: BenchScene, frames: Tensor, fps: int) -> list[dict[str, float]]:
    """Return PSNR and SSIM (uniform 11x11 window) of the scene's revisit pairs in its video.

    Frame numbers are mapped through time, round(index / 16 * fps), and clamped; a pair that falls on one
    frame is left out.
    """
    found = []
    for pair in scene.pairs:
        a, b = (min(round(i / scene.fps * fps), len(frames) - 1) for i in (pair.frame_a, pair.frame_b))
        if a != b:
            scores = {"psnr": float(psnr(frames[a], frames[b])), "ssim": float(ssim(frames[a], frames[b]))}
            found.append({"frame_a": a, "frame_b": b, **scores})
    return found


def score_revisits(scenes: Sequence[BenchScene], method: Path, split: str) -> dict[str, Any]:
    """Return what `revisit_consistency.json` holds: overall over pairs, per category over scenes.

    LPIPS needs a network this package does not ship; it is null. Videos that cannot be read are listed.
    """
    pairs: list[dict[str, float]] = []
    by_scene: dict[str, Any] = {}
    by_type: dict[str, list[dict[str, float]]] = {}
    unreadable: dict[str, str] = {}
    for scene in scenes:
        try:
            frames = read_video(video_path(method, split, scene.id))
        except ValueError as error:
            unreadable[scene.id] = str(error)
            continue
        found = revisit_consistency(scene, frames, scene.fps)
        by_scene[scene.id] = found
        pairs += found
        if found:
            by_type.setdefault(scene.scene_type, []).append(_mean(found))
    return {
        "overall": _mean(pairs) | {"lpips": None, "pairs": len(pairs)},
        "per_category": {name: _mean(found) for name, found in by_type.items()},
        "per_scene": by_scene,
        "unreadable": unreadable,
        "lpips_reason": "no evaluator wrote it: LPIPS needs a network that is not part of this package",
        "ssim_variant": "uniform 11x11 window, biased moments",
    }


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    if not found:
        return {"psnr": None, "ssim": None}
    return {key: float(np.mean([one[key] for one in found])) for key in ("psnr", "ssim")}


@dataclass(frozen=True, kw_only=True)
class Results:
    """A method's folder: its info, videos by split and scene, and evaluations by split and name (or None)."""

    info: dict[str, Any]
    videos: dict[str, dict[str, Path]]
    evaluations: dict[str, dict[str, Any]]
    poses: dict[str, Any]

    @property
    def drops_first_frame(self) -> bool:
        """Whether frame 0 is the input image and takes part in no score: a truthy `refiner` entry."""
        return bool(self.info.get("refiner"))


def write_results(method: Path, results: Results) -> None:
    """Write everything but the videos in the published layout."""
    method.mkdir(parents=True, exist_ok=True)
    _write(method / "method_info.json", results.info)
    for split, found in results.evaluations.items():
        for name, value in found.items():
            if value is not None:
                _write(method / "eval" / split / f"{name}.json", value)
    for split, value in results.poses.items():
        if value is not None:
            _write(method / split / "eval_poses.json", value)


def read_results(method: Path) -> Results:
    """Return what a method's folder holds; evaluations that no evaluator wrote are None."""
    info = method / "method_info.json"
    if not info.is_file():
        raise FileNotFoundError(f"{info} is missing: {method} is no result folder")
    splits = [split for split in SPLITS if (method / split).is_dir() or (method / "eval" / split).is_dir()]
    suffix = "_generated.mp4"
    return Results(
        info=_read(info),
        videos={
            split: {
                path.name.removesuffix(suffix): path for path in sorted((method / split).glob(f"*{suffix}"))
            }
            for split in splits
        },
        evaluations={
            split: {name: _read(method / "eval" / split / f"{name}.json") for name in EVALUATIONS}
            for split in splits
        },
        poses={split: _read(method / split / "eval_poses.json") for split in splits},
    )


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error

"""One film annotated and compared with its truth; tracks made wrong on purpose and what refuses them.

Rotations are compared once both have the same axes (the mean of R_true R^T), places once they have the same
scale and middle as well. Legend: `n` frames with a pose.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_env.annotation.filters import reasons
from wm_env.annotation.joining import cut, longest_run, similarity
from wm_env.annotation.measures import measure
from wm_env.annotation.pipeline import annotate
from wm_env.annotation.recipe import Recipe, load_recipe
from wm_env.annotation.scale import CameraHeight, DepthWorld, KnownDistance, ScaleFrom, scale_of
from wm_env.annotation.store import STAGES, track_from
from wm_env.annotation.structure import triangulate
from wm_env.annotation.values import ClipRow, Matches, Scale, Track
from wm_env.bench.annotate.films import FPS, HARD, Film
from wm_env.context_check import check_context
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.storage.array_files import read_arrays

LAG = 8  # frames between poses whose relative translation is compared
FAULTS = ("drift", "mirrored", "scaled in the middle", "spliced", "wrong focal length")
DRIFT_DEG, DRIFT_METRES = 20.0, 0.4  # from the first frame to the last
FASTER, FOCAL = 2.5, 1.3  # or as many times less
WRONG_DEG, WRONG_PATH, WRONG_FOCAL = 2.0, 0.05, 0.05  # of an accepted clip whose poses are wrong


@dataclass(frozen=True, kw_only=True)
class AnnotateSettings:
    """What is rendered and annotated.

    clips: half walks, half turns with parallax. rotations: turns on the spot. hard: films of every other
    kind. wrong: tracks that are made wrong. steps: chunks of 4 frames of a film. size: pixels. seed: first
    scene seed. threads: of pycolmap and torch.
    """

    clips: int = 32
    rotations: int = 16
    hard: int = 4
    wrong: int = 100
    steps: int = 16
    size: int = 384
    seed: int = 30000
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least in (("clips", 2), ("rotations", 0), ("hard", 0), ("wrong", 0), ("steps", 6)):
            if self.__dict__[name] < least:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least {least}")
        if self.size < 64 or self.size % 2:
            raise ValueError(f"size={self.size} must be an even number of pixels, at least 64")

    def films(self) -> list[tuple[str, int]]:
        """Return kind and number of every film."""
        half = self.clips // 2
        counts = {"walk": self.clips - half, "turns": half, "rotation": self.rotations}
        counts |= dict.fromkeys(HARD, self.hard)
        return [(kind, number) for kind, count in counts.items() for number in range(count)]


def bench_recipe(settings: AnnotateSettings) -> Recipe:
    """Return the default recipe; films that are shorter than its clips are clips as well."""
    recipe = load_recipe()
    frames = 1 + 4 * settings.steps
    if frames >= recipe.frames.shortest:
        return recipe
    kept = {**asdict(recipe.frames), "shortest": frames}
    return Recipe(**{**vars(recipe), "frames": type(recipe.frames)(**kept)})


def annotated(film: Film, out: Path, settings: AnnotateSettings) -> dict[str, Any]:
    """Return the row of a film: what became of it, the errors of its poses, what it took."""
    recipe = bench_recipe(settings)
    begun = time.process_time()
    try:
        found = annotate(
            film.path,
            out / film.path.stem,
            scale=CameraHeight(film.height) if film.kind != "rotation" else None,
            zoom=film.kind == "zoom",
            recipe=recipe,
            threads=settings.threads,
        )
        row = max(found.rows, key=lambda one: one.frames)
    except ValueError as error:  # nothing was placed
        return {"kind": film.kind, "status": "failed", "why": str(error), "placed": 0.0}
    spent = time.process_time() - begun
    told = {
        "kind": film.kind,
        "status": row.status,
        "why": "; ".join(row.reasons),
        "whole": row.frames == len(film.c2w),
        "placed": (row.run[1] - row.run[0] + 1) / len(film.c2w) if row.run else 0.0,
        "seconds": None if row.seconds is None else row.seconds / row.frames,
        "cpu": spent / row.frames,
    }
    if row.run is None:
        return told
    return {**told, **_errors(film, row, out / film.path.stem)}


def _errors(film: Film, row: ClipRow, out: Path) -> dict[str, Any]:
    """Return the errors of a clip's poses and of every way to a scale."""
    poses = read_arrays(out / "poses" / f"{row.clip}.npz", row.clip)
    numbers, c2w = poses["frames"], poses["c2w"]
    true, camera = film.c2w[numbers], film.intrinsics[numbers]
    scale, turn, shift = similarity(c2w[:, :3, :3], true[:, :3, :3], c2w[:, :3, 3], true[:, :3, 3])
    rotation = angles_deg(turn @ c2w[:, :3, :3], true[:, :3, :3])
    found: dict[str, Any] = {
        "rotation": float(np.median(rotation)),
        "focal": float(np.median(np.abs(poses["intrinsics"][:, 0] / camera[:, 0] - 1))),
    }
    free = str(poses["motion"]) == "free"
    if free and film.kind != "rotation":
        moved = scale * c2w[:, :3, 3] @ turn.T + shift
        path = float(np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum())
        off = float(np.sqrt(((moved - true[:, :3, 3]) ** 2).sum(1).mean()))
        found |= {"ate": off / path, "translation": relative_error(moved, true[:, :3, 3])}
        found |= _scales(film, row, out, scale if bool(poses["metric"]) else None)
    wrong = found["rotation"] > WRONG_DEG or found["focal"] > WRONG_FOCAL
    wrong = wrong or found.get("ate", 0.0) > WRONG_PATH or (film.kind == "rotation" and free)
    return {**found, "wrong": bool(row.status == "accepted" and wrong)}


def _scales(film: Film, row: ClipRow, out: Path, left: float | None) -> dict[str, float | None]:
    """Return the error of the scale by each source, None where it gives none.

    left: factor that is left between the written poses and the true ones.
    """
    track, matches, _ = stage(out, row.clip)
    whole = cut(track, *longest_run(track, row.frames))
    structure = triangulate(matches, whole)
    frames = np.stack(list(ClipFiles().frames(film.path)))[row.first : row.last + 1][whole.frames]
    true = film.c2w[row.first + whole.frames]
    unit, _, _ = similarity(whole.c2w[:, :3, :3], true[:, :3, :3], whole.c2w[:, :3, 3], true[:, :3, 3])
    rows = {row.first + int(frame): at for at, frame in enumerate(whole.frames)}
    told: dict[str, float | None] = {"camera height": None if left is None else abs(1 / left - 1)}
    sources: dict[str, ScaleFrom] = {
        "known distance": KnownDistance(*film.known),
        "depth network": DepthWorld("tiny"),
    }
    for name, source in sources.items():
        try:
            scale = scale_of(source, frames, whole, structure, row_of=rows.get, shrunk_by=1.0)
            told[name] = abs(scale.factor / unit - 1)
        except ValueError:
            told[name] = None
    return told


def stage(out: Path, clip: str) -> tuple[Track, Matches, float]:
    """Return what an annotation keeps of a clip: track, matches, seconds."""
    return track_from(read_arrays(out / STAGES / f"{clip}.poses.npz", clip))


def angles_deg(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the angles `(n,)` between rotations `(n, 3, 3)`."""
    chord = np.linalg.norm(one - other, axis=(1, 2)) / np.sqrt(8)
    angle: np.ndarray = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return angle


def relative_error(places: np.ndarray, true: np.ndarray) -> float | None:
    """Return the median of |d - d_true| / |d_true|, d the way from a frame to the one `LAG` later."""
    if len(places) <= LAG:
        return None
    way, wanted = places[LAG:] - places[:-LAG], true[LAG:] - true[:-LAG]
    length = np.linalg.norm(wanted, axis=1)
    moving = length > 0.1 * np.median(length) if np.median(length) > 0 else length > 0
    if not moving.any():
        return None
    return float(np.median(np.linalg.norm(way - wanted, axis=1)[moving] / length[moving]))


def damaged(film: Film, other: Film, fault: str, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Return poses `(F, 4, 4)` and intrinsics `(F, 4)` of a film with a fault.

    draw: decides the amount, at least that of the constants above and up to half as much again, its direction
    and the frame at which a path is scaled or spliced, in the middle third.
    """
    rng = np.random.default_rng(draw)
    c2w, camera, count = film.c2w.copy(), film.intrinsics.copy(), len(film.c2w)
    more, way = rng.uniform(1.0, 1.5), draw % 2
    at = int(rng.integers(count // 3, 2 * count // 3))
    match fault:
        case "drift":
            aside = rng.normal(size=3)
            aside *= DRIFT_METRES * more / np.linalg.norm(aside)
            for frame, share in enumerate(np.linspace(0, 1, count)):
                angle = np.radians(DRIFT_DEG * more) * share * (1 - 2 * way)
                c, s = np.cos(angle), np.sin(angle)
                own = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])
                own[:3, 3] = aside * share
                c2w[frame] = c2w[frame] @ own
        case "mirrored":
            axis = int(rng.choice([0, 2]))  # a mirrored height is no fault where nobody climbs or looks up
            mirror = np.diag([-1.0 if own == axis else 1.0 for own in range(4)])
            c2w = mirror @ c2w @ mirror
        case "scaled in the middle":
            step = np.diff(c2w[:, :3, 3], axis=0)
            step[at:] *= FASTER * more if way else 1 / (FASTER * more)
            c2w[1:, :3, 3] = c2w[0, :3, 3] + np.cumsum(step, axis=0)
        case "spliced":
            back = np.linalg.inv(other.c2w[at]) @ other.c2w[at:count]
            c2w[at:] = c2w[at] @ back[: count - at]
        case "wrong focal length":
            camera[:, :2] *= FOCAL * more if way else 1 / (FOCAL * more)
        case _:
            raise AssertionError(fault)
    return c2w, camera


def judged(
    film: Film, out: Path, c2w: np.ndarray, camera: np.ndarray, settings: AnnotateSettings
) -> dict[str, Any]:
    """Return who refuses poses of a film: the filters, the context check, or nobody.

    They are judged as given poses are: by the matches that the annotation of the film has kept.
    """
    recipe = bench_recipe(settings)
    frames = np.stack(list(ClipFiles().frames(film.path)))
    _, matches, _ = stage(out / film.path.stem, f"{film.path.stem}-000")
    track = Track(np.arange(len(c2w)), c2w, camera, metric=True)
    told = measure(
        frames,
        track,
        triangulate(matches, track),
        Scale(1.0, None, None, "given"),
        matches=matches,
        of=len(frames),
        fps=FPS,
        settings=recipe.filters,
    )
    why = reasons(told, recipe.filters, zoom=False)
    if why:
        return {"by": "filters", "why": "; ".join(why)}
    try:
        check = check_context(PosedClip(frames, c2w, camera[0], FPS))
    except ValueError as error:
        return {"by": "clip", "why": str(error)}
    return {"by": "context check" if check.verdict == "does not fit" else "nobody", "why": check.sentence}

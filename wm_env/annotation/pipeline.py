"""The annotation of films: shots, poses, scale, filters, and what is written; see `annotate`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wm_env.annotation.backends import BACKENDS, Clip, Colmap, Given, PoseBackend
from wm_env.annotation.filters import ROTATION, reasons
from wm_env.annotation.footage import (
    Source,
    count_pictures,
    film_rate,
    given_sources,
    load_given,
    shot_frames,
    shrunk,
    sources_of,
)
from wm_env.annotation.joining import cut, longest_run
from wm_env.annotation.lens import steady_lens
from wm_env.annotation.matching import load_pycolmap, match_frames
from wm_env.annotation.measures import measure
from wm_env.annotation.page import clip_page
from wm_env.annotation.recipe import Recipe, load_recipe
from wm_env.annotation.scale import KnownDistance, ScaleFrom, prepare, scale_of
from wm_env.annotation.shots import cuts_of, find_shots, is_short, scene_scores
from wm_env.annotation.store import PAGES, Store, digest_of, film_facts, track_arrays, track_from
from wm_env.annotation.structure import triangulate
from wm_env.annotation.values import ClipRow, Matches, Scale, Shot, Track
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.isolation import undisturbed
from wm_env.model.storage.atomic import expanded, scratch_folder, write_text
from wm_env.model.storage.facts import number, shown

Progress = Callable[[int, int, str], None]


class Annotated(NamedTuple):
    """What an annotation found. out: its folder. rows: one a clip, in the order of the films."""

    out: Path
    rows: tuple[ClipRow, ...]

    @property
    def accepted(self) -> tuple[Path, ...]:
        """Folders of the accepted clips."""
        return tuple(self.out / row.clip for row in self.rows if row.status == "accepted")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How films are annotated; see `annotate`."""

    backend: str = "pycolmap"
    scale: ScaleFrom | None = None
    zoom: bool = False
    fps: float | None = None
    recipe: Recipe
    threads: int = 1

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend={self.backend!r} is unknown; expected {', '.join(BACKENDS)}")
        if self.zoom and self.backend == "given":
            raise ValueError("zoom goes with backend='pycolmap'; given poses bring their camera")
        if self.fps is not None and not number(self.fps, 0.001, 1e4):
            raise ValueError(f"fps is {shown(self.fps)}; expected frames per second")


@undisturbed()
def annotate(
    film: str | Path,
    out: str | Path,
    *,
    backend: str = "pycolmap",
    scale: ScaleFrom | None = None,
    zoom: bool = False,
    fps: float | None = None,
    recipe: Recipe | str | Path | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Annotated:
    """Return what became of every shot of a film, and write the clips that are good enough to `out`.

    A shot becomes a clip with a pose for every frame, which `PosedClip.load`, `context=` and `wm-env train
    import --layout clips` read; docs/clips.md tells the stages. Done stages are kept in `out`, so the same
    call goes on where it was interrupted, and another scale or another filter costs no new poses.

    film: a film, a folder of films, or a folder of pictures, which are one film and one shot. With
    backend="given", clips that have poses (docs/clips.md), to be filtered and scaled.
    backend: "pycolmap" finds poses (extra `annotate`), "given" takes those that are there.
    scale: what makes metres: a `KnownDistance`, `CameraHeight`, `PathLength`, `DepthModel` or `DepthWorld` of
    `wm_env.annotation`; without one the poses are up to scale and say so, and whatever needs metres refuses
    them.
    zoom: whether every frame has a focal length of its own; a clip is then written as the longest one saw it.
    fps: frames per second, where nothing says them or against what is said.
    recipe: thresholds, a TOML file like `wm_env/annotation/recipe.toml`.
    progress: called with clips done, clips known, and the name of the one in work.

    Raises `ValueError` in one sentence for what is no film, where no shot is long enough and where nothing
    could be placed; `ImportError` naming the extra; `FileNotFoundError`; `OSError` where nothing can be
    written. A clip that fails is a row with its reason, and the others go on.
    """
    settings = Settings(
        backend=backend,
        scale=scale,
        zoom=zoom,
        fps=fps,
        recipe=recipe
        if isinstance(recipe, Recipe)
        else load_recipe(None if recipe is None else Path(recipe)),
        threads=threads,
    )
    path = expanded(film)
    found = given_sources(path) if backend == "given" else sources_of(path)
    if isinstance(scale, KnownDistance) and len(found) > 1:
        raise ValueError(f"a known distance is in one film; {path} holds {len(found)}: annotate them alone")
    load_pycolmap()
    prepare(scale)
    store = Store(expanded(out))
    rows: list[ClipRow] = []
    for source in found:
        rows += _one_film(source, store, settings, progress, len(rows))
    _refuse_nothing(path, rows, settings)
    return Annotated(store.out, tuple(rows))


def _refuse_nothing(path: Path, rows: list[ClipRow], settings: Settings) -> None:
    """Raise `ValueError` where no clip came to be, with the reason of the first."""
    if any(row.status in ("accepted", "refused", "rotation only") for row in rows):
        return
    if all(row.status == "too short" for row in rows):
        longest = max(row.frames for row in rows)
        raise ValueError(
            f"{path} has no shot that is long enough: of {len(rows)} the longest has {longest} frames, at "
            f"least {settings.recipe.frames.shortest} are needed"
        )
    first = next(row for row in rows if row.status == "failed")
    raise ValueError(f"no clip of {path} was placed; {first.clip}: {'; '.join(first.reasons)}")


class _Work(NamedTuple):
    """A shot to be annotated: its frames uint8 `(F, h, w, 3)`, the pose backend, pixels here in one there."""

    shot: Shot
    frames: np.ndarray
    backend: PoseBackend
    shrunk_by: float
    caption: str | None


def _one_film(
    source: Source, store: Store, settings: Settings, progress: Progress | None, before: int
) -> list[ClipRow]:
    """Return the rows of a film; one that cannot be read is a row too."""
    rows: list[ClipRow] = []
    facts = film_facts(source.path)

    def keep(row: ClipRow) -> None:
        store.remove_clip(row.clip) if row.status != "accepted" else None
        store.write_row(row)
        rows.append(row)

    try:
        shots = None if settings.backend == "given" else _shots(source, store, settings, facts)
        for shot in shots or ():
            if is_short(shot, settings.recipe.frames):
                least = f"{len(shot.kept)} frames, at least {settings.recipe.frames.shortest} are needed"
                keep(_row(shot, "too short", reasons=(least,)))
        for work in _work(source, shots, settings):
            if progress is not None:
                progress(before + len(rows), before + len(shots or (0,)), work.shot.clip)
            keep(_one_clip(work, store, settings, facts))
    except (ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        empty = Shot(source.name, str(source.path), 0, 0, (), settings.fps or 0.0)
        keep(_row(empty, "failed", reasons=(said,)))
    if progress is not None:
        progress(before + len(rows), before + len(rows), source.name)
    return rows


def _shots(source: Source, store: Store, settings: Settings, facts: dict[str, Any]) -> list[Shot]:
    """Return the shots of a film; its cuts are kept."""
    rate = film_rate(source.path, settings.fps)
    asked = settings.recipe.frames
    if source.path.is_dir():
        count, cuts = count_pictures(source.path), []
    else:
        digest = digest_of({"stage": "shots", **facts, **asdict(asked)})
        kept = store.stage(f"{source.name}.shots", digest)
        if kept is None:
            scores = scene_scores(source.path)
            kept = {
                "frames": np.array(len(scores)),
                "cuts": np.array(cuts_of(source.path, scores, asked), int),
            }
            store.keep(f"{source.name}.shots", digest, kept)
        count, cuts = int(kept["frames"]), kept["cuts"].tolist()
    return find_shots(count, cuts, film=str(source.path), name=source.name, fps=rate, settings=asked)


def _work(source: Source, shots: list[Shot] | None, settings: Settings) -> Iterator[_Work]:
    """Yield what is to be annotated of a film: its shots that are long enough, or its given clip."""
    side = settings.recipe.frames.longest_side
    if shots is not None:
        wanted = [shot for shot in shots if not is_short(shot, settings.recipe.frames)]
        backend = Colmap(settings.recipe, zoom=settings.zoom, threads=settings.threads)
        for shot, frames, large in shot_frames(source.path, wanted, side):
            yield _Work(shot, frames, backend, frames.shape[2] / large, None)
        return
    given = load_given(source.path, settings.fps)
    count, large = given.frames.shape[0], given.frames.shape[2]
    frames = np.stack([shrunk(frame, side) for frame in given.frames])
    share = np.array([frames.shape[2] / large, frames.shape[1] / given.frames.shape[1]])
    track = given.track._replace(intrinsics=given.track.intrinsics * np.tile(share, 2))
    shot = Shot(source.name, str(source.path), 0, count - 1, tuple(range(count)), given.fps)
    yield _Work(shot, frames, Given(track), float(share[0]), given.caption)


def _row(shot: Shot, status: Any, **others: Any) -> ClipRow:
    return ClipRow(
        clip=shot.clip,
        film=shot.film,
        first=shot.first,
        last=shot.last,
        fps=shot.fps,
        frames=len(shot.kept),
        status=status,
        **others,
    )


def _one_clip(work: _Work, store: Store, settings: Settings, facts: dict[str, Any]) -> ClipRow:
    """Return the row of a clip and write all that belongs to it; what fails is a row too."""
    shot = work.shot
    try:
        track, matches, seconds, digest = _poses(work, store, settings, facts)
    except (ValueError, RuntimeError) as error:
        return _row(shot, "failed", reasons=(" ".join(str(error).split()),))
    whole = cut(track, *longest_run(track, len(shot.kept)))
    structure = triangulate(matches, whole)
    frames = work.frames[whole.frames]
    notes: list[str] = list(whole.left_out)
    scale: Scale | None = Scale(1.0, None, None, "the given poses") if whole.metric else None
    if settings.scale is not None and whole.motion == "free":
        try:
            scale = _scale(work, frames, whole, structure, settings)
        except ValueError as error:
            notes.append(str(error))
    measures = measure(
        frames,
        whole,
        structure,
        scale,
        matches=matches,
        of=len(shot.kept),
        fps=shot.fps,
        settings=settings.recipe.filters,
    )
    why = reasons(measures, settings.recipe.filters, zoom=settings.zoom)
    if len(whole.frames) < settings.recipe.frames.shortest:
        why += (f"the longest run has {len(whole.frames)} frames, at least "
                f"{settings.recipe.frames.shortest} are needed",)  # fmt: skip
    metric = scale is not None and whole.motion == "free"
    moved = _scaled(whole, scale)._replace(metric=metric)
    clip: PosedClip | None = None
    if whole.motion == "rotation":
        why = (ROTATION, *why)
    elif not why:
        clip, why = _clip(frames, moved, work, settings)
    status = "accepted" if clip else "rotation only" if whole.motion == "rotation" else "refused"
    own = digest_of({"poses": digest, "scale": None if scale is None else scale._asdict(), "fps": shot.fps})
    row = _row(
        shot,
        status,
        reasons=why,
        metric=metric,
        run=(shot.kept[int(whole.frames[0])], shot.kept[int(whole.frames[-1])]),
        left_out=tuple(notes),
        measures=measures.to_dict(),
        scale=scale,
        seconds=seconds,
        digest=own,
    )
    store.write_poses(shot.clip, np.array(shot.kept)[moved.frames], moved)
    (store.out / PAGES).mkdir(exist_ok=True)
    write_text(store.out / PAGES / f"{shot.clip}.html", clip_page(row, work.frames, moved, structure))
    if clip is not None and not store.accepted(shot.clip, own):
        store.write_clip(shot.clip, clip, metric=metric)
    return row


def _scaled(track: Track, scale: Scale | None) -> Track:
    """Return a track in metres, or as it is where no scale is known."""
    c2w = track.c2w.copy()
    c2w[:, :3, 3] *= 1.0 if scale is None else scale.factor
    return track._replace(c2w=c2w)


def _clip(
    frames: np.ndarray, track: Track, work: _Work, settings: Settings
) -> tuple[PosedClip | None, tuple[str, ...]]:
    """Return the clip, or why it is none."""
    camera = np.median(track.intrinsics, axis=0)
    try:
        if settings.zoom:
            frames, camera = steady_lens(frames, track.intrinsics)
        return PosedClip(frames, track.c2w, camera, work.shot.fps, work.caption), ()
    except ValueError as error:
        return None, (str(error),)


def _poses(
    work: _Work, store: Store, settings: Settings, facts: dict[str, Any]
) -> tuple[Track, Matches, float, str]:
    """Return the poses of a clip, its matches, the seconds they took, and what they were made from."""
    recipe = settings.recipe
    made_from = {
        **facts,
        "kept": work.shot.kept,
        "frames": asdict(recipe.frames),
        "features": asdict(recipe.features),
        "backend": work.backend.name,
        **work.backend.settings(),
    }
    digest = digest_of(json.loads(json.dumps(made_from)))
    kept = store.stage(f"{work.shot.clip}.poses", digest)
    if kept is not None:
        return (*track_from(kept), digest)
    begun = time.perf_counter()
    with scratch_folder(store.work, work.shot.clip) as scratch:
        matches = match_frames(
            work.frames, scratch, recipe.features, one_camera=not settings.zoom, threads=settings.threads
        )
        track = work.backend.track(Clip(matches, len(work.frames), scratch))
    seconds = time.perf_counter() - begun
    store.keep(f"{work.shot.clip}.poses", digest, track_arrays(track, matches, seconds))
    return track, matches, seconds, digest


def _scale(work: _Work, frames: np.ndarray, track: Track, structure: Any, settings: Settings) -> Scale | None:
    kept = {number: at for at, number in enumerate(work.shot.kept)}
    rows = {int(frame): row for row, frame in enumerate(track.frames)}

    def row_of(number: int) -> int | None:
        """Return the row of the frame that was kept nearest to one of the film."""
        if not work.shot.kept[0] <= number <= work.shot.kept[-1]:
            return None
        nearest = min(kept, key=lambda one: abs(one - number))
        return rows.get(kept[nearest])

    assert settings.scale is not None
    return scale_of(settings.scale, frames, track, structure, row_of=row_of, shrunk_by=work.shrunk_by)

"""`wm-env bench published`: film the scenes of a folder, score them, and write the published layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_env.bench.published.folder import BenchScene, read_split
from wm_env.bench.published.report import Info, PublishedReport, markdown
from wm_env.bench.published.results import EVALUATIONS, Results, read_results, write_results
from wm_env.bench.published.rows import film_scene, video_path, write_video
from wm_env.bench.published.score import score_revisits
from wm_env.bench.records import read_json
from wm_env.bench.row_file import write_json
from wm_env.model.storage.atomic import check_writable, remove_leftovers, write_text
from wm_env.model.world import World
from wm_env.progress import Bar
from wm_env.worlds import resolve_world


def run(
    bench: Path,
    out: Path,
    *,
    world: str,
    splits: Sequence[str],
    scenes: int | None = None,
    seed: int = 42,
    device: str = "cpu",
) -> PublishedReport:
    """Return the report of a world on the benchmark folder `bench`, everything written into `out`.

    scenes: only the first of each split. seed: noise seed of every scene. Videos that exist are kept; scenes
    that cannot be used are in `problems`, and the rest is scored. Raises `ValueError` for a world that
    renders its own scenes.
    """
    made = resolve_world(world, device=device)
    if made.spec.sees_scene:
        raise ValueError(f"world {made.spec.label!r} renders its own scenes and cannot start from a picture")
    folders = {split: read_split(bench, split) for split in splits}
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out / "method_info.json")
    info = Info(
        method=made.spec.label,
        weights_sha256=made.spec.weights_sha256,
        fps=made.spec.fps,
        resolution=tuple(made.spec.frame_size),
        seed=seed,
    )
    _claim(out, info.to_json())
    found: dict[str, dict[str, Any]] = {}
    problems: dict[str, dict[str, str]] = {}
    for split, folder in folders.items():
        refused = _film(made, folder.scenes[:scenes], out, split, seed)
        revisits = score_revisits(folder.scenes[:scenes], out, split)
        found[split] = {"revisit_consistency": revisits.to_json()}
        problems[split] = folder.problems | revisits.unreadable | refused
    write_results(out, Results(info=info.to_json(), videos={}, evaluations=found, poses={}))
    results = read_results(out)
    report = PublishedReport(
        benchmark="published",
        **vars(info),
        videos={split: len(videos) for split, videos in results.videos.items()},
        problems=problems,
        drops_first_frame=results.drops_first_frame,
        evaluations=results.evaluations,
        poses=results.poses,
        nulls={
            f"{split}/{name}": "no evaluator wrote it"
            for split, evaluated in results.evaluations.items()
            for name in EVALUATIONS
            if evaluated[name] is None
        },
    )
    text, table = paths(out)
    write_json(table, report.to_json(), indent=2)
    write_text(text, markdown(report))
    return report


def paths(out: Path) -> tuple[Path, Path]:
    """Return where the report is, as Markdown and as JSON."""
    return (out / "report").with_suffix(".md"), out / "report.json"


def _claim(out: Path, info: dict[str, Any]) -> None:
    """Write whose videos `out` holds, or raise `ValueError` where it holds another world's."""
    path = out / "method_info.json"
    if path.is_file():
        there = read_json(path)
        odd = [
            f"{key}: {there.get(key)} there, {info[key]} now" for key in info if there.get(key) != info[key]
        ]
        if odd and any(out.glob("*/*_generated.mp4")):
            raise ValueError(f"{out} holds videos of another run ({'; '.join(odd)}); choose another --out")
    for folder in (out, *(path for path in out.iterdir() if path.is_dir())):
        remove_leftovers(folder)
    write_json(path, info, indent=2)


def _film(world: World, scenes: Sequence[BenchScene], out: Path, split: str, seed: int) -> dict[str, str]:
    """Write the videos that are not there yet; return why a scene could not be filmed, by its id."""
    refused = {}
    left = [scene for scene in scenes if not video_path(out, split, scene.id).exists()]
    total = sum(-(-(len(scene.c2w) - 1) // world.spec.frames_per_step) for scene in left)
    with Bar(total, split) as bar:
        for scene in left:
            bar.set_postfix_str(scene.id, refresh=False)
            try:
                frames = film_scene(world, scene, seed, bar.update)
            except ValueError as error:  # a broken picture or an impossible lens
                refused[scene.id] = str(error)
                continue
            write_video(video_path(out, split, scene.id), frames, world.spec.fps)
    return refused

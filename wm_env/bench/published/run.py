"""`wm-env bench published`: film the scenes of a folder, score them, and write the published layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_env.bench.published.film import Filming, filming
from wm_env.bench.published.folder import BenchScene, read_split
from wm_env.bench.published.report import Info, PublishedReport, markdown
from wm_env.bench.published.results import EVALUATIONS, Results, read_results, write_results
from wm_env.bench.published.rows import video_path, write_video
from wm_env.bench.published.score import score_revisits
from wm_env.bench.published.table import PUBLISHED, our_scores
from wm_env.bench.records import read_json
from wm_env.bench.row_file import write_json
from wm_env.model.storage.atomic import check_writable, remove_leftovers, write_text
from wm_env.progress import Bar


def run(
    bench: Path,
    out: Path,
    *,
    world: str,
    splits: Sequence[str],
    scenes: int | None = None,
    seed: int = 42,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    sampler_steps: int = 60,
) -> PublishedReport:
    """Return the report of a world on the benchmark folder `bench`, everything written into `out`.

    scenes: only the first of each split. seed: noise seed of every scene. options: of the world's family.
    sampler_steps: of a model that draws a whole clip. Videos that exist are kept; scenes
    that cannot be used are in `problems`, and the rest is scored. Raises `ValueError` for a world that
    renders its own scenes.
    """
    folders = {split: read_split(bench, split) for split in splits}
    made = filming(world, device, options or {}, sampler_steps)
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out / "method_info.json")
    info = Info(
        method=made.label,
        weights_sha256=made.weights_sha256,
        fps=made.fps,
        resolution=tuple(made.frame_size),
        seed=seed,
        refiner=made.refiner,
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
        scores={
            split: our_scores(results.evaluations[split], results.poses[split]) for split in results.videos
        },
        published={split: PUBLISHED[split] for split in results.videos},
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


def _film(world: Filming, scenes: Sequence[BenchScene], out: Path, split: str, seed: int) -> dict[str, str]:
    """Write the videos that are not there yet; return why a scene could not be filmed, by its id."""
    refused = {}
    left = [scene for scene in scenes if not video_path(out, split, scene.id).exists()]
    total = sum(world.steps(scene) for scene in left)
    with Bar(total, split) as bar:
        for scene in left:
            bar.set_postfix_str(scene.id, refresh=False)
            try:
                frames = world.film(scene, seed, bar.update)
            except ValueError as error:  # a broken picture or an impossible lens
                refused[scene.id] = str(error)
                continue
            write_video(video_path(out, split, scene.id), frames, world.fps)
    return refused

"""The published protocol from weights and a folder to scores beside the published ones, rehearsed small.

The folder is made of our own renders, the weights are random.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wm_env.bench.published import read_results, read_video, video_path
from wm_env.bench.published.run import paths
from wm_env.bench.published.table import PUBLISHED, Scores, comparison, our_scores
from wm_env.cli import main
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes

SIZE = (64, 96)
FRAMES = 30  # neither whole chunks nor 8 k + 1


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark folder of one rendered scene a split, which the camera leaves and comes back to."""
    folder = tmp_path_factory.mktemp("published") / "bench"
    scene = make_scenes([3], "val")
    lens = intrinsics_from_fov(90.0, SIZE[1], SIZE[0])
    for split, speed in (("benchmark_v2_smooth_60s", 0.01), ("benchmark_v2_hard_60s", 0.03)):
        (folder / split / "images").mkdir(parents=True)
        way = np.minimum(np.arange(FRAMES), np.arange(FRAMES)[::-1]) * speed
        c2w = np.tile(start_pose(scene, 3).numpy(), (FRAMES, 1, 1))
        c2w[:, :3, 3] += way[:, None] * c2w[:, :3, 2]
        picture, _ = render(scene, torch.from_numpy(c2w[None, :1]), torch.tensor([lens]), *SIZE)
        Image.fromarray(picture[0, 0].numpy()).save(folder / split / "images" / "indoor_001.png")
        camera = np.array([[lens[0], 0, lens[2]], [0, lens[1], lens[3]], [0, 0, 1]])
        np.savez(
            folder / split / "indoor_001.npz",
            c2w=c2w, intrinsics=np.tile(camera, (FRAMES, 1, 1)), fps=16, num_frames=FRAMES,
        )  # fmt: skip
        entry = {"id": "indoor_001", "prompt": "a kitchen", "image_path": "images/indoor_001.png"}
        entry |= {"camera_path": "indoor_001.npz", "scene_type": "indoor"}
        (folder / split / "run_manifest.jsonl").write_text(json.dumps(entry) + "\n")
        pairs = [{"frame_a": 2, "frame_b": FRAMES - 3, "quality_score": 0.1}]
        scenes = [{"id": "indoor_001", "evaluation_pairs": pairs}]
        (folder / split / "scene_trajectories_v2.json").write_text(json.dumps({"scenes": scenes}))
    return folder


def run(bench: Path, out: Path, *words: object) -> dict[str, object]:
    command = ["bench", "published", "--bench", bench, "--out", out, "--frame-size", *SIZE, *words]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in command])
    assert ended.value.code == 0
    return json.loads((out / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("streaming", ("--refiner", "ltx2", "--offload", "text-blocks", "vae", "refiner-blocks")),
        ("bidirectional", ("--sampler-steps", 2, "--refiner", "ltx2")),
    ],
)
def test_the_published_protocol_goes_from_weights_to_a_comparison(
    pipelines: Callable[[str], Path], bench: Path, tmp_path: Path, variant: str, options: tuple[object, ...]
) -> None:
    out, weights = tmp_path / "ours", pipelines(variant)
    report = run(bench, out, "--world", weights, *options)
    assert report["videos"] == {"simple_60s": 1, "hard_60s": 1} and not any(report["problems"].values())
    assert report["refiner"] == "ltx2" and report["drops_first_frame"] and report["fps"] == 16
    video = video_path(out, "simple_60s", "indoor_001")
    assert read_video(video).shape == (FRAMES, *SIZE, 3)
    for split, scores in report["scores"].items():
        assert scores["psnr"] is not None and scores["rot_err"] is None
        assert (
            report["published"][split]["SANA-WM + refiner"]["rot_err"]
            == PUBLISHED[split]["SANA-WM + refiner"].rot_err
        )
    made = video.stat().st_mtime_ns

    # upstream's evaluators run in an environment of their own; the same command reads what they wrote
    (out / "simple_60s" / "eval_poses.json").write_text(
        json.dumps({"indoor_001": {"rot_err": 4.5, "cammc": 2}})
    )
    (out / "eval" / "simple_60s" / "temporal_degradation.json").write_text(json.dumps({"dIQ": 1.25}))
    report = run(bench, out, "--world", weights, *options)
    assert video.stat().st_mtime_ns == made
    ours = report["scores"]["simple_60s"]
    assert (ours["rot_err"], ours["cammc"], ours["diq"]) == (4.5, 2.0, 1.25)
    page = paths(out)[0].read_text()
    assert "| simple_60s | RotErr |" in page and "| SANA-WM + refiner | 4.5 | 1.39 |" in page
    assert f"| **{report['method']}** | 4.5 | - | 2 |" in page
    assert read_results(out).info["resolution"] == list(SIZE)


def test_what_no_evaluator_wrote_stays_open_in_the_comparison() -> None:
    poses = {"a": {"RotErr": 4.0}, "b": {"RotErr": 6.0}, "broken": 3}
    written = {"vbench_scores": {"overall": 80.5}, "revisit_consistency": None, "summary": [1]}
    ours = our_scores(written, poses)
    assert ours == Scores(rot_err=5.0, overall=80.5)
    assert our_scores({}, None) == Scores()
    lines = comparison("hard_60s", "tiny", ours)
    assert len(lines) == 2 + len(PUBLISHED["hard_60s"]) + 1
    assert lines[-1] == "| **tiny** | 5 | - | - | 80.5 | - | - | - | - |"
    assert all(line.count("|") == lines[0].count("|") for line in lines)

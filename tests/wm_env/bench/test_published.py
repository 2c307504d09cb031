"""The published protocol: its folder in, its layout out and back, and what is broken is listed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wm_env.bench.published import (
    Results,
    read_results,
    read_split,
    read_video,
    score_revisits,
    video_path,
    windows,
    write_results,
    write_video,
)
from wm_env.cli import main
from wm_env.model.metrics import psnr

FRAMES = 18  # not a whole number of chunks


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A benchmark folder with two good scenes, one without its camera file and one without its picture."""
    folder = tmp_path / "bench" / "benchmark_v2_smooth_60s"
    (folder / "images").mkdir(parents=True)
    (folder / "scene_set").mkdir()
    rng = np.random.default_rng(0)
    entries, trajectories = [], []
    for index, name in enumerate(("indoor_001", "indoor_002", "game_style_001", "outdoor_001")):
        picture = rng.integers(0, 256, (72, 128, 3), dtype=np.uint8)
        if name != "outdoor_001":
            Image.fromarray(picture).save(folder / "images" / f"{name}.png")
        c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
        c2w[:, 2, 3] = 0.02 * np.arange(FRAMES) * (index + 1)
        camera = np.array([[64.0, 0, 64], [0, 64.0, 36], [0, 0, 1]])
        if name != "game_style_001":
            np.savez(
                folder / f"{name}.npz",
                c2w=c2w,
                intrinsics=np.tile(camera, (FRAMES, 1, 1)),
                fps=16,
                num_frames=FRAMES,
            )
        entries.append(
            {
                "id": name,
                "prompt": "a room",
                "image_path": f"images/{name}.png",
                "camera_path": f"{name}.npz",
                "scene_type": name.rsplit("_", 1)[0],
            }
        )
        pairs = [
            {"frame_a": a, "frame_b": b, "distance_m": 0.1, "angle_diff_deg": 1.0, "quality_score": q}
            for a, b, q in ((1, 9, 0.5), (2, 17, 0.1), (3, 3, 0.2), (4, 8, 9.0), (4, 9, 0.3), (5, 9, 0.4))
        ]
        trajectories.append({"id": name, "evaluation_pairs": pairs})
    (folder / "run_manifest.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries) + "\n")
    (folder / "scene_trajectories_v2.json").write_text(json.dumps({"scenes": trajectories}))
    names = [entry["id"] for entry in entries]
    (folder / "scene_set" / "kept_scenes.txt").write_text("\n".join([*names, "lost_001"]) + "\n")
    return tmp_path / "bench"


def test_a_folder_is_read_and_every_scene_that_cannot_be_used_is_named(bench) -> None:
    folder = read_split(bench, "simple_60s")
    assert [scene.id for scene in folder.scenes] == ["indoor_001", "indoor_002"]
    assert set(folder.problems) == {"game_style_001", "outdoor_001", "lost_001"}
    assert [pair.quality_score for pair in folder.scenes[0].pairs] == [0.1, 0.2, 0.3, 0.4, 0.5]
    with pytest.raises(FileNotFoundError, match="no SANA-WM-Bench folder"):
        read_split(bench, "hard_60s")


def test_a_minute_has_six_windows_with_and_without_frame_zero() -> None:
    assert len(windows(961)) == len(windows(960)) == 6
    assert windows(961)[-1] == (800, 960)


def test_the_result_layout_is_parsed_back_identically(tmp_path: Path) -> None:
    evaluations = {
        "simple_60s": {
            "vbench_scores": {"imaging_quality": 0.7},
            "revisit_consistency": None,
            "temporal_degradation": {"dIQ": 1.17},
            "summary": None,
        }
    }
    poses = {"simple_60s": {"indoor_001": {"rot_err": 4.5}}}
    video = video_path(tmp_path, "simple_60s", "indoor_001")
    write_video(video, torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 16)
    given = Results(
        info={"method": "ours", "refiner": "ltx2"},
        videos={"simple_60s": {"indoor_001": video}},
        evaluations=evaluations,
        poses=poses,
    )
    write_results(tmp_path, given)
    assert read_results(tmp_path) == given
    assert read_results(tmp_path).drops_first_frame


def test_a_broken_or_missing_video_is_listed_and_the_rest_is_scored(bench, tmp_path: Path) -> None:
    scenes = read_split(bench, "simple_60s").scenes
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randint(0, 256, (FRAMES, 8, 8, 3), generator=generator, dtype=torch.uint8)
    frames = smooth.repeat_interleave(8, 1).repeat_interleave(8, 2)
    write_video(video_path(tmp_path, "simple_60s", "indoor_001"), frames, 16)
    video_path(tmp_path, "simple_60s", "indoor_002").write_bytes(b"not a video")
    found = score_revisits(scenes, tmp_path, "simple_60s")
    assert list(found.unreadable) == ["indoor_002"]
    back = read_video(video_path(tmp_path, "simple_60s", "indoor_001"))
    assert back.shape == frames.shape
    scored = found.per_scene["indoor_001"]
    assert [(one.frame_a, one.frame_b) for one in scored] == [(2, 17), (4, 9), (5, 9), (1, 9)]
    assert scored[0].psnr == pytest.approx(float(psnr(back[2], back[17])))
    assert found.overall.pairs == 4
    assert found.overall.lpips is None


def test_broken_lines_and_files_are_listed_and_the_rest_is_read(bench) -> None:
    folder = bench / "benchmark_v2_smooth_60s"
    (folder / "indoor_002.npz").write_bytes(b"PK\x03\x04 no archive")
    with (folder / "run_manifest.jsonl").open("a") as manifest:
        manifest.write('\nnot JSON\n{"prompt": "no id"}\n{"id": "../outside"}\n')
    found = read_split(bench, "simple_60s")
    assert [scene.id for scene in found.scenes] == ["indoor_001"]
    broken = {"line 6", "line 7", "line 8", "indoor_002"}
    assert set(found.problems) == {"game_style_001", "outdoor_001", "lost_001"} | broken
    (folder / "scene_trajectories_v2.json").write_text("[]")
    with pytest.raises(ValueError, match="does not list revisit pairs"):
        read_split(bench, "simple_60s")


def test_the_command_films_what_it_can_and_says_what_it_could_not(
    bench, pure_world, tmp_path, capsys
) -> None:
    (bench / "benchmark_v2_smooth_60s" / "images" / "indoor_001.png").write_bytes(b"no picture")
    words = ["bench", "published", "--bench", str(bench), "--out", str(tmp_path / "ours")]
    with pytest.raises(SystemExit) as exit:
        main([*words, "--world", pure_world, "--splits", "simple_60s", "--json", str(tmp_path / "r.json")])
    assert exit.value.code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["videos"] == {"simple_60s": 1}
    assert len(read_video(video_path(tmp_path / "ours", "simple_60s", "indoor_002"))) == FRAMES
    assert set(report["problems"]["simple_60s"]) == {
        *("game_style_001", "outdoor_001", "lost_001", "indoor_001"),
    }
    assert "not an image" in report["problems"]["simple_60s"]["indoor_001"]
    assert "game_style_001" in capsys.readouterr().out
    assert report["nulls"]["simple_60s/vbench_scores"] == "no evaluator wrote it"

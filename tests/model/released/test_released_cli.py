"""The commands of the released worlds: what a folder holds, what fits, and whole paths as videos."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image
from released_parts import CFG, random_released
from safetensors.torch import save_file

from wm_env.cli import main
from wm_env.cli.record_path import load_trajectory
from wm_env.model.released.report import describe, lines

Pipelines = Callable[[str], Path]


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "start.png")
    return tmp_path / "start.png"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "refiner"), [("bidirectional", "none"), ("bidirectional", "ltx2"), ("chunk-causal", "none")]
)
def test_a_whole_path_becomes_a_video(
    pipelines: Pipelines, image: Path, tmp_path: Path, world: str, refiner: str
) -> None:
    (tmp_path / "walk.txt").write_text("w-24,dw-16,none-8")
    status = command(
        "record", "--world", f"sana-wm-{world}", "--weights", pipelines(world), "--refiner", refiner,
        "--trajectory", tmp_path / "walk.txt", "--image", image, "--prompt", "a kitchen", "--out",
        tmp_path / "clip.mp4", "--frame-size", 64, 96, "--sampler-steps", 2, "--json", tmp_path / "clip.json",
    )  # fmt: skip
    assert status == 0
    facts = json.loads((tmp_path / "clip.json").read_text())
    assert (facts["frames"], facts["refiner"], facts["fps"]) == (49, refiner, 16)
    assert len(imageio.mimread(tmp_path / "clip.mp4", memtest=False)) == 49


def test_bad_whole_paths_are_refused_in_one_line(
    pipelines: Pipelines, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(world: str, c2w: np.ndarray, expected: str) -> None:
        np.save(tmp_path / "path.npy", c2w)
        status = command(
            "record", "--world", world, "--weights", tmp_path / "none", "--trajectory", tmp_path / "path.npy",
            "--image", image, "--out", tmp_path / "clip.mp4", "--frame-size", 64, 96,
        )  # fmt: skip
        told = capsys.readouterr().err.strip()
        assert status == 2 and expected in told and "\n" not in told

    still = np.eye(4)[None].repeat(48, 0)
    refused("sana-wm-bidirectional", still, "nearest are 41 and 49")
    bent = np.eye(4)[None].repeat(49, 0)
    bent[7, 0, 0] = 2
    refused("sana-wm-bidirectional", bent, "pose 7 is not a rigid")
    refused("sana-wm-bidirectional", np.eye(4)[None].repeat(49, 0), "wm-env download sana-wm-bidirectional")
    refused("sana-wm-streaming", np.eye(4)[None].repeat(49, 0), "--trajectory goes with")
    refused("sana-wm-bidirectional", np.eye(3)[None].repeat(49, 0), "expected (F, 4, 4)")


def test_trajectory_files_of_every_kind_are_read(tmp_path: Path) -> None:
    c2w = np.eye(4)[None].repeat(9, 0)
    np.save(tmp_path / "a.npy", c2w)
    np.savez(tmp_path / "a.npz", c2w=c2w, intrinsics=np.array([60.0, 60, 48, 32]))
    (tmp_path / "a.json").write_text(json.dumps({"c2w": c2w.tolist()}))
    (tmp_path / "a.txt").write_text("none-8\n")
    for name in ("a.npy", "a.npz", "a.json", "a.txt"):
        poses, rows = load_trajectory(tmp_path / name)
        assert poses.dtype == torch.float64 and np.allclose(poses, c2w), name
        assert (rows is not None) == (name == "a.npz")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ValueError, match="c2w"):
        load_trajectory(tmp_path / "b.json")


def test_info_tells_what_a_folder_holds_and_whether_it_fits(tmp_path: Path) -> None:
    (tmp_path / "dit").mkdir()
    save_file(random_released(), tmp_path / "dit" / "sana_wm_1600m_720p.safetensors")
    report = describe(tmp_path, default=CFG)
    [file] = report["stage1"]
    assert (file["variant"], file["tensors"], file["misfit"]) == (
        "bidirectional",
        len(random_released()),
        None,
    )
    assert report["missing"] == [
        "LTX-2 autoencoder", "Gemma-2 text encoder", "YAML with text_encoder.chi_prompt"
    ]  # fmt: skip
    assert "fits" in "\n".join(lines(report))
    assert "does not fit" in "\n".join(lines(describe(tmp_path)))  # the released sizes are others


def test_info_prints_a_whole_pipeline(pipelines: Pipelines, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("info", pipelines("streaming")) == 0
    told = capsys.readouterr().out
    assert "streaming" in told and "not here" not in told and "does not fit" not in told


@pytest.mark.slow
def test_the_plan_says_what_fits_and_what_it_gives_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    assert command("info", "--plan", "--vram", 24, "--world", "sana-wm-streaming", "--json", out) == 0
    plan = json.loads(out.read_text())["worlds"]["sana-wm-streaming"]
    chosen = plan["chosen"]
    assert plan["fits"] and chosen["refiner"] == "ltx2" and chosen["peak"] <= 22
    told = capsys.readouterr().out
    assert "with refiner: --refiner ltx2" in told and "without refiner: --refiner none" in told
    assert "s a step" in told and "GiB over the bus; gives up: the refiner remembers" in told
    weights_only = 2 * 2.6618e9 / 2**30
    assert weights_only < min(way["peak"] for way in plan["ways"] if "stage1-blocks" not in way["offload"])
    assert command("info", "--plan", "--vram", 4, "--world", "sana-wm-streaming") == 0
    assert "nothing fits; the smallest needs" in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_steps_a_folder_of_weights(
    pipelines: Pipelines,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = Path(__file__).resolve().parents[3] / "examples" / "released_weights.py"
    out = tmp_path / "walk.mp4"
    words = ["--weights", pipelines("streaming"), "--image", image, "--prompt", "a kitchen", "--keys", "w."]
    words += ["--device", "cpu", "--size", "64", "96", "--out", out]
    monkeypatch.setattr(sys, "argv", [str(word) for word in (script, *words)])
    runpy.run_path(str(script), run_name="__main__")
    assert "chunk   2" in capsys.readouterr().out
    assert len(imageio.mimread(out, memtest=False)) == 49

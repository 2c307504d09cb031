"""The example that trains on one's own clips, from a folder of files to an environment that steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from wm_env.model.data.procedural import RenderConfig, render_clip
from wm_env.model.embedded import load_embedded

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_own_world.py"
FRAMES = 9


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Folder with three videos and their cameras; the third has lost a pose."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for seed in range(3):
        arrays, _ = render_clip(seed, RenderConfig(frames=FRAMES, event_fraction=0.0))
        iio.imwrite(folder / f"{seed}.mp4", arrays["rgb"], fps=16, codec="libx264", macro_block_size=1)
        poses = arrays["c2w"][: FRAMES - (seed == 2)]
        np.savez(folder / f"{seed}.npz", c2w=poses, intrinsics=arrays["intrinsics"], caption="a room")
    return folder


def test_a_folder_of_clips_becomes_a_world_that_opens(clips: Path, tmp_path: Path) -> None:
    words = ["--clips", clips, "--out", tmp_path / "out", "--frames", FRAMES, "--steps", 2, "--skip-bad"]
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 clips, 1 bad" in done.stdout and "  2  9 frames for 8 poses" in done.stdout
    world, before = load_embedded(tmp_path / "out" / "world"), load_embedded("tiny-pure")
    assert world.spec.name == "out" and world.spec.trained_steps == 2
    moved = [
        float((a - b).abs().max())
        for a, b in zip(world.dit.state_dict().values(), before.dit.state_dict().values(), strict=True)
    ]
    assert 0 < max(moved) < 0.1  # two steps of fine-tuning away from the shipped weights
    assert Image.open(tmp_path / "out" / "strip.png").size == (2 * 8 * 64, 2 * 64)

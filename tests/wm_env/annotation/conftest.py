"""One rendered walk and one turn on the spot, with the fine texture, for all tests of annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.paths import start_pose, walk_keys
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes
from wm_env.model.storage.film import film_file

SIZE, FOV = 256, 80.0
SHORT = "[frames]\nshortest = 21\n[features]\noffsets = [1, 2, 4, 8, 16]\n"


@dataclass(frozen=True)
class Rendered:
    """A clip with its true poses, and the same as a film without them."""

    clip: PosedClip
    film: Path


def _rendered(folder: Path, name: str, keys: list[str], seed: int) -> Rendered:
    scene = make_scenes([seed], "val")
    c2w = walk_keys(scene, start_pose(scene, seed)[None], keys)
    camera = torch.tensor([intrinsics_from_fov(FOV, SIZE, SIZE)], dtype=torch.float64)
    frames, _ = render(scene, c2w, camera, SIZE, SIZE, detail=1.0)
    with film_file(folder / f"{name}.mp4", fps=16, crf=10) as add:
        for frame in frames[0].numpy():
            add(frame)
    clip = PosedClip(frames[0].numpy(), c2w[0].numpy(), camera[0].numpy(), 16)
    return Rendered(clip, folder / f"{name}.mp4")


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """A walk of 25 frames that goes aside and turns."""
    return _rendered(tmp_path_factory.mktemp("walked"), "walked", ["wd", "w", "wa", "wa", "w", "wd"], 1)


@pytest.fixture(scope="session")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """A turn on the spot of 25 frames."""
    return _rendered(tmp_path_factory.mktemp("turned"), "turned", ["d"] * 6, 0)


@pytest.fixture(scope="session")
def short_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for clips so short."""
    path = tmp_path_factory.mktemp("recipe") / "short.toml"
    path.write_text(SHORT, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def any_pictures() -> np.ndarray:
    """Small pictures that mean nothing, uint8 `(30, 32, 32, 3)`."""
    return np.random.default_rng(0).integers(0, 255, (30, 32, 32, 3), np.uint8)

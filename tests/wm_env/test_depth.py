"""Depth in info and in observations, and a camera that is stopped by what the world itself shows."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from wm_env.config import EnvConfig
from wm_env.env import SanaWMEnv
from wm_env.model.depth_estimator import load_depth_estimator
from wm_env.observations import DEPTH_BOUND
from wm_env.twin import TwinWorld
from wm_env.vector import SanaWMVectorEnv


def test_info_has_the_depth_of_the_newest_frame() -> None:
    env = SanaWMEnv(world="twin", scene=3, depth=True)
    _, info = env.reset(seed=0)
    assert info["depth"].dtype == np.float32 and info["depth"].shape == (64, 64)
    before = info["depth"].copy()
    info["depth"][:] = 0  # the caller's own
    _, _, _, _, info = env.step(4)
    assert (info["depth"] > 0).all() and not np.array_equal(before, info["depth"])
    assert "depth" not in SanaWMEnv(world="twin", scene=3).reset(seed=0)[1]


def test_depth_comes_back_with_a_snapshot_and_in_every_slot() -> None:
    env = SanaWMEnv(world="tiny", scene=3, depth=True)
    env.reset(seed=0)
    snap = env.snapshot()
    first = env.step(1)[4]["depth"]
    env.step(2)
    env.restore(snap)
    assert np.array_equal(env.step(1)[4]["depth"], first)
    vector = SanaWMVectorEnv(2, world="twin", scene=3, depth=True)
    vector.reset(seed=0)
    assert vector.step(np.array([1, 1]))[4]["depth"].shape == (2, 64, 64)


@pytest.mark.filterwarnings("ignore")
def test_rgbd_is_colour_and_metres() -> None:
    env = gym.make("SanaWM-v0", world="twin", scene=3, obs_type="rgbd", obs_size=32)
    check_env(env.unwrapped, skip_render_check=True)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (32, 32, 4) and obs.dtype == np.float32
    assert obs[..., :3].max() <= 1 and obs[..., 3].min() > 0 and obs[..., 3].max() <= DEPTH_BOUND
    plain, _ = gym.make("SanaWM-v0", world="twin", scene=3, obs_size=32).reset(seed=0)
    assert np.array_equal(np.round(obs[..., :3] * 255).astype(np.uint8), plain)


def walked(steps: int, **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return the last info of walking straight ahead, and what every info said of a collision."""
    env = SanaWMEnv(**settings)
    _, info = env.reset(seed=0)
    said = [info.get("collision")]
    for _ in range(steps):
        info = env.step(1)[4]
        said.append(info.get("collision"))
    return info, said


@pytest.mark.slow
def test_without_a_scene_the_camera_is_stopped_by_what_the_world_shows() -> None:
    picture = SanaWMEnv(world="twin", scene=1).reset(seed=0)[0]
    through, said = walked(24, world="tiny", image=picture)
    assert said == [None] * 25
    stopped, said = walked(24, world="tiny", image=picture, collision="world")
    assert said[0] is False and any(said)
    assert np.linalg.norm(stopped["c2w"][:3, 3]) < np.linalg.norm(through["c2w"][:3, 3]) - 0.5


def test_with_a_scene_walls_are_the_true_ones() -> None:
    (block, said), (world, again) = (
        walked(12, world="twin", scene=5, collision=collision) for collision in ("block", "world")
    )
    assert np.array_equal(block["c2w"], world["c2w"]) and said == again


def test_a_world_without_depth_is_said_so() -> None:
    twin = TwinWorld()
    blind = TwinWorld(dataclasses.replace(twin.spec, name="blind", gives_depth=False))
    asked: dict[str, dict[str, Any]] = {
        "depth=True needs the depth": {"depth": True},
        "collision='world' needs the depth": {"collision": "world"},
        "obs_type='rgbd' needs the depth": {"obs_type": "rgbd"},
    }
    for told, settings in asked.items():
        with pytest.raises(ValueError, match=told):
            SanaWMEnv(world=blind, **settings)
    with pytest.raises(ValueError, match="depth=3 must be True, False or the folder"):
        EnvConfig(depth=3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A metric depth estimator of random weights, as `save_pretrained` writes it."""
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessorPil,
    )

    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        out_features=stages, reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[4, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type="metric", max_depth=20,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("estimator") / "model"
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(folder)
    return folder


def test_a_world_without_depth_borrows_an_estimators(estimator: Path) -> None:
    twin = TwinWorld()
    blind = TwinWorld(dataclasses.replace(twin.spec, name="blind", gives_depth=False))
    env = SanaWMEnv(world=blind, scene=3, depth=estimator)
    obs, info = env.reset(seed=0)
    assert info["depth"].shape == (64, 64) and info["depth"].dtype == np.float32
    assert (info["depth"] > 0).all() and (info["depth"] <= 20).all()
    own = load_depth_estimator(estimator)(torch.from_numpy(obs)[None])
    assert np.array_equal(own[0].numpy(), info["depth"])
    seen, *_ = SanaWMEnv(world=blind, scene=3, depth=str(estimator), obs_type="rgbd").reset(seed=0)
    assert np.array_equal(seen[..., 3], info["depth"])
    theirs = SanaWMEnv(world="twin", scene=3, depth=estimator).reset(seed=0)[1]["depth"]
    assert np.array_equal(theirs, info["depth"])  # asked for by name, also where a world has depth


def test_what_is_no_metric_estimator_is_refused_by_its_config(estimator: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks config.json, model.safetensors"):
        SanaWMEnv(world="twin", depth=tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(estimator, copy)
    config = json.loads((copy / "config.json").read_text())
    for change, told in (
        ({"depth_estimation_type": "relative"}, "estimates relative depth"),
        ({"architectures": ["Dinov2Model"]}, "which estimates no depth"),
    ):
        (copy / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=told):
            SanaWMEnv(world="twin", depth=copy)

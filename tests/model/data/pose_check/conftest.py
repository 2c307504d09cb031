"""One walk with its true depth, small: a tour of a room that turns, climbs, looks up and goes sideways."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from wm_env.model.data.pose_check.warping import DepthOf
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.geometry import se3_exp
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes

FRAMES, SIZE, FOV_DEG = 41, 32, 80.0


class Tour(NamedTuple):
    """clip: poses in another world frame than the scene's. depth_of: the true depth of its pictures, longer
    through a longer lens as a network would see it."""

    clip: PosedClip
    depth_of: DepthOf


def tour(twists: Tensor) -> Tour:
    """Return the clip of a camera that moves by body twists `(F - 1, 6)` from the start of a scene."""
    scene = make_scenes([2], "train")
    poses = [start_pose(scene, 2)]
    for twist in twists.double():
        poses.append(poses[-1] @ se3_exp(twist))
    path = torch.stack(poses)
    camera = torch.tensor([intrinsics_from_fov(FOV_DEG, SIZE, SIZE)], dtype=torch.float64)
    frames, depth = render(scene, path[None], camera, SIZE, SIZE)
    known = {frame.numpy().tobytes(): own for frame, own in zip(frames[0], depth[0], strict=True)}

    def depth_of(asked: Tensor, intrinsics: Tensor) -> Tensor:
        longer = float(intrinsics[0] / camera[0, 0])
        return torch.stack([known[frame.numpy().tobytes()] for frame in asked]) * longer

    elsewhere = se3_exp(torch.tensor([0.5, -0.3, 0.8, 0.4, 1.0, -0.7], dtype=torch.float64))
    return Tour(PosedClip(frames[0].numpy(), (elsewhere @ path).numpy(), camera[0].numpy(), 16), depth_of)


@pytest.fixture(scope="session")
def walked() -> Tour:
    """A tour on which everything can be told."""
    t = torch.linspace(0, 2 * math.pi, FRAMES - 1)
    twists = torch.stack(
        [
            0.03 * torch.sin(t),
            0.015 * torch.cos(2 * t),
            0.03 + 0.02 * torch.sin(t),
            0.03 * torch.cos(t),
            0.05 * torch.sin(t + 1),
            0.01 * torch.cos(3 * t),
        ],
        dim=1,
    )
    return tour(twists)


@pytest.fixture(scope="session")
def turned() -> Tour:
    """A look around from one place."""
    twists = torch.zeros(FRAMES - 1, 6)
    twists[:, 4] = 0.05
    twists[::2, 3] = 0.02
    return tour(twists)


@pytest.fixture(scope="session")
def stood() -> Tour:
    """A camera that does not move."""
    return tour(torch.zeros(FRAMES - 1, 6))

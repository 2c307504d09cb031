"""Depth of true frames, corrected by each other: nearer to the truth, colours and unseen things untouched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wm_env.contexts import turn
from wm_env.model.context_depth import consistent
from wm_env.model.pixels import metric_depth, to_pixels
from wm_env.model.scenes.paths import start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scene

CAMERA = torch.tensor([[40.0, 40.0, 32.0, 32.0]], dtype=torch.float64)


def filmed(seed: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return frames `(1, S, 4, 64, 64)` with depth that is wrong as a network's is, poses, and true depth."""
    scene = make_scene(seed, "val")
    start = start_pose(scene, seed)
    poses = turn(4)[::8].clone() if kind == "turn" else torch.eye(4, dtype=torch.float64).repeat(9, 1, 1)
    if kind == "aside":
        poses[:, 0, 3] = torch.linspace(-0.4, 0.4, 9)
    frames, depth = render(scene, (start @ poses)[None], CAMERA, 64, 64)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, len(poses), 4, 4, generator=generator) * 0.15
    wrong = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic", align_corners=False)
    wrong = wrong + (0.3 if kind == "aside" else 0.0)  # what only parallax can tell
    return to_pixels(frames, depth * wrong.exp()), poses[None], depth


def error(pixels: Tensor, depth: Tensor) -> float:
    return float((metric_depth(pixels[:, :, 3]) / depth).log().square().mean().sqrt())


@pytest.mark.parametrize(("kind", "least"), [("turn", 0.85), ("aside", 0.85)])
@pytest.mark.parametrize("seed", [3, 8])
def test_depth_comes_nearer_to_the_truth(kind: str, least: float, seed: int) -> None:
    pixels, poses, depth = filmed(seed, kind)
    told = consistent(pixels, poses, CAMERA)
    assert torch.equal(told[:, :, :3], pixels[:, :, :3])
    assert error(told, depth) < least * error(pixels, depth)


def test_a_single_frame_and_frames_that_share_nothing_stay_as_they_are() -> None:
    pixels, poses, _ = filmed(3, "turn")
    for chosen in ([0], [0, 6]):  # 6: behind the camera
        told = consistent(pixels[:, chosen], poses[:, chosen], CAMERA)
        torch.testing.assert_close(told, pixels[:, chosen], atol=1e-5, rtol=0)


def test_a_clip_of_a_batch_is_corrected_as_it_is_alone() -> None:
    parts = [filmed(seed, "aside") for seed in (3, 8)]
    together = consistent(
        torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), CAMERA.expand(2, 4)
    )
    for slot, (pixels, poses, _) in enumerate(parts):
        alone = consistent(pixels, poses, CAMERA)[0]
        assert ((alone - together[slot]).abs() > 1e-3).float().mean() < 1e-3

"""How far a pixel is, found by laying a patch onto other frames of a rendered walk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wm_env.annotation.scale import KnownDistance, scale_of
from wm_env.annotation.sweep import inverse_depth_at
from wm_env.annotation.values import Structure, Track
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes

from .conftest import SIZE, Rendered

ROW = 12
PIXELS = [(60.5, 200.5), (200.5, 210.5), (128.5, 90.5), (40.5, 120.5)]


@pytest.fixture(scope="module")
def track(walked: Rendered) -> Track:
    """The true poses, in units of a quarter of a metre."""
    clip = walked.clip
    c2w = np.array(clip.c2w)
    c2w[:, :3, 3] *= 4
    return Track(np.arange(len(c2w)), c2w, np.tile(clip.intrinsics, (len(c2w), 1)))


@pytest.fixture(scope="module")
def depth(walked: Rendered) -> np.ndarray:
    """The true depth `(SIZE, SIZE)` of a frame, metres."""
    scene = make_scenes([1], "val")
    c2w = torch.from_numpy(np.array(walked.clip.c2w))[None, ROW : ROW + 1]
    camera = torch.from_numpy(np.array(walked.clip.intrinsics))[None]
    return render(scene, c2w, camera, SIZE, SIZE)[1][0, 0].numpy()


def test_a_patch_tells_its_depth_and_a_blank_one_nothing(
    walked: Rendered, track: Track, depth: np.ndarray
) -> None:
    frames = np.array(walked.clip.frames)
    for u, v in PIXELS:
        found = inverse_depth_at(np.array([u, v]), ROW, track, frames, 1.0, 60.0)
        assert found is not None
        assert 1 / found == pytest.approx(4 * depth[int(v), int(u)], rel=0.02)
    blank = np.full_like(frames, 128)
    assert inverse_depth_at(np.array(PIXELS[0]), ROW, track, blank, 1.0, 60.0) is None
    still = track._replace(c2w=np.tile(track.c2w[ROW], (len(track.c2w), 1, 1)))
    assert inverse_depth_at(np.array(PIXELS[0]), ROW, still, frames, 1.0, 60.0) is None
    other = np.roll(frames, 40, axis=2)
    other[ROW] = frames[ROW]  # nothing looks alike along the lines where it could be
    assert inverse_depth_at(np.array(PIXELS[0]), ROW, track, other, 1.0, 60.0) is None


def test_two_pixels_and_their_distance_give_the_metres(
    walked: Rendered, track: Track, depth: np.ndarray
) -> None:
    camera, frames = track.intrinsics[ROW], np.array(walked.clip.frames)
    ends = [
        depth[int(v), int(u)] * np.array([(u - camera[2]) / camera[0], (v - camera[3]) / camera[1], 1.0])
        for u, v in PIXELS[:2]
    ]
    known = KnownDistance(24, *PIXELS[0], *PIXELS[1], float(np.linalg.norm(ends[1] - ends[0])))
    two = np.zeros(2, int)
    points = Structure(  # one near, one far: between them the pixels are looked for, none of them is near
        np.zeros((2, 3)),
        np.full(2, 5.0),
        two,
        np.arange(2),
        np.zeros((2, 2)),
        np.zeros(2),
        np.array([4.0, 40.0]),
    )
    found = scale_of(known, frames, track, points, row_of=lambda number: number // 2, shrunk_by=1.0)
    assert found.factor == pytest.approx(0.25, rel=0.01)
    with pytest.raises(ValueError, match="too few points are known around pixel"):
        scale_of(known, np.full_like(frames, 9), track, points, row_of=lambda _: ROW, shrunk_by=1.0)

"""Measures of imagination move the right way: each sees the fault that it is there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.bench.walks import Walks, walks
from wm_env.model.metrics.edges import SCALES, gradient_energy, grid_energy
from wm_env.model.metrics.frechet import frechet_band, frechet_distance
from wm_env.model.metrics.told_apart import telling_accuracy
from wm_env.model.metrics.warping import WarpErrors, warp_errors
from wm_env.model.scenes.paths import trajectory
from wm_env.twin import TWIN_SPEC

SEEDS = range(4)


@pytest.fixture(scope="module")
def truth() -> Walks:
    """Four random walks of nine frames."""
    keys = [trajectory("random_walk", 2, seed) for seed in SEEDS]
    return walks(TWIN_SPEC, split="val", seeds=SEEDS, keys=keys)


def blurred(frames: Tensor, side: int) -> Tensor:
    """Return frames `(B, F, 64, 64, 3)` with `side` x `side` patches of detail."""
    x = frames.flatten(0, 1).movedim(-1, 1).float()
    x = F.interpolate(F.adaptive_avg_pool2d(x, side), (64, 64), mode="bilinear")
    return x.movedim(1, -1).round().to(torch.uint8).unflatten(0, frames.shape[:2])


def test_blur_takes_gradients_fine_ones_first_and_noise_adds_fine_ones(truth: Walks) -> None:
    sharp, soft = gradient_energy(truth.frames), gradient_energy(blurred(truth.frames, 16))
    kept = [float(soft[scale].mean() / sharp[scale].mean()) for scale in SCALES]
    assert kept == sorted(kept) and kept[0] < 0.7 < kept[2] < 1
    noise = torch.randint(-12, 13, truth.frames.shape, generator=torch.Generator().manual_seed(0))
    noisy = gradient_energy((truth.frames + noise).clamp(0, 255).to(torch.uint8))
    added = [float(noisy[scale].mean() - sharp[scale].mean()) for scale in SCALES]
    assert added[0] > 2 * added[2] > 0


def test_steps_at_the_edges_of_tokens_show_as_grid_energy_and_steps_elsewhere_do_not(truth: Walks) -> None:
    offset = torch.randint(-16, 17, (8, 8, 1), generator=torch.Generator().manual_seed(0))
    tiles = offset.repeat_interleave(8, 0).repeat_interleave(8, 1)

    def with_tiles(shift: int) -> float:
        frames = truth.frames.float() + tiles.roll((shift, shift), (0, 1))
        return float(grid_energy(frames.clamp(0, 255)).mean())

    plain = float(grid_energy(truth.frames).mean())
    assert plain == pytest.approx(1.0, abs=0.15)
    assert with_tiles(0) > 1.5 * plain > plain > with_tiles(4)


def test_the_frechet_distance_of_two_gaussians_by_formula() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20000, 3)) * [1.0, 2.0, 0.5]
    b = rng.standard_normal((20000, 3)) * [2.0, 2.0, 0.5] + [3.0, 0.0, 0.0]
    assert frechet_distance(a, b) == pytest.approx(9 + 1, rel=0.02)  # |mu|^2 and (sigma - sigma')^2
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    scenes = b[:320].reshape(32, 10, 3)
    found = frechet_band(a[:320].reshape(32, 10, 3), scenes)
    assert found.lo < found.mean < found.hi and found.n == 32
    assert frechet_band(scenes[:2], scenes[:2]).lo is None
    with pytest.raises(ValueError, match="two sets"):
        frechet_distance(a, b[:, :2])


def test_haze_is_told_from_truth_on_scenes_never_seen_and_truth_from_truth_is_not(truth: Walks) -> None:
    some = truth.frames[:, 1:5]
    haze = (128 + 0.3 * (blurred(some, 3).float() - 128)).to(torch.uint8)
    assert telling_accuracy(haze, some, steps=30).mean() > 0.9
    assert telling_accuracy(truth.frames[:, 5:9], some, steps=30).mean() < 0.7
    assert np.array_equal(
        telling_accuracy(haze, some, steps=1), telling_accuracy(haze, some, steps=1)
    )  # by its seed alone
    assert np.isnan(telling_accuracy(haze[:3], some[:3])).all()


def errors(truth: Walks, frames: Tensor, poses: Tensor, depth: Tensor | None = None) -> WarpErrors:
    found = truth.depth if depth is None else depth
    pair = slice(None), [1, 5]
    (a, b), (za, zb), (pa, pb) = (x[pair].unbind(1) for x in (frames, found, poses))
    return warp_errors(a, b, (za, zb), (pa, pb), truth.intrinsics)


def ratio(found: WarpErrors) -> float:
    return float(found.warped.mean() / found.still.mean())


def test_motion_and_depth_explain_true_frames_and_wrong_ones_do_not(truth: Walks) -> None:
    right = ratio(errors(truth, truth.frames, truth.c2w))
    assert right < 0.5
    assert ratio(errors(truth, truth.frames, truth.c2w.roll(1, dims=0))) > 2 * right  # another's command
    assert ratio(errors(truth, truth.frames, truth.c2w, 3 * truth.depth)) > 1.1 * right
    stopped = truth.frames[:, :1].expand_as(truth.frames)
    still = errors(truth, stopped, truth.c2w)  # a frozen picture does not obey
    assert float(still.still.max()) == 0 and float(still.warped.mean()) > 1
    static = torch.randint(0, 256, truth.frames.shape, generator=torch.Generator().manual_seed(0))
    assert ratio(errors(truth, static.to(torch.uint8), truth.c2w)) > 0.75  # noise, averaged in between pixels

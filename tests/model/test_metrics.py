"""Image, camera and interval metrics against the published formulas.

See docs/reference/evaluation.md#pose-accuracy, docs/reference/evaluation.md#image-metrics and
docs/reference/evaluation.md#aggregation.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from wm_env.model.geometry import assemble, invert_rigid, se3_exp
from wm_env.model.metrics import (
    PSNR_CAP,
    band,
    fit_umeyama,
    frame_errors,
    frozen,
    hierarchical_bootstrap,
    mean_of,
    motion_energy,
    pose_errors,
    psnr,
    ssim,
)

PUBLISHED = 5e-5  # the table of docs/reference/evaluation.md#pose-alignment has four digits


def rot_y(angle: Tensor) -> Tensor:
    c, s, o = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    return torch.stack([c, o, s, o, o + 1, o, -s, o, c], dim=-1).unflatten(-1, (3, 3))


def circle() -> Tensor:
    t = torch.linspace(0, 2 * math.pi, 241, dtype=torch.float64)
    centre = torch.stack([5 * torch.sin(t), 0 * t, 5 * (1 - torch.cos(t))], dim=-1)
    return assemble(rot_y(t), centre)


def drifted(path: Tensor, delta_deg: float, gain: float) -> Tensor:
    """The path walked with a heading that drifts linearly to `delta_deg`: body steps re-integrated."""
    frames = len(path)
    drift = torch.arange(frames, dtype=torch.float64) / (frames - 1) * math.radians(delta_deg)
    rotation = rot_y(drift) @ path[:, :3, :3]
    step = (path[1:, :3, 3] - path[:-1, :3, 3])[..., None]
    body = path[:-1, :3, :3].transpose(-1, -2) @ step
    walked = torch.cumsum((rotation[:-1] @ body)[..., 0], dim=0)
    centre = torch.cat([torch.zeros(1, 3, dtype=torch.float64), walked])
    return assemble(rotation, gain * centre)


@pytest.mark.parametrize(
    ("delta", "upstream", "umeyama", "first"),
    [
        (5, (1.2552, 0.1349, 0.1386), 0.0889, (2.5000, 0.2409)),
        (15, (3.7656, 0.4026, 0.4139), 0.2652, (7.5000, 0.7340)),
        (30, (7.5311, 0.7983, 0.8213), 0.5249, (15.0000, 1.4998)),
    ],
)
def test_the_published_alignments_of_a_drifting_circle(delta, upstream, umeyama, first) -> None:
    path = circle()
    estimate = drifted(path, delta, 0.37)
    assert pose_errors(path, estimate, "upstream").means() == pytest.approx(upstream, abs=PUBLISHED)
    assert pose_errors(path, estimate, "umeyama").means()[1] == pytest.approx(umeyama, abs=PUBLISHED)
    true_scale = drifted(path, delta, 1.0)
    assert pose_errors(path, true_scale, "first").means()[:2] == pytest.approx(first, abs=PUBLISHED)


def test_a_static_camera_on_the_circle() -> None:
    path = circle()
    static = torch.eye(4, dtype=torch.float64).repeat(len(path), 1, 1)
    rotation, translation, _ = pose_errors(path, static, "first").means()
    assert (rotation, translation) == pytest.approx((89.6266, 6.3397), abs=PUBLISHED)


def test_scale_alignment_hides_half_speed_and_the_first_pose_metric_shows_it() -> None:
    forward = 10 * (1 - torch.linspace(-1, 1, 241, dtype=torch.float64).abs())  # 10 m out and back
    eye = torch.eye(3, dtype=torch.float64).expand(241, 3, 3)
    path = assemble(eye, torch.stack([0 * forward, 0 * forward, forward], dim=-1))
    half = assemble(eye, path[:, :3, 3] / 2)
    assert pose_errors(path, half, "upstream").means()[1] == pytest.approx(0.0, abs=1e-9)
    assert pose_errors(path, half, "first").means()[1] == pytest.approx(2.4896, abs=PUBLISHED)


def random_path(frames: int = 20, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps = se3_exp(0.2 * torch.randn(frames, 6, generator=generator, dtype=torch.float64))
    poses = [steps[0]]
    for step in steps[1:]:
        poses.append(poses[-1] @ step)
    return torch.stack(poses)


@pytest.mark.parametrize("alignment", ["upstream", "first", "umeyama"])
def test_a_path_against_itself_has_no_error(alignment) -> None:
    assert pose_errors(random_path(), random_path(), alignment).means() == pytest.approx((0, 0, 0), abs=1e-7)


def test_cammc_is_translation_and_chord_together_in_every_frame() -> None:
    errors = frame_errors(random_path(seed=1), random_path(seed=2))
    half = torch.deg2rad(errors.rotation_deg) / 2
    torch.testing.assert_close(
        errors.cammc.square(), errors.translation.square() + 8 * torch.sin(half).square()
    )


def test_errors_do_not_depend_on_where_the_world_is() -> None:
    truth, prediction = random_path(seed=1), random_path(seed=2)
    moved = se3_exp(torch.tensor([1.0, -2.0, 3.0, 0.3, 0.5, -0.2], dtype=torch.float64)) @ truth
    for alignment in ("upstream", "first"):
        ours, again = (pose_errors(path, prediction, alignment).means() for path in (truth, moved))
        assert ours == pytest.approx(again, abs=1e-9)


def test_umeyama_recovers_a_similarity() -> None:
    path = random_path(seed=3)
    rotation = se3_exp(torch.tensor([0, 0, 0, 0.4, -0.7, 0.2], dtype=torch.float64))[:3, :3]
    shift = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    moved = assemble(rotation @ path[:, :3, :3], 2.5 * path[:, :3, 3] @ rotation.T + shift)
    fit = fit_umeyama(moved, path)
    torch.testing.assert_close(fit.rotation, rotation)
    torch.testing.assert_close(fit.translation, shift)
    assert float(fit.scale) == pytest.approx(2.5)


def test_skipping_the_first_frame_starts_again_at_the_second() -> None:
    truth, prediction = random_path(seed=1), random_path(seed=2)
    skipped = pose_errors(truth, prediction, "first", skip_first=True)
    assert len(skipped.translation) == len(truth) - 1
    assert float(skipped.translation[0]) == 0.0
    relative = (invert_rigid(truth[1:2]) @ truth[2])[0, :3, 3] - (
        invert_rigid(prediction[1:2]) @ prediction[2]
    )[0, :3, 3]
    assert float(skipped.translation[1]) == pytest.approx(float(relative.norm()))


def test_paths_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="paths have shapes"):
        pose_errors(random_path(5), random_path(6), "first")
    with pytest.raises(ValueError, match="unknown alignment"):
        pose_errors(random_path(5), random_path(5), "sim3")  # type: ignore[arg-type]


def images(seed: int, noise: float) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    base = np.stack([2 * x + y, 128 + 90 * np.sin(x / 6), 3 * y], axis=-1)
    other = base + noise * rng.standard_normal(base.shape)
    return tuple(torch.from_numpy(i.clip(0, 255).astype(np.uint8)) for i in (base, other))  # type: ignore[return-value]


def test_psnr_of_a_clipped_ramp_and_of_equal_images() -> None:
    ramp = (4 * torch.arange(64)).expand(64, 64)[..., None].expand(64, 64, 3).to(torch.uint8)
    brighter = (ramp.int() + 8).clamp(max=255).to(torch.uint8)
    assert float(psnr(ramp, brighter)) == pytest.approx(30.1439, abs=PUBLISHED)
    assert float(psnr(ramp, ramp)) == PSNR_CAP


@pytest.mark.parametrize("noise", [2.0, 15.0, 60.0])
def test_ssim_is_the_uniform_window_variant(noise: float) -> None:
    a, b = images(0, noise)
    theirs = structural_similarity(
        a.numpy(), b.numpy(), win_size=11, gaussian_weights=False, use_sample_covariance=False,
        channel_axis=2, data_range=255,
    )  # fmt: skip
    assert float(ssim(a, b)) == pytest.approx(theirs, abs=4e-3)  # they crop the border, upstream does not
    assert float(ssim(a, a)) == pytest.approx(1.0)


def test_image_metrics_take_any_leading_axes() -> None:
    pairs = [images(seed, 10.0) for seed in range(6)]
    a, b = (torch.stack(side).unflatten(0, (2, 3)) for side in zip(*pairs, strict=True))
    for metric in (psnr, ssim):
        together = metric(a, b)
        assert together.shape == (2, 3)
        assert float(together[1, 2]) == pytest.approx(float(metric(*pairs[5])))
    with pytest.raises(ValueError, match="images have shapes"):
        psnr(a, b[:1])


def test_the_bootstrap_is_deterministic_and_covers_the_mean_of_scenes() -> None:
    rng = np.random.default_rng(0)
    table = 3.0 + rng.standard_normal((32, 1)) + 0.3 * rng.standard_normal((32, 3))
    first, second = hierarchical_bootstrap(table, seed=7), hierarchical_bootstrap(table, seed=7)
    assert first == second
    assert first.mean == pytest.approx(table.mean())
    assert first.low < first.mean < first.high
    assert first.high - first.low == pytest.approx(2 * 1.96 * table.mean(1).std() / math.sqrt(32), rel=0.15)


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        table = rng.standard_normal((32, 1)) + 0.5 * rng.standard_normal((32, 3))
        interval = hierarchical_bootstrap(table, resamples=400, seed=trial)
        hits += interval.low <= 0.0 <= interval.high
    assert 86 <= hits <= 100


def test_the_bootstrap_refuses_missing_values() -> None:
    with pytest.raises(ValueError, match="finite values"):
        hierarchical_bootstrap(np.array([[1.0, math.nan]]))


def test_the_mean_of_scenes_is_that_of_their_band() -> None:
    values = np.array([[1.0, 2.0], [math.nan, 3.0], [4.0, 5.0]])
    assert mean_of(values) == band(values).mean == 3.0
    assert mean_of(values[1:2]) is None is band(values[1:2]).mean


def test_motion_is_the_mean_change_and_frozen_is_a_tenth_of_what_it_should_be() -> None:
    frames = torch.zeros(3, 2, 2, 3, dtype=torch.uint8)
    frames[1:, 0] = 40  # half of the picture, once
    assert motion_energy(frames).tolist() == [20.0, 0.0]
    found = frozen(np.array([1.9, 2.0, 0.0]), np.array([20.0, 20.0, 1.0]))
    assert found[:2].tolist() == [1.0, 0.0] and math.isnan(found[2])

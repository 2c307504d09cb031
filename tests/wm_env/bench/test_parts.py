"""The parts of the benchmarks: survival, revisits, pose estimation, state telemetry, step cost."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_env.bench.drift.behaviour import half_life
from wm_env.bench.drift.clip_metrics import appearance_scores
from wm_env.bench.drift.error_split import latent_scores
from wm_env.bench.drift.pose_estimate import gate, track_poses
from wm_env.bench.drift.probes import pooled_rank_correlation
from wm_env.bench.drift.report import Revisit
from wm_env.bench.drift.revisit import loop_closure, revisit_pairs
from wm_env.bench.drift.survival import skill, useful_horizon
from wm_env.bench.drift.telemetry import new_telemetry, observe_commit, state_drift
from wm_env.bench.throughput import slope_of
from wm_env.bench.walks import roll, starts, walk, walks
from wm_env.cli import main
from wm_env.model.embedded import load_embedded
from wm_env.model.geometry import assemble, se3_exp
from wm_env.model.metrics.appearance import colour_distance, frame_statistics, histograms
from wm_env.model.metrics.camera import gain_matrix, motion_vectors
from wm_env.model.metrics.intervals import bootstrap_p, holm, kaplan_meier
from wm_env.model.scenes.paths import trajectory
from wm_env.model.scenes.raycast import render
from wm_env.model.state import GDNState
from wm_env.twin import TWIN_SPEC


def test_skill_is_zero_for_no_model_one_at_the_ceiling_and_undefined_without_a_range() -> None:
    repeat, codec = np.array([12.0, 12.0, 12.0]), np.array([30.0, 30.0, 12.5])
    assert skill(repeat, repeat, codec)[:2].tolist() == [0.0, 0.0]
    assert skill(codec, repeat, codec)[:2].tolist() == [1.0, 1.0]
    assert math.isnan(skill(codec, repeat, codec)[2])


def test_the_useful_horizon_is_the_start_of_the_first_bad_bin_or_censored() -> None:
    edges = np.linspace(0, 12, 7)
    assert useful_horizon(np.array([0.9, np.nan, 0.7, 0.4, 0.8, 0.1]), edges) == (6.0, True)
    assert useful_horizon(np.array([0.9] * 6), edges) == (12.0, False)


def test_kaplan_meier_by_hand() -> None:
    curve = kaplan_meier(np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([True, True, False, True, False]))
    # at risk 5, 4, 2: 4/5, then 3/4 of it, then 1/2 of that
    assert curve.times.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert curve.alive.tolist() == pytest.approx([1.0, 0.8, 0.6, 0.3, 0.3])
    assert curve.median() == 3.0


def test_a_spin_revisits_after_a_turn_and_controls_look_elsewhere() -> None:
    start = torch.eye(4, dtype=torch.float64)[None]
    path = walk(TWIN_SPEC, None, start, [["d"] * 40])[0]  # 14.4 degrees a step: 25 steps a turn
    pairs = revisit_pairs(path)
    assert pairs
    assert all(pair.b - pair.a == 100 for pair in pairs)
    assert all(pair.control is not None for pair in pairs)
    assert not revisit_pairs(walk(TWIN_SPEC, None, start, [[""] * 20])[0])  # never left, so nothing revisited


def test_loop_closure_of_a_drifting_circle_has_its_published_gap() -> None:
    t = torch.linspace(0, 2 * math.pi, 241, dtype=torch.float64)
    zero, one = torch.zeros_like(t), torch.ones_like(t)

    def rot_y(a: torch.Tensor) -> torch.Tensor:
        rows = [a.cos(), zero, a.sin(), zero, one, zero, -a.sin(), zero, a.cos()]
        return torch.stack(rows, -1).unflatten(-1, (3, 3))

    path = assemble(rot_y(t), torch.stack([5 * t.sin(), zero, 5 * (1 - t.cos())], -1))
    rotation = rot_y(torch.arange(241, dtype=torch.float64) / 240 * math.radians(30)) @ path[:, :3, :3]
    body = path[:-1, :3, :3].transpose(-1, -2) @ (path[1:, :3, 3] - path[:-1, :3, 3])[..., None]
    walked = torch.cumsum((rotation[:-1] @ body)[..., 0], 0)
    drifted = assemble(rotation, torch.cat([torch.zeros(1, 3, dtype=torch.float64), walked]))
    closure = loop_closure(path, drifted)
    length = float((path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=-1).sum())
    assert closure.degrees == pytest.approx(30.0, abs=1e-6)
    assert closure.share_of_path * length == pytest.approx(2.8235, abs=5e-5)
    assert loop_closure(path, path).degrees == pytest.approx(0.0, abs=1e-6)


def test_the_gain_of_a_camera_that_turns_too_little_and_slides_when_it_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    asked = 0.1 * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    asked[:, [1, 5]] = 0.0  # never up or down, never rolled
    asked = motion_vectors(se3_exp(asked))
    got = asked.clone()
    got[:, 4] *= 0.7
    got[:, 0] += 0.2 * asked[:, 4]
    matrix, used = gain_matrix((asked.T @ asked).numpy(), (got.T @ asked).numpy())
    assert used[[0, 2, 3, 4]].all()
    assert [matrix[i, i] for i in (0, 2, 3, 4)] == pytest.approx([1.0, 1.0, 1.0, 0.7])
    assert matrix[0, 4] == pytest.approx(0.2)


def test_motion_vectors_undo_the_exponential_of_a_turn() -> None:
    turn = torch.tensor([[0.0, 0, 0, 0.1, -0.4, 0.2], [0.3, 0.1, -0.2, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(motion_vectors(se3_exp(turn)), turn)


def test_statistics_of_plain_pictures_are_what_their_formulas_say() -> None:
    grey = torch.full((1, 32, 32, 3), 100, dtype=torch.uint8)
    red = grey.clone()
    red[..., 1:] = 0
    found = frame_statistics(grey, grey)
    assert float(found["luma"]) == pytest.approx(100.0)
    assert float(found["contrast"]) == pytest.approx(0.0, abs=1e-9)
    assert float(found["saturation"]) == float(found["motion"]) == float(found["noise"]) == 0.0
    assert float(frame_statistics(red, grey)["saturation"]) == 100.0
    assert float(frame_statistics(red, grey)["motion"]) == pytest.approx(200 / 3)
    noise = torch.randn(1, 64, 64, 1, generator=torch.Generator().manual_seed(0)) * 10
    noisy = (128 + noise).round().clamp(0, 255).to(torch.uint8).expand(-1, -1, -1, 3)
    assert float(frame_statistics(noisy, noisy)["noise"]) == pytest.approx(10.0, rel=0.05)
    assert colour_distance(histograms(grey), histograms(grey + 7)) == pytest.approx(7.0)


@pytest.fixture(scope="module")
def short_walks():
    return walks(TWIN_SPEC, split="val", seeds=[1, 3], keys=[trajectory("random_walk", 4, s) for s in (1, 3)])


@pytest.mark.slow
def test_poses_are_found_from_a_false_start_within_the_gate(short_walks) -> None:
    absolute = short_walks.start_c2w[:, None] @ short_walks.c2w
    found = gate(short_walks.scene, short_walks.frames, absolute, short_walks.intrinsics, every=16)
    assert found.passed
    assert found.degrees < 0.5
    assert found.share_of_room < 0.01


@pytest.mark.slow
def test_a_camera_that_is_off_is_followed_and_noise_is_lost(short_walks) -> None:
    absolute = short_walks.start_c2w[:, None] @ short_walks.c2w
    off = se3_exp(torch.tensor([0.0, 0.0, 0.0, 0.0, math.radians(4), 0.0], dtype=torch.float64))
    told = absolute.clone()
    told[:, 16] = told[:, 16] @ off  # the command claims four degrees more than the frames show
    track = track_poses(short_walks.scene, short_walks.frames, told, short_walks.intrinsics, every=16)
    error = torch.rad2deg((track.c2w[:, 1, :3, :3] - absolute[:, 16, :3, :3]).flatten(1).norm(dim=1) / 2**0.5)
    assert float(error.median()) < 1.5
    assert not bool(track.lost.any())
    static = torch.randint(0, 256, short_walks.frames.shape, generator=torch.Generator().manual_seed(0))
    blind = track_poses(short_walks.scene, static.to(torch.uint8), absolute, short_walks.intrinsics, every=16)
    assert bool(blind.lost[:, 1].all())


@pytest.mark.slow
def test_an_estimate_that_was_led_astray_comes_back_where_the_frames_show_what_was_asked(short_walks) -> None:
    """Views that turn six degrees more each time are followed; then the camera is where it should be."""
    asked = (short_walks.start_c2w[:, None] @ short_walks.c2w)[:, [0, *range(9, 16)]]
    angles = [math.radians(6 * k) for k in (0, 1, 2, 3, 4, 5, 6, 0)]
    turns = torch.tensor([[0.0, 0.0, 0.0, 0.0, angle, 0.0] for angle in angles], dtype=torch.float64)
    shown = asked @ se3_exp(turns)
    frames, _ = render(short_walks.scene, shown, short_walks.intrinsics, 64, 64)
    track = track_poses(short_walks.scene, frames, asked, short_walks.intrinsics, every=1)
    off = torch.rad2deg((track.c2w[..., :3, :3] - asked[..., :3, :3]).flatten(2).norm(dim=2) / 2**0.5)
    assert bool((off[:, 6] > 25).all()), "it goes where the frames go"
    assert bool((off[:, 7] < 1).all()), "and comes back"


@pytest.mark.slow
def test_the_recorded_memories_are_those_of_the_world(pure_world) -> None:
    world = load_embedded(pure_world)
    truth = walks(
        world.spec, split="val", seeds=[0, 1], keys=[trajectory("random_walk", 6, seed) for seed in (0, 1)]
    )
    told = starts(world, truth)
    free = new_telemetry(world, keep_states=True)
    first = roll(world, told, truth.c2w, partial(observe_commit, free, world))
    assert torch.equal(roll(world, told, truth.c2w), first)  # looking changes nothing
    assert len(free.S) == 6
    _, state = world.begin(told)
    for step in range(6):
        _, state = world.step_chunk(state, truth.c2w[:, 1 + 4 * step : 5 + 4 * step])
    memories = [b.attention.S for b in state.dit.blocks if isinstance(b.attention, GDNState)]
    torch.testing.assert_close(free.S[-1], torch.stack(memories), rtol=1e-4, atol=1e-5)
    assert free.violations() == 0.0
    recall = free.quantiles()["recall"][..., 1]  # (chunks, L), medians
    assert (recall[0] == 1.0).all()
    assert (np.diff(recall, axis=0) <= 1e-6).all()
    assert float(state_drift(free, free)["relative"].max()) == 0.0


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06 (never falling), 0.06
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_bootstrap_p_is_small_for_a_clear_difference_and_missing_for_few_scenes() -> None:
    clear, none = np.linspace(0.5, 1.5, 12), np.linspace(-1.0, 1.0, 12)
    assert bootstrap_p(clear) == pytest.approx(2 / 5001)
    assert bootstrap_p(none) > 0.5
    assert bootstrap_p(clear[:4]) is None


def test_the_half_life_of_a_memory_that_halves_every_three_seconds_is_found() -> None:
    def cell(gap: float, memory: float | None) -> Revisit:
        return Revisit(gap_s=gap, pairs=4, itself=None, control=None, memory=memory, truth=None)

    gaps = (1, 2, 4, 6, 9, 12)
    found = half_life([cell(gap, 10 * 2 ** (-gap / 3) + 1) for gap in gaps])
    assert found.half_life_s == pytest.approx(3.0, rel=0.05)
    assert (found.M0_db, found.c_db) == pytest.approx((10.0, 1.0), abs=0.2)
    assert found.r2 > 0.999 and not found.at_bound
    assert half_life([cell(gap, 10.0 - 0.01 * gap) for gap in gaps]).at_bound  # hardly any decay
    assert half_life([cell(1, 3.0), cell(2, 2.0), cell(3, None)]) is None
    assert half_life([cell(gap, float(gap)) for gap in gaps]) is None  # grows: nothing is forgotten


def test_the_start_end_contrast_of_a_clip_that_darkens_evenly() -> None:
    level = torch.linspace(200, 100, 101).round()[:, None, None, None]
    frames = level.expand(-1, 16, 16, 3).to(torch.uint8)
    found = appearance_scores(frames, 6, 4)["drift15"]
    # samples every third frame from 1: the first and last five are 12 frames wide, their centres 87 apart
    assert found["drift15_luma"] == pytest.approx(87.0, abs=1.0)
    assert found["drift15_saturation"] == 0.0


def test_latents_of_half_the_size_are_half_wrong() -> None:
    truth = torch.randn(1, 13, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    (half,) = latent_scores(0.5 * truth, truth, 6)
    assert half["error"] == pytest.approx([0.5] * 6)
    assert half["std_ratio"] == pytest.approx([0.5] * 6)
    (same,) = latent_scores(truth, truth, 6)
    assert same["error"] == [0.0] * 6 and same["mean_shift"] == [0.0] * 6


def test_what_a_memory_foretells_is_a_rank_correlation_within_walks() -> None:
    rising = np.array([[1.0, 2, 3], [10, 20, 30]])  # between the walks a is far apart; it shall not count
    falling = np.array([[9.0, 5, 1], [900, 500, 100]])
    assert pooled_rank_correlation(rising, rising) == pytest.approx(1.0)
    assert pooled_rank_correlation(rising, falling) == pytest.approx(-1.0)
    assert pooled_rank_correlation(np.ones((2, 3)), falling) is None


def test_looking_away_waits_as_long_as_it_says() -> None:
    keys = trajectory("look_away_4", 24)
    assert keys == ["d"] * 8 + [""] * 4 + ["a"] * 8 + [""] * 4


def test_a_slope_of_step_time_is_recovered_and_a_flat_one_covers_zero() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(640)
    fresh = 0.02 * (1 + 0.02 * rng.standard_normal(640))
    flat = slope_of(np.stack([0.02 * (1 + 0.02 * rng.standard_normal(640)), fresh], 1))
    assert flat.lo < 0 < flat.hi
    growing = slope_of(np.stack([0.02 * (1 + 0.1 * steps / 1000), np.full(640, 0.02)], 1))
    assert growing.percent_per_1000_steps == pytest.approx(10.0, rel=1e-3)


@pytest.mark.slow
def test_the_throughput_command_splits_a_step_into_parts_that_add_up(memory_world, tmp_path: Path) -> None:
    words = ["bench", "throughput", "--world", memory_world, "--envs", "2", "--steps", "3", "--length", "0"]
    with pytest.raises(SystemExit) as exit:
        main([*words, "--out", str(tmp_path / "out")])
    assert exit.value.code == 0
    report = json.loads((tmp_path / "out" / "throughput.json").read_text())
    (row,) = report["rows"]
    assert row["batch"] == 2
    assert row["frames_per_s"] == pytest.approx(2 * 4 / (row["step_p50_ms"] / 1e3))
    assert all(value > 0 for value in row["split_ms"].values())
    assert sum(row["split_ms"].values()) == pytest.approx(row["step_p50_ms"], rel=0.3)
    assert report["weights"][row["world"]]

"""Schedules, guidance and solvers.

See docs/reference/pipeline.md#schedules and docs/reference/pipeline.md#solvers.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wm_env.model.flow import (
    STUDENT_STEPS,
    chunk_flow_euler,
    chunk_offsets,
    denoise_chunk,
    flow_euler_ltx,
    guide,
    guide_streaming,
    listed_schedule,
    shift_sigma,
    shifted_schedule,
    stream,
)

EXACT = 1e-6  # float32 sums of a few steps


def clip(frames: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, frames, 2, 2, generator=torch.Generator().manual_seed(seed))


def towards(clean: Tensor):  # v = (x - x0) / s: the exact flow of a single data point
    def velocity(x: Tensor, timestep: Tensor, starts: object) -> Tensor:
        sigma = (timestep / 1000)[:, None, :, None, None].clamp_min(1e-6)
        return (x - clean[:, :, : x.shape[2]]) / sigma

    return velocity


def test_the_released_schedule_is_shifted_twice_at_its_low_end() -> None:
    sigmas = shifted_schedule(60, 9.8).sigmas
    for index, value in {
        0: 1.0,
        1: 0.99826,
        2: 0.99647,
        -4: 0.30718,
        -3: 0.21058,
        -2: 0.08770,
        -1: 0.0,
    }.items():
        assert float(sigmas[index]) == pytest.approx(value, abs=6e-6)


def test_the_student_list_is_four_uniform_points_under_shift_8() -> None:
    uniform = shift_sigma(torch.tensor([1.0, 0.75, 0.5, 0.25]), 8.0) * 1000
    assert torch.allclose(uniform, torch.tensor(STUDENT_STEPS[:4]), atol=0.5)
    schedule = listed_schedule(STUDENT_STEPS)
    assert schedule.timesteps.tolist() == [1000, 960, 889, 727]
    assert schedule.sigmas.tolist() == [1.0, 0.96, 0.889, 0.727, 0.0]


@pytest.mark.parametrize("steps", [[], [0], [1200, 500], [500, 500], [500, 700]])
def test_a_list_that_does_not_fall_is_refused(steps: list[float]) -> None:
    with pytest.raises(ValueError, match="must fall"):
        listed_schedule(steps)


@pytest.mark.parametrize("steps", [1, 5])
def test_any_solver_follows_a_straight_flow_to_the_data(steps: int) -> None:
    clean, noise = clip(seed=1), clip(seed=2)
    schedule = shifted_schedule(steps, 9.8)
    whole = flow_euler_ltx(towards(clean), noise, schedule)
    staggered = chunk_flow_euler(towards(clean), noise, schedule, starts=(0, 3, 5))
    for out in (whole, staggered):
        torch.testing.assert_close(out, clean, atol=EXACT, rtol=EXACT)


def test_a_held_frame_never_moves_and_is_told_timestep_zero() -> None:
    seen = []

    def velocity(x: Tensor, timestep: Tensor, starts: object) -> Tensor:
        seen.append(timestep)
        return torch.ones_like(x)

    start = clip()
    out = flow_euler_ltx(velocity, start, shifted_schedule(3, 8.0), held={0: 0.0, 4: 0.0})
    assert torch.equal(out[:, :, [0, 4]], start[:, :, [0, 4]])
    assert all(bool((t[:, [0, 4]] == 0).all() and (t[:, [1, 2, 3]] > 0).all()) for t in seen)
    torch.testing.assert_close(out[:, :, 1], start[:, :, 1] - 1.0)  # sigma goes from 1 to 0


def test_weights_of_held_frames_need_noise() -> None:
    with pytest.raises(ValueError, match="need noise"):
        flow_euler_ltx(towards(clip()), clip(), shifted_schedule(2, 8.0), held={0: 0.1})
    with pytest.raises(ValueError, match=r"held frames \[9\] are outside"):
        flow_euler_ltx(towards(clip()), clip(), shifted_schedule(2, 8.0), held={9: 0.0})


def test_forty_staggered_chunks_take_118_steps() -> None:
    assert chunk_offsets(40, 60)[-1] + 60 == 118
    assert chunk_offsets(3, 6, 0.5) == [0, 3, 6]


def test_finished_chunks_are_clean_context_and_later_ones_unseen() -> None:
    calls = []

    def velocity(x: Tensor, timestep: Tensor, starts: tuple[int, ...]) -> Tensor:
        calls.append((timestep[0], starts))
        return torch.zeros_like(x)

    chunk_flow_euler(velocity, clip(6), listed_schedule([1000, 500]), starts=(0, 2, 4), interval=1.0)
    assert [starts for _, starts in calls] == [(0,), (0,), (0, 2), (0, 2), (0, 2, 4), (0, 2, 4)]
    assert calls[-1][0].tolist() == [0, 0, 0, 0, 500, 500]


def test_guidance_extrapolates_from_unconditional_to_conditional_in_one_batch() -> None:
    def network(x: Tensor, timestep: Tensor, starts: object, text: Tensor) -> Tensor:
        return text[:, None, None, None, None].expand_as(x)

    x, time = clip(), torch.ones(2, 7)
    uncondition, condition = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 8.0])
    v = guide(network, uncondition, condition, 3.0)(x, time, (0,))
    assert v[:, 0, 0, 0, 0].tolist() == [1 + 3 * 4, 2 + 3 * 6]
    assert guide(network, uncondition, condition, 1.0)(x, time, (0,))[:, 0, 0, 0, 0].tolist() == [5, 8]


def counting(x: Tensor, timestep: Tensor, state: int) -> tuple[Tensor, int]:
    """v = x, and the state counts committed frames."""
    return x, state + x.shape[2]


def test_only_the_clean_pass_of_a_streaming_chunk_changes_the_state() -> None:
    states, times = [], []

    def network(x: Tensor, timestep: Tensor, state: int) -> tuple[Tensor, int]:
        states.append(state)
        times.append(float(timestep.max()))
        return counting(x, timestep, state)

    schedule = listed_schedule(STUDENT_STEPS)
    _, after = denoise_chunk(network, clip(3), 4, schedule)
    assert states == [4] * 5
    assert times == [1000, 960, 889, 727, 0]
    assert after == 7


def test_streaming_one_chunk_at_a_time_equals_the_whole_loop() -> None:
    schedule, noise = listed_schedule(STUDENT_STEPS), clip(7)
    whole, _ = stream(counting, noise, 0, schedule, bounds=(0, 4, 7), held=[0])
    first, state = denoise_chunk(counting, noise[:, :, :4], 0, schedule, held=[0])
    second, _ = denoise_chunk(counting, noise[:, :, 4:], state, schedule)
    assert torch.equal(whole, torch.cat([first, second], dim=2))


def test_renoising_jumps_to_the_estimate_and_adds_fresh_noise() -> None:
    start, clean = clip(3), clip(3, seed=3)
    fresh = [clip(3, seed=10 + step) for step in range(2)]

    def network(x: Tensor, timestep: Tensor, state: None) -> tuple[Tensor, None]:
        if not bool(timestep.any()):
            return torch.zeros_like(x), None
        seen.append(x)
        return (x - clean) / (timestep / 1000)[:, None, :, None, None], None

    seen: list[Tensor] = []
    out, _ = denoise_chunk(
        network, start, None, listed_schedule([1000, 600]), rule="renoise", noise=lambda step: fresh[step]
    )
    torch.testing.assert_close(seen[1], 0.4 * clean + 0.6 * fresh[0])
    torch.testing.assert_close(out, clean, atol=EXACT, rtol=EXACT)
    with pytest.raises(ValueError, match="needs noise"):
        denoise_chunk(network, start, None, listed_schedule([1000]), rule="renoise")
    with pytest.raises(ValueError, match="unknown rule"):
        denoise_chunk(network, start, None, listed_schedule([1000]), rule="ddim")  # type: ignore[arg-type]


def test_guided_streaming_keeps_one_state_for_both_halves() -> None:
    def network(x: Tensor, timestep: Tensor, state: int) -> tuple[Tensor, int]:
        return torch.cat([torch.zeros_like(x[:2]), torch.ones_like(x[2:])]), state + 1

    out, state = denoise_chunk(guide_streaming(network, 2.5), clip(2), 0, listed_schedule([1000]))
    torch.testing.assert_close(out, clip(2) - 2.5)
    assert state == 1


def test_solvers_step_in_float32_and_return_the_input_type() -> None:
    noise = clip().bfloat16()
    out = flow_euler_ltx(lambda x, t, s: torch.zeros_like(x), noise, shifted_schedule(3, 8.0))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, noise)

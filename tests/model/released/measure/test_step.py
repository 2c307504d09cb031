"""The streaming step: what its times are of."""

from __future__ import annotations

import pytest
import torch
from fake_parts import Clock

from wm_env.model.flow import STUDENT_STEPS
from wm_env.model.released.measure.budget import Box
from wm_env.model.released.measure.step import TOY, Networks, time_steps


@pytest.mark.slow
def test_a_step_times_every_call_with_full_memories() -> None:
    networks = Networks(TOY, "cpu", torch.float32)
    found = time_steps(networks, batch=2, refiner=True, box=Box(lambda: 0.0, 1.0))
    denoising = len([t for t in STUDENT_STEPS if t])
    assert len(found["seconds_per_call"]["stage 1"]) == denoising + 1
    assert len(found["seconds_per_call"]["refiner"]) == 3 + 1
    calls = sum(map(sum, found["seconds_per_call"].values()))
    assert 0 < calls < found["seconds_slowest"] * 1.01
    assert found["seconds_shown_per_step"] == 24 / 16
    assert found["times_real_time"] == pytest.approx(1.5 / found["seconds_per_step"])
    assert found["times_real_time_all_slots"] == pytest.approx(2 * found["times_real_time"])
    assert (found["frame_gdn"], found["batch"], found["peak_gib"]) == ("chunk", 2, None)
    assert time_steps(networks, batch=1, refiner=False, box=Box(lambda: 0.0, 1.0))["refiner"] is False


@pytest.mark.slow
def test_a_step_is_repeated_only_while_it_fits_its_box() -> None:
    clock = Clock()
    networks = Networks(TOY, "cpu", torch.float32)
    assert time_steps(networks, batch=1, refiner=False, box=Box(clock, 0.0))["steps"] == 1
    assert time_steps(networks, batch=1, refiner=False, box=Box(clock, 1e9))["steps"] == 9


def test_random_weights_are_the_same_every_time_and_their_steps_are_finite() -> None:
    first, second = (Networks(TOY, "cpu", torch.float32).world(refiner=True) for _ in range(2))
    for a, b in ((first.parts.dit, second.parts.dit), (first.parts.refiner, second.parts.refiner)):
        assert a is not None and b is not None
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        assert all(torch.equal(x, y) and bool(x.isfinite().all()) for x, y in pairs)


def test_numbers_that_are_not_finite_are_an_error_and_no_time() -> None:
    networks = Networks(TOY, "cpu", torch.float32)
    networks.world(refiner=False).parts.dit.head.weight.fill_(torch.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        time_steps(networks, batch=1, refiner=False, box=Box(lambda: 0.0, 0.0))

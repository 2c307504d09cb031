"""What a plan counts is what there is, at small sizes; what does not fit is refused before it is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wm_env.model.config import sana_wm
from wm_env.model.released import presets
from wm_env.model.released.measure.step import TOY, Networks, begun, poses
from wm_env.model.released.parts import Offload
from wm_env.model.released.plan import plan_of, plans, shapes_of
from wm_env.model.released.presets import ReleasedSettings, load_parts
from wm_env.model.released.rollout import ReleasedState, ReleasedWorld
from wm_env.model.released.room import Room
from wm_env.model.released.sizes import (
    refiner_memory,
    refiner_operations,
    refiner_weights,
    stage1_operations,
    stage1_state,
    stage1_weights,
)
from wm_env.model.state import nbytes
from wm_env.model.visiting import in_turn

WIDTH = 4  # float32
COUNTERS = 64  # bytes of a state that are no features
CONVOLUTIONS = 0.15  # of the operations, and what is left out of a formula
GRID = (TOY.frame_size[0] // 32, TOY.frame_size[1] // 32)
ALL: tuple[Offload, ...] = ("text-blocks", "vae", "refiner-blocks", "stage1-blocks")


@pytest.fixture(scope="module")
def world() -> ReleasedWorld:
    return Networks(TOY, "cpu", torch.float32).world(refiner=True)


@pytest.fixture(scope="module")
def states(world: ReleasedWorld) -> list[ReleasedState]:
    """Return the states before and after a late step, windows and memory full."""
    state, found = begun(world, 1), []
    for chunk in range(4):
        found.append(state)
        state = world.step_chunk(state, poses(1, chunk, world.spec.frames_per_step))[1]
    return [found[-1], state]


def size(network: nn.Module) -> int:
    return sum(value.nbytes for value in network.state_dict().values())


def test_weights_are_counted_to_the_byte(world: ReleasedWorld) -> None:
    dit, refiner = world.parts.dit, world.parts.refiner
    assert refiner is not None
    for network, blocks, counted in (
        (dit, dit.blocks, stage1_weights(TOY.dit, width=WIDTH)),
        (refiner, refiner.layers, refiner_weights(TOY.refiner, width=WIDTH)),
    ):
        assert counted.total == size(network)
        assert counted.blocks == sum(size(block) for block in blocks)
        assert counted.block == max(size(block) for block in blocks) and counted.number == len(blocks)


def test_blocks_in_turn_take_what_is_counted() -> None:
    dit = Networks(TOY, "cpu", torch.float32).world(refiner=False).parts.dit
    equal = [block for block in dit.blocks if size(block) == size(dit.blocks[0])]
    turns, peak = in_turn(dit, equal, "cpu"), 0
    for block in equal:
        peak = max(peak, turns.nbytes)
        turns.before(equal.index(block))
        peak = max(peak, turns.nbytes)
        turns.after(equal.index(block))
    counted = stage1_weights(TOY.dit, width=WIDTH)
    assert counted.in_turn - counted.rest == 3 * counted.block
    assert peak == 3 * size(equal[0]) <= counted.in_turn - counted.rest


def test_states_are_counted_to_the_byte(states: list[ReleasedState]) -> None:
    whole, new = stage1_state(TOY.dit, GRID, WIDTH)
    before, after = (state.dit for state in states)
    assert 0 <= nbytes(before) - whole < COUNTERS
    assert 0 <= nbytes((before, after)) - whole - new < COUNTERS
    memory, added = refiner_memory(TOY.refiner, GRID, WIDTH)
    old, kept = (state.refiner for state in states)
    assert 0 <= nbytes(old) - memory < COUNTERS and 0 <= nbytes((old, kept)) - memory - added < COUNTERS


@pytest.mark.slow
def test_operations_are_those_that_torch_counts(world: ReleasedWorld, states: list[ReleasedState]) -> None:
    dit, refiner = world.parts.dit, world.parts.refiner
    assert refiner is not None
    counted: dict[nn.Module, list[float]] = {dit: [], refiner: []}

    def start(*_: object) -> None:
        counter.__enter__()

    def note(network: nn.Module, *_: object) -> None:
        counter.__exit__(None, None, None)
        counted[network].append(float(counter.get_total_flops()))

    counter = FlopCounterMode(display=False)
    for network in counted:
        network.register_forward_pre_hook(start)
        network.register_forward_hook(note)
    world.step_chunk(states[1], poses(1, 4, world.spec.frames_per_step))
    expected = stage1_operations(TOY.dit, GRID, TOY.text[0])
    assert counted[dit][0] == pytest.approx(expected, rel=CONVOLUTIONS)
    per_call = refiner_operations(TOY.refiner, GRID, TOY.dit.chunk_frames, TOY.text[1])
    assert counted[refiner][0] == pytest.approx(per_call, rel=CONVOLUTIONS)


@pytest.mark.slow
def test_a_card_of_24_gib_holds_the_refiner_and_one_of_12_all_else() -> None:
    best = next(plan for plan in plans("sana-wm-streaming", 24.0) if plan.fits(24.0))
    assert best.refiner == "ltx2" and best.peak <= 22 and "refiner-blocks" in best.offload
    small = next(plan for plan in plans("sana-wm-streaming", 12.0) if plan.fits(12.0))
    assert small.refiner == "none" and small.peak <= 11 and small.precision == "bf16"
    assert "frames" in small.gives_up and small.seconds is not None and small.moved > 0


@pytest.mark.slow
def test_whole_clips_are_planned_without_a_state() -> None:
    clip = dataclasses.replace(shapes_of("sana-wm-chunk-causal", "ltx2"), dit=sana_wm())
    clip = dataclasses.replace(clip, dit=dataclasses.replace(clip.dit, window_chunks=None))
    plan = plan_of("sana-wm-chunk-causal", clip, precision="bf16", offload=("text", "refiner"))
    assert plan.seconds is None and 40 < plan.peak < 60
    best = next(plan for plan in plans("sana-wm-bidirectional", 80.0) if plan.fits(80.0))
    assert best.refiner == "ltx2" and best.offload != ("text",)


def test_each_way_to_save_memory_saves_some() -> None:
    shapes = shapes_of("sana-wm-streaming", "ltx2")

    def peak(precision: str, offload: tuple[Offload, ...], **change: int) -> float:
        refiner = dataclasses.replace(shapes.refiner, **change)  # type: ignore[type-var]
        return plan_of(
            "sana-wm-streaming",
            dataclasses.replace(shapes, refiner=refiner),
            precision=precision,
            offload=offload,
        ).peak

    falling = [
        peak("bf16", ("text",)),
        peak("bf16", ("text-blocks",)),
        peak("bf16", ("text-blocks", "refiner-blocks")),
        peak("bf16", ("text-blocks", "refiner-blocks", "vae")),
        peak("bf16", ALL),
        peak("int8", ALL),
        peak("int8", ALL, history_frames=2),
    ]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) == len(falling)


@pytest.mark.parametrize(
    ("room", "says"),
    [
        (Room(24.0, 64.0), "needs .* on the card, which has 24.0 GiB free.*--offload text-blocks.* fits"),
        (Room(4.0, 64.0), "nothing that this program knows does"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_loaded(
    pipelines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, room: Room, says: str
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(presets, "room", lambda device: room)
    monkeypatch.setattr(presets, "load_stage1", never)
    shapes = shapes_of("sana-wm-streaming", "ltx2")
    monkeypatch.setattr(presets, "config_of", lambda *_: shapes.dit)  # weights of the released size
    monkeypatch.setattr(presets, "refiner_config", lambda *_, **__: shapes.refiner)
    settings = ReleasedSettings(weights=str(pipelines("streaming")), refiner="ltx2", dtype="bfloat16")
    with pytest.raises(ValueError, match=says) as error:
        load_parts("sana-wm-streaming", settings)
    assert "\n" not in str(error.value)


def test_a_host_that_cannot_hold_what_waits_is_told(
    pipelines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "room", lambda device: Room(80.0, 8.0))
    shapes = shapes_of("sana-wm-streaming", "ltx2")
    monkeypatch.setattr(presets, "config_of", lambda *_: shapes.dit)
    monkeypatch.setattr(presets, "refiner_config", lambda *_, **__: shapes.refiner)
    settings = ReleasedSettings(
        weights=str(pipelines("streaming")), refiner="ltx2", dtype="bfloat16", offload=ALL
    )
    with pytest.raises(ValueError, match=r"GiB of host memory for what waits there; 8.0 GiB are free"):
        load_parts("sana-wm-streaming", settings)

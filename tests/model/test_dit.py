"""The transformer is one function: however a clip is cut into calls, the numbers are the same."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from wm_env.model.camera import CameraInput
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig, sana_wm, tiny
from wm_env.model.dit import DiT
from wm_env.model.released.names import parameter_count, table
from wm_env.model.state import DiTState, cat, leaves, select, tree_map
from wm_env.model.text import TextTokens

FRAMES, HEIGHT, WIDTH = 7, 2, 3
TOLERANCE = 2e-5  # float32, five blocks deep: order of summation differs between the forms

SMALL = DiTConfig(
    latent_channels=4, hidden=32, heads=2, depth=4, caption_channels=8, temporal_stride=2,
    window_chunks=3, chunk_frames=1,
)  # fmt: skip


def small_model(**changes: object) -> DiT:
    torch.manual_seed(0)
    model = DiT(dataclasses.replace(SMALL, **changes)).eval()
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # away from the silent initialisation of cameras and convolutions
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


class Inputs:
    """Seeded inputs of a clip; `cut(a, b)` is the part of them that a call on frames a..b-1 gets."""

    def __init__(self, batch: int = 2, seed: int = 1) -> None:
        g = torch.Generator().manual_seed(seed)
        self.latents = torch.randn(batch, 4, FRAMES, HEIGHT, WIDTH, generator=g)
        self.timestep = torch.randint(0, 1000, (batch, FRAMES), generator=g).float()
        self.text = TextTokens(torch.randn(batch, 5, 8, generator=g), torch.ones(batch, 5))
        poses = torch.eye(4).repeat(batch, FRAMES, 1, 1)
        poses[..., :3, 3] = 0.3 * torch.randn(batch, FRAMES, 3, generator=g)
        intrinsics = torch.tensor([2.0, 2.0, 1.5, 1.0]).expand(batch, FRAMES, 4)
        self.conditions = torch.cat([poses.flatten(-2), intrinsics], dim=-1)
        self.plucker = torch.randn(batch, 12, FRAMES, HEIGHT, WIDTH, generator=g)

    def cut(self, a: int, b: int) -> tuple[Tensor, Tensor, TextTokens, CameraInput]:
        camera = CameraInput(self.conditions[:, a:b], self.plucker[:, :, a:b])
        return self.latents[:, :, a:b], self.timestep[:, a:b], self.text, camera


def assert_close(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= TOLERANCE * b.abs().max().clamp_min(1.0)


def assert_same_state(a: DiTState, b: DiTState) -> None:
    for (name, x), (other, y) in zip(leaves(a), leaves(b), strict=True):
        assert name == other and x.shape == y.shape, (name, x.shape, y.shape)
        if x.is_floating_point():
            assert_close(x, y)
        else:
            assert torch.equal(x, y), name


def stream(model: DiT, inputs: Inputs, starts: list[int], state: DiTState | None) -> tuple[Tensor, DiTState]:
    outputs = []
    for a, b in pairwise([*starts, FRAMES]):
        velocity, state = model(*inputs.cut(a, b), state)
        outputs.append(velocity)
    assert state is not None
    return torch.cat(outputs, dim=2), state


@torch.no_grad()
@pytest.mark.parametrize("starts", [[0, 4], [0, 1, 2, 5], [0, 3, 6], list(range(FRAMES))])
def test_any_split_into_calls_gives_the_chunk_causal_output(starts: list[int]) -> None:
    model, inputs = small_model(window_chunks=None), Inputs()
    whole, state = model(*inputs.cut(0, FRAMES), chunks=Chunks(starts))
    streamed, last = stream(model, inputs, starts, None)
    assert_close(streamed, whole)
    assert_same_state(last, state)


@torch.no_grad()
def test_a_bounded_window_streams_like_one_call_with_many_chunks() -> None:
    model, inputs = small_model(), Inputs()
    starts = list(range(FRAMES))
    whole, states = model(*inputs.cut(0, FRAMES), chunks=Chunks(starts, keep_every=True))
    state = None
    for t in starts:
        velocity, state = model(*inputs.cut(t, t + 1), state)
        assert_close(velocity, whole[:, :, t : t + 1])
        assert_same_state(state, tree_map(lambda leaf, t=t: leaf[:, t], states))


@torch.no_grad()
@pytest.mark.parametrize(("window", "sink"), [(3, True), (1, True), (1, False), (2, False), (0, False)])
def test_the_empty_state_equals_no_state(window: int, sink: bool) -> None:
    model, inputs = small_model(window_chunks=window, sink=sink), Inputs()
    empty = model.empty_state(2, (HEIGHT, WIDTH))
    without, after_without = stream(model, inputs, list(range(FRAMES)), None)
    with_empty, after_empty = stream(model, inputs, list(range(FRAMES)), empty)
    assert_close(with_empty, without)
    assert_same_state(after_empty, after_without)


@torch.no_grad()
@pytest.mark.parametrize("sink", [True, False])
def test_slots_at_different_chunks_do_not_see_each_other(sink: bool) -> None:
    model, inputs, other = small_model(sink=sink), Inputs(1), Inputs(1, seed=5)
    fresh = model.empty_state(1, (HEIGHT, WIDTH))
    _, old = stream(model, other, [0, 1, 2, 3, 4, 5, 6], fresh)
    arguments = [inputs.cut(0, 2), other.cut(3, 5)]
    both = tree_map(lambda a, b: torch.cat([a, b]), tuple(arguments[0]), tuple(arguments[1]))
    batched, states = model(*both, cat([fresh, old]), chunks=Chunks((0, 1)))
    for slot, state in enumerate([fresh, old]):
        alone, after = model(*arguments[slot], state, chunks=Chunks((0, 1)))
        assert_close(batched[slot : slot + 1], alone)
        assert_same_state(select(states, [slot]), after)


@torch.no_grad()
def test_a_later_chunk_never_changes_an_earlier_output() -> None:
    model, inputs = small_model(), Inputs()
    before, _ = model(*inputs.cut(0, FRAMES), chunks=Chunks((0, 3, 5)))
    inputs.latents[:, :, 5:] += 1.0
    inputs.plucker[:, :, 5:] += 1.0
    after, _ = model(*inputs.cut(0, FRAMES), chunks=Chunks((0, 3, 5)))
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.allclose(before[:, :, 5:], after[:, :, 5:])


@torch.no_grad()
def test_a_silent_camera_projection_is_the_plain_model() -> None:
    model, inputs = small_model(), Inputs()
    for block in model.blocks:
        block.attn.camera.out.weight.zero_()
        block.attn.camera.out.bias.zero_()
        block.plucker.weight.zero_()
        block.plucker.bias.zero_()
    latents, timestep, text, camera = inputs.cut(0, FRAMES)
    with_camera, _ = model(latents, timestep, text, camera)
    without, _ = model(latents, timestep, text, None)
    assert_close(with_camera, without)


@torch.no_grad()
def test_a_prompt_per_frame_reaches_that_frame_first() -> None:
    model, inputs = small_model(), Inputs()
    latents, timestep, text, camera = inputs.cut(0, FRAMES)
    per_frame = TextTokens(
        text.tokens[:, None].repeat(1, FRAMES, 1, 1), text.mask[:, None].repeat(1, FRAMES, 1)
    )
    starts = tuple(range(FRAMES))
    same, _ = model(latents, timestep, text, camera, chunks=Chunks(starts))
    repeated, _ = model(latents, timestep, per_frame, camera, chunks=Chunks(starts))
    assert_close(repeated, same)
    per_frame.tokens[:, 4:] *= -1
    changed, _ = model(latents, timestep, per_frame, camera, chunks=Chunks(starts))
    assert_close(changed[:, :, :4], same[:, :, :4])
    assert not torch.allclose(changed[:, :, 4], same[:, :, 4], atol=1e-3)


def test_the_released_table_counts_what_the_release_counts() -> None:
    rows = table(sana_wm())
    assert len(rows) == 872
    assert parameter_count(rows) == 2_661_800_448
    with torch.device("meta"):
        ours = {name: tuple(p.shape) for name, p in DiT(sana_wm()).state_dict().items()}
    assert ours == {row.ours: row.shape for row in rows if row.ours is not None}


def test_configurations_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of heads"):
        dataclasses.replace(SMALL, heads=3)
    with pytest.raises(ValueError, match="window_chunks=0"):
        dataclasses.replace(SMALL, window_chunks=0)
    with pytest.raises(ValueError, match="unknown DiT settings"):
        DiTConfig.from_json('{"hiden": 3}')
    assert DiTConfig.from_json(tiny().to_json()) == tiny()
    with pytest.raises(ValueError, match="memory"), torch.no_grad():
        small_model(memory_channels=5)(*Inputs().cut(0, 2))

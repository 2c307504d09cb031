"""The parts of a block, each by its formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from wm_env.model.chunks import ONE, cut_at
from wm_env.model.config import DiTConfig
from wm_env.model.layers import (
    FeedForward,
    RMSNorm,
    camera_rotary,
    modulate,
    rotary,
    rotary_widths,
    rotate,
    timestep_features,
)

CFG = DiTConfig(latent_channels=4, hidden=64, heads=2, depth=1, caption_channels=8)  # 16 pairs a head
CLOSE = 1e-5  # float32


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_norm_divides_by_the_root_of_the_mean_square_in_float32() -> None:
    norm, x = RMSNorm(6, eps=0.1), normal(3, 6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
        expected = torch.arange(1.0, 7.0) * x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()
        assert torch.allclose(norm(x), expected, atol=CLOSE)
        large = torch.full((1, 6), 300.0, dtype=torch.float16)  # whose square is no float16
        assert norm(large).tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]] and norm(large).dtype == torch.float16


def test_modulation_scales_by_one_more_and_shifts() -> None:
    x, shift, scale = normal(2, 3, 5, 8), normal(2, 3, 1, 8, seed=1), normal(2, 1, 1, 8, seed=2)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    assert torch.allclose(modulate(x, shift, scale, 1e-3), normed * (1 + scale) + shift, atol=CLOSE)


def test_timesteps_become_cosines_then_sines_of_the_whole_number() -> None:
    found = timestep_features(torch.tensor([[3.0, 3.9]]), width=8)
    angles = [3.0 * 10_000 ** (-j / 4) for j in range(4)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    assert found[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(found[0, 0], found[0, 1])  # 3.9 is cut to 3


@pytest.mark.parametrize(
    ("pairs", "widths"), [(16, (6, 5, 5)), (8, (4, 2, 2)), (56, (20, 18, 18)), (28, (10, 9, 9))]
)
def test_the_pairs_of_a_head_are_shared_by_time_row_and_column(pairs: int, widths: tuple[int, ...]) -> None:
    assert rotary_widths(pairs) == widths and sum(widths) == pairs


def test_a_token_is_turned_by_its_frame_its_row_and_its_column() -> None:
    table = rotary(torch.tensor([[7, 9]]), 2, 3, CFG)
    assert table.shape == (1, 2, 6, 16)
    frame, row, column = 9, 1, 2
    angles = [frame * CFG.rope_time_scale * CFG.rope_theta ** (-j / 6) for j in range(6)]
    angles += [row * CFG.rope_theta ** (-j / 5) for j in range(5)]
    angles += [column * CFG.rope_theta ** (-j / 5) for j in range(5)]
    expected = torch.polar(torch.ones(16), torch.tensor(angles))
    assert torch.allclose(table[0, 1, 3 * row + column], expected, atol=CLOSE)


def test_the_camera_branch_turns_by_the_first_frequencies_of_each_axis() -> None:
    table = rotary(torch.tensor([[7]]), 2, 3, CFG)
    found = camera_rotary(table)  # 8 pairs: 4 of time, 2 of the row, 2 of the column
    picked = [0, 1, 2, 3, 6, 7, 11, 12]
    assert torch.equal(found, table[..., picked])


def test_rotation_turns_neighbouring_pairs_and_its_conjugate_turns_back() -> None:
    x, angle = normal(1, 2, 3, 2, 8), normal(1, 2, 3, 4, seed=1)
    turned = rotate(x, torch.polar(torch.ones_like(angle), angle))
    a, b = x[0, 1, 2, 1, 2], x[0, 1, 2, 1, 3]  # pair 1 of a head
    c, s = angle[0, 1, 2, 1].cos(), angle[0, 1, 2, 1].sin()
    assert torch.allclose(turned[0, 1, 2, 1, 2:4], torch.stack([a * c - b * s, a * s + b * c]), atol=CLOSE)
    assert torch.allclose(rotate(turned, torch.polar(torch.ones_like(angle), -angle)), x, atol=CLOSE)


@torch.no_grad()
def test_the_feed_forward_is_its_formula_frame_by_frame() -> None:
    torch.manual_seed(0)
    ffn, x = FeedForward(CFG), normal(2, 3, 6, 64)
    out, tail = ffn(x, (2, 3), None, ONE)  # the temporal convolution starts at zero
    for frame in range(3):
        u = F.silu(ffn.expand(x[:, frame])).transpose(1, 2).unflatten(-1, (2, 3))  # (B, 2F, h, w)
        value, gate = ffn.depthwise(u).flatten(2).transpose(1, 2).chunk(2, dim=-1)
        assert torch.allclose(out[:, frame], ffn.contract(value * F.silu(gate)), atol=CLOSE)
    assert torch.allclose(tail, out[:, -1:], atol=CLOSE)

    ffn.temporal[:, :, 0] = 2 * torch.eye(64)  # tap of the frame before
    mixed, _ = ffn(x, (2, 3), None, cut_at([0, 1, 2]))
    assert torch.allclose(mixed[:, 1:], out[:, 1:] + 2 * out[:, :-1], atol=1e-4)
    assert torch.allclose(mixed[:, 0], out[:, 0], atol=CLOSE)

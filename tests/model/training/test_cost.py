"""The cost table is worked out from the shape of the model that is really built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wm_env.model.camera import CameraInput, camera_conditions
from wm_env.model.config import DiTConfig, sana_wm, tiny
from wm_env.model.dit import DiT
from wm_env.model.text import TextTokens
from wm_env.model.training.cost import PUBLISHED, SAVED, cost, forward_flops, parameters, table

FRAMES, GRID = 6, (6, 8)
SMALL = replace(sana_wm(), hidden=128, heads=2, depth=1, window_chunks=None)
FLOPS = 0.01  # what the formula leaves out: timestep, gates, ray transforms
MEASURED = 0.03  # one block on a small grid against the constant


def forward(cfg: DiTConfig, grid: tuple[int, int] = GRID) -> tuple[DiT, Tensor]:
    torch.manual_seed(0)
    model, tokens = DiT(cfg), TextTokens(torch.randn(1, 300, cfg.caption_channels), torch.ones(1, 300))
    conditions = camera_conditions(torch.eye(4).repeat(1, FRAMES, 1, 1), torch.tensor([[8.0, 8.0, 4.0, 3.0]]))
    camera = CameraInput(conditions, torch.randn(1, cfg.plucker_channels, FRAMES, *grid))
    latents = torch.randn(1, cfg.latent_channels, FRAMES, *grid)
    return model, model(latents, torch.full((1, 1), 500.0), tokens, camera)[0]


@pytest.mark.parametrize(
    "cfg", [sana_wm(), tiny(), tiny(320), replace(sana_wm(), hidden=64, heads=2, depth=3)]
)
def test_the_parameter_formula_counts_the_real_model(cfg: DiTConfig) -> None:
    with torch.device("meta"):
        assert parameters(cfg) == sum(parameter.numel() for parameter in DiT(cfg).parameters())


@pytest.mark.parametrize("softmax_every", [1, 99])
def test_the_arithmetic_formula_agrees_with_a_counter(softmax_every: int) -> None:
    cfg = replace(SMALL, softmax_every=softmax_every)
    # written out: the counter does not know the CPU's fused attention
    with sdpa_kernel([SDPBackend.MATH]), FlopCounterMode(display=False) as counter:
        forward(cfg)
    expected = forward_flops(cfg, FRAMES, GRID[0] * GRID[1])
    assert counter.get_total_flops() == pytest.approx(expected, rel=FLOPS)


def saved_bytes(cfg: DiTConfig, grid: tuple[int, int]) -> int:
    """Return the bytes of all tensors, but parameters, that one forward pass keeps for the backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address comes twice
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        model, _ = forward(cfg, grid)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize(("kind", "softmax_every"), [("softmax", 1), ("gdn", 99)])
def test_the_saved_bytes_are_those_of_a_real_block(kind: str, softmax_every: int) -> None:
    cfg = replace(SMALL, softmax_every=softmax_every)
    more = saved_bytes(cfg, (12, 16)) - saved_bytes(cfg, GRID)  # cast weights and text cancel
    tokens = FRAMES * (12 * 16 - GRID[0] * GRID[1])
    assert more / (tokens * cfg.hidden) == pytest.approx(SAVED[kind], rel=MEASURED)


def test_recomputation_and_splitting_cost_what_they_say() -> None:
    minute = PUBLISHED[2]
    plain, again = cost(sana_wm(), minute, recompute=False), cost(sana_wm(), minute)
    assert again.clip_flops / plain.clip_flops == pytest.approx(4 / 3)
    assert again.saved_recomputed < 0.15 * plain.saved
    assert cost(sana_wm(), replace(minute, gpus=1)).states == 20 * parameters(sana_wm())
    with pytest.raises(ValueError, match="utilisation=0 must be"):
        cost(sana_wm(), minute, utilisation=0)


def test_the_table_in_the_documentation_is_the_computed_one() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/training.md").read_text()
    assert table(sana_wm(), PUBLISHED) in text

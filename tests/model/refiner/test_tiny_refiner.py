"""The refiner: at initialisation an even blend where there is memory; with noise levels a truncated flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_env.model.embedded import load_embedded, world_path
from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig
from wm_env.model.refiner.truncated import REFINER_SIGMAS
from wm_env.model.storage.checkpoint import load_checkpoint, save_checkpoint, with_prefix
from wm_env.model.training.parts.refiner import refiner_loss, truncated_levels
from wm_env.model.world import Start

FLOW = TinyRefinerConfig(width=4, blocks=1, sigmas=REFINER_SIGMAS)


def test_untrained_it_blends_evenly_where_there_is_memory() -> None:
    refiner = TinyRefiner(TinyRefinerConfig(width=4, blocks=1))
    decoded, seen = torch.randn(2, 4, 4, 8, 8), torch.randn(2, 4, 5, 8, 8)
    seen[:, :, 4] = torch.randint(0, 2, (2, 4, 8, 8))
    mask = seen[:, :, 4:]
    expected = decoded * (1 - 0.5 * mask) + seen[:, :, :4] * 0.5 * mask
    assert torch.allclose(refiner(decoded, seen), expected, atol=1e-6)


class Perfect(TinyRefiner):
    """A refiner that knows the truth, and remembers what it was shown."""

    def __init__(self, truth: Tensor) -> None:
        super().__init__(FLOW)
        self.truth, self.shown = truth, []

    def aim(
        self, decoded: Tensor, seen: Tensor, noisy: Tensor | None = None, sigma: Tensor | None = None
    ) -> Tensor:
        self.shown.append((noisy, sigma))
        return self.truth


def test_with_levels_it_walks_from_the_noised_guess_to_its_aim() -> None:
    """x = (1 - s0) y + s0 eps at 0.909375, then straight towards x_0, at 0.725 and 0.421875."""
    truth, decoded, noise = torch.randn(3, 2, 4, 4, 8, 8)
    refiner = Perfect(truth)
    assert torch.equal(refiner(decoded, torch.zeros(2, 4, 5, 8, 8), noise), truth)
    assert [float(sigma[0]) for _, sigma in refiner.shown] == pytest.approx([0.909375, 0.725, 0.421875])
    start = (1 - 0.909375) * decoded + 0.909375 * noise
    for x, sigma in refiner.shown:
        a = float(sigma[0]) / 0.909375
        assert torch.allclose(x, (1 - a) * truth + a * start, atol=1e-5)


def test_the_truncated_loss_is_zero_for_a_perfect_refiner_and_that_of_its_path_for_another() -> None:
    truth, decoded = torch.randn(2, 64, 4, 4, 8, 8)
    seen = torch.zeros(64, 4, 5, 8, 8)
    generator = torch.Generator().manual_seed(0)
    assert float(refiner_loss(Perfect(truth), decoded, seen, truth, generator)) < 1e-8
    off = float(refiner_loss(Perfect(truth + 0.1), decoded, seen, truth, generator.manual_seed(0)))
    sigma = truncated_levels(64, REFINER_SIGMAS[0], generator.manual_seed(0))
    weight = (3 + 0.25) / 4  # inverse depth at half weight
    assert off == pytest.approx(float((0.01 / sigma.square()).mean()) * weight, rel=1e-3)


def test_noise_levels_are_a_shifted_logit_normal_cut_off_at_the_start() -> None:
    highest = REFINER_SIGMAS[0]
    drawn = truncated_levels(20_000, highest, torch.Generator().manual_seed(0))
    u = torch.sigmoid(torch.randn(40_000, generator=torch.Generator().manual_seed(1)))
    free = 3 * u / (1 + 2 * u)
    kept = free[free <= highest]
    assert float(drawn.min()) >= 0.05 and float(drawn.max()) <= highest
    shares = torch.tensor([0.1, 0.5, 0.9])
    assert (drawn.quantile(shares) - kept.quantile(shares)).abs().max() < 0.01


def test_noise_goes_with_levels_and_levels_fall_to_zero() -> None:
    decoded, seen = torch.zeros(1, 4, 4, 8, 8), torch.zeros(1, 4, 5, 8, 8)
    with pytest.raises(ValueError, match="noise goes with noise levels"):
        TinyRefiner(FLOW)(decoded, seen)
    with pytest.raises(ValueError, match="noise goes with noise levels"):
        TinyRefiner(TinyRefinerConfig(width=4, blocks=1))(decoded, seen, decoded)
    for sigmas in ((1.0, 0.0), (0.5, 0.6, 0.0), (0.5,), (0.0,)):
        with pytest.raises(ValueError, match="must fall from below 1"):
            TinyRefinerConfig(sigmas=sigmas)


def test_a_rollout_refines_block_by_block_and_repeats_by_seed(memory_world: str, tmp_path: Path) -> None:
    """The flow's noise is a function of (seed, chunk), its past the memory in the state: no hidden state."""
    tensors, card = load_checkpoint(world_path(memory_world))
    refiner = TinyRefiner(FLOW)
    parts = {f"{part}.{n}": t for part in ("dit", "vae") for n, t in with_prefix(tensors, part).items()}
    parts |= {f"refiner.{n}": t + 0.02 for n, t in refiner.state_dict().items()}
    card["world"]["refiner"] = {"width": 4, "blocks": 1, "sigmas": list(REFINER_SIGMAS)}
    save_checkpoint(tmp_path / "flow.safetensors", parts, card)
    world = load_embedded(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    starts = [
        Start(image=image, intrinsics=(40.0, 40.0, 32.0, 32.0), prompt="", noise_seed=s) for s in (1, 2, 1)
    ]
    _, state = world.begin(starts)
    c2w = torch.eye(4, dtype=torch.float64).repeat(3, 4, 1, 1)
    first, after = world.step_chunk(state, c2w)
    assert torch.equal(first.frames[0], first.frames[2]) and not torch.equal(first.frames[0], first.frames[1])
    second, _ = world.step_chunk(after, c2w)
    assert not torch.equal(second.frames, first.frames)  # another chunk, other noise
    assert after.memory is not None
    written = after.memory.pixels[:, -1, :3].clamp(
        -1, 1
    )  # the refined frame is what later blocks will be shown
    assert ((written + 1) * 127.5 - first.frames[:, -1].movedim(-1, 1).float()).abs().max() <= 1
    again, _ = world.step_chunk(after, c2w)
    assert torch.equal(again.frames, second.frames)
    assert load_embedded(tmp_path, refiner="none").refiner is None

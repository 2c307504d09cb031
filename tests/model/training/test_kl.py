"""The KL term of the autoencoder is the divergence that its docstring names, and fixes the latents' scale."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from wm_env.model.training.losses.codec import kl_loss


def test_the_term_is_the_mean_divergence_of_the_noisy_latents_from_the_standard_normal() -> None:
    torch.manual_seed(0)
    z = torch.tensor([0.3, -1.0]) + torch.tensor([0.5, 2.0]) * torch.randn(4000, 2)
    mean, std = z.mean(0), z.std(0, correction=0)
    width = torch.tensor(0.2)
    expected = kl_divergence(Normal(z, width * std), Normal(0.0, 1.0)).mean()
    assert float(kl_loss(mean, std, width)) == pytest.approx(float(expected), rel=1e-5)


def test_the_term_is_least_for_centred_latents_of_unit_energy_with_their_noise() -> None:
    mean, log_std = torch.tensor([0.7], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    width = torch.tensor(0.5)
    optimizer = torch.optim.SGD([mean, log_std], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        kl_loss(mean, log_std.exp(), width).backward()
        optimizer.step()
    assert float(mean.detach()) == pytest.approx(0.0, abs=1e-4)
    assert float(log_std.detach().exp()) == pytest.approx((1 + 0.5**2) ** -0.5, abs=1e-4)

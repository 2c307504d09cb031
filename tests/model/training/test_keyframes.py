"""Keyframes of true clips are damaged as those of a rollout are."""

from __future__ import annotations

import torch

from wm_env.model.training.keyframes import corrupt_keyframes

NOISE = 0.04  # the most; per clip it is this times the square of a uniform number


def test_the_colours_of_a_clip_get_noise_of_one_strength() -> None:
    clips, frames = 64, 2
    flat = torch.zeros(clips, frames, 4, 16, 16)  # without edges that blur could soften
    damaged = corrupt_keyframes(flat, torch.Generator().manual_seed(0))[:, :, :3]
    strength = damaged.flatten(3).std(3).mean(2)  # (clips, frames)
    assert 0.7 * NOISE < float(strength.max()) < 1.4 * NOISE  # light of up to 1.3 scales it
    assert abs(float(strength.mean()) - NOISE / 3) < 0.4 * NOISE / 3
    assert float((strength[:, 0] - strength[:, 1]).abs().max()) < 0.1 * NOISE
    assert float(damaged.mean()) < 0.1

"""Walks of one scene for the tests of trust and surprise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wm_env.bench.walks import Walks, walks
from wm_env.model.embedded import load_embedded


@pytest.fixture(scope="session")
def short_walk(memory_world: str) -> Walks:
    """Two scenes, three steps each."""
    spec = load_embedded(memory_world).spec
    return walks(spec, split="train", seeds=[0, 1], keys=[["w", "d", "d"], ["a", "a", "w"]])


@pytest.fixture
def level_camera() -> tuple[Tensor, Tensor]:
    """A pose `(1, 4, 4)` at the start, and intrinsics `(1, 4)` of 90 degrees across 64 pixels."""
    pose = torch.eye(4, dtype=torch.float64)[None]
    return pose, torch.tensor([[32.0, 32.0, 32.0, 32.0]], dtype=torch.float64)

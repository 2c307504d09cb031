"""Shared fixtures: worlds are cached by the package, so an environment costs nothing to make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import wm_env  # noqa: F401  (registers the ids)

sys.path.insert(0, str(Path(__file__).parent))  # trusting: importlib mode puts no folder on the path


@pytest.fixture
def twin() -> gym.Env[Any, Any]:
    """An unwrapped twin environment, not reset."""
    return gym.make("SanaWM-Twin-v0").unwrapped


@pytest.fixture
def make_twin() -> Callable[..., Any]:
    """Make an unwrapped twin environment with keyword arguments."""
    return lambda **settings: gym.make("SanaWM-Twin-v0", **settings).unwrapped

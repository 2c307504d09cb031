"""The worlds that every promise is tried on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # playing: importlib mode puts no folder on the path

WORLDS = ["twin", "pure_world", "memory_world"]  # the latter two: random weights, every part


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return "twin" if request.param == "twin" else request.getfixturevalue(request.param)

"""Gymnasium's own player (`gymnasium.utils.play`) drives the environment from a keyboard."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.utils.play import play

NOOP: dict[str, Any] = {"keys": 0, "multikeys": np.zeros(8, np.int8), "camera": np.zeros(6, np.float32)}


@pytest.mark.parametrize("action_type", ["keys", "multikeys", "camera"])
def test_a_held_key_walks_until_the_window_is_closed(
    action_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # a window without a screen
    env = gym.make("SanaWM-Twin-v0", action_type=action_type, render_mode="rgb_array")
    places: list[np.ndarray] = []

    def watch(before: Any, after: Any, action: Any, reward: Any, ended: Any, cut: Any, info: Any) -> None:
        """Press w after the first step, close the window after the third."""
        places.append(info["c2w"][:3, 3])
        if len(places) == 1:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=ord("w")))
        if len(places) == 3:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    play(env, fps=1000, zoom=2, callback=watch, seed=3, noop=NOOP[action_type])
    assert len(places) == 3
    assert not places[0].any() and places[2][2] > places[1][2] > 0.1  # metres ahead

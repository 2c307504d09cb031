"""All slots as one value: what follows a restored vector environment is what followed the first time."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import wm_env  # noqa: F401  (registers the ids)
from wm_env.whole import VectorSnapshot, vector_snapshot_from_bytes

MODES = ["next_step", "same_step", "disabled"]


def made(world: str = "twin", **settings: Any) -> Any:
    return gym.make_vec("SanaWM-ObjectNav-v0", num_envs=3, world=world, **settings)


def played(envs: Any, rows: np.ndarray) -> list[bytes]:
    """Return what every step gives, with a reset of what has ended where the mode wants it."""
    seen = []
    for row in rows:
        observed, rewards, terminated, truncated, info = envs.step(row)
        frames = observed["image"] if isinstance(observed, dict) else observed
        seen += [frames.tobytes(), rewards.tobytes(), terminated.tobytes(), truncated.tobytes()]
        seen += [info["c2w_frames"].tobytes()]
        ended = terminated | truncated
        if envs.metadata["autoreset_mode"].value == "Disabled" and ended.any():
            envs.reset(options={"reset_mask": ended})
    return seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", ["twin", "pure_world", "memory_world"])
def test_what_follows_is_what_followed(world: str, mode: str, request: pytest.FixtureRequest) -> None:
    folder = world if world == "twin" else request.getfixturevalue(world)
    settings = {"autoreset_mode": mode, "max_episode_steps": 3}
    envs = made(folder, **settings)
    envs.reset(seed=5)
    envs.set_prompt(["a red room", "a blue room", "a dark room"])
    rows = np.random.default_rng(0).integers(0, 9, size=(9, 3))
    played(envs, rows[:4])  # slots have ended once
    kept = envs.snapshot_all()
    data = kept.to_bytes()
    first = played(envs, rows[4:])
    envs.restore_all(kept)
    assert played(envs, rows[4:]) == first
    other = made(folder, **settings)  # never reset
    other.restore_all(vector_snapshot_from_bytes(data))
    assert other.prompts == tuple(kept.slots[slot].facts["prompt"] for slot in range(3))
    assert played(other, rows[4:]) == first


def test_a_snapshot_of_other_settings_or_slots_is_refused_and_changes_nothing() -> None:
    envs = made(max_episode_steps=3)
    envs.reset(seed=0)
    kept = envs.snapshot_all()
    other = made(max_episode_steps=4)
    other.reset(seed=1)
    before = other.state
    with pytest.raises(ValueError, match="settings"):
        other.restore_all(kept)
    fewer = VectorSnapshot(slots=kept.slots[:2], elapsed=(0, 0), ended=(False, False), settings=kept.settings)
    with pytest.raises(ValueError, match="2 slots, this has 3"):
        envs.restore_all(fewer)
    with pytest.raises(TypeError, match="VectorSnapshot"):
        envs.restore_all(kept.slots[0])
    assert other.state is before


def test_bytes_that_were_damaged_are_refused() -> None:
    envs = made()
    envs.reset(seed=0)
    data = bytearray(envs.snapshot_all().to_bytes())
    data[-1] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        vector_snapshot_from_bytes(bytes(data))
    with pytest.raises(ValueError, match="no snapshot"):
        vector_snapshot_from_bytes(b"nothing")
    with pytest.raises(ValueError, match="no snapshot of a vector environment"):
        vector_snapshot_from_bytes(envs.snapshot(0).to_bytes())

"""`refiner=` of an environment: what the world comes with, its own or an error, or none."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import wm_env  # noqa: F401  (registers the ids)


def film(world: str, **settings: object) -> tuple[str, np.ndarray]:
    env = gym.make("SanaWM-v0", world=world, obs_type="rgb_sequence", **settings)
    env.reset(seed=3, options={"scene": 5})
    seen = [env.step(1)[0] for _ in range(2)]
    name = env.unwrapped.world.spec.label
    env.close()
    return name, np.stack(seen)


def test_a_world_with_memory_runs_with_and_without_its_refiner(memory_world: str) -> None:
    name, default = film(memory_world)
    assert name == "random"
    assert np.array_equal(film(memory_world, refiner="tiny")[1], default)
    bare_name, bare = film(memory_world, refiner=None)
    assert bare_name == "random[refiner=none]"
    assert not np.array_equal(bare, default)
    assert np.array_equal(film(memory_world, refiner="none")[1], bare)


def test_a_world_without_memory_has_none(pure_world: str) -> None:
    name, default = film(pure_world)
    assert name == "random"
    assert np.array_equal(film(pure_world, refiner=None)[1], default)
    with pytest.raises(ValueError, match="has no refiner"):
        film(pure_world, refiner="tiny")


@pytest.mark.parametrize(
    ("world", "refiner", "message"),
    [
        ("tiny", "big", "unknown refiner of a tiny world 'big'; valid are default, tiny, none"),
        ("tiny", "ltx2", "unknown refiner of a tiny world 'ltx2'; valid are default, tiny, none"),
        ("twin", "tiny", "is the twin and takes latents, detail; got refiner"),
        ("sana-wm-streaming", "tiny", "unknown refiner 'tiny'; valid are none, ltx2"),
    ],
)
def test_a_refiner_of_another_kind_of_world_is_refused(world: str, refiner: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make("SanaWM-v0", world=world, refiner=refiner)

"""Tensors instead of arrays: equal numbers, on the world's device, and no frame visits the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from wm_env.env import SanaWMEnv
from wm_env.vector import SanaWMVectorEnv

PIXELS = 64 * 64  # of one frame; what is as large as this is a picture
TO_THE_HOST = (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.item)


class Copies(TorchFunctionMode):
    """Counts the calls that would bring a picture to the host from another device."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TO_THE_HOST and args[0].numel() >= PIXELS and args[0].dtype is torch.uint8:
            self.made.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[list[str]]:
    with Copies() as mode:
        yield mode.made


def flat(observed: Any) -> dict[str, Any]:
    return observed if isinstance(observed, dict) else {"": observed}


@pytest.mark.parametrize("obs_type", ["rgb", "rgb_sequence", "rgbd", "latent"])
def test_tensors_are_the_numbers_of_arrays(obs_type: str) -> None:
    settings: dict[str, Any] = {"world": "twin", "scene": 3, "obs_type": obs_type, "task": "pointnav"}
    arrays, tensors = SanaWMEnv(**settings), SanaWMEnv(**settings, output="torch")
    seen = [env.reset(seed=0)[0] for env in (arrays, tensors)]
    for action in (1, 4):
        for name, value in flat(seen[0]).items():
            other = flat(seen[1])[name]
            assert isinstance(other, torch.Tensor) and np.array_equal(other.numpy(), value)
        a, b = arrays.step(action), tensors.step(torch.tensor(action))
        seen = [a[0], b[0]]
        assert [float(b[1]), bool(b[2]), bool(b[3])] == [a[1], a[2], a[3]]
        assert all(isinstance(one, torch.Tensor) for one in b[1:4])
    assert tensors.step(1)[4].keys() == arrays.step(1)[4].keys()


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_slots_give_tensors_of_the_same_numbers_over_resets(mode: str) -> None:
    made = [
        SanaWMVectorEnv(
            3, world="twin", task="objectnav", max_episode_steps=3, autoreset_mode=mode, output=output
        )
        for output in ("numpy", "torch")
    ]
    arrays, tensors = made
    for envs in made:
        envs.reset(seed=5)
    for step in range(7):
        actions = np.array([1, 3, 4]) if step % 2 else np.array([4, 1, 1])
        a, b = arrays.step(actions), tensors.step(torch.from_numpy(actions))
        for one, other in zip((*flat(a[0]).values(), *a[1:4]), (*flat(b[0]).values(), *b[1:4]), strict=True):
            assert isinstance(other, torch.Tensor) and np.array_equal(other.numpy(), one)
        assert a[4].keys() == b[4].keys()
        if "final_obs" in a[4]:
            for slot in np.flatnonzero(a[4]["_final_obs"]):
                last = b[4]["final_obs"]["image"][slot]
                assert np.array_equal(last.numpy(), a[4]["final_obs"][slot]["image"])


def test_no_frame_visits_the_host_on_the_way_of_a_step() -> None:
    copies = {}
    for output in ("numpy", "torch"):
        envs = SanaWMVectorEnv(2, world="tiny", scene=3, task="pointnav", output=output)
        envs.reset(seed=0)
        with counted() as made:
            envs.step(torch.tensor([1, 2]))
        copies[output] = len(made)
    assert copies["torch"] == 0 and copies["numpy"] > 0


def test_what_is_handed_out_is_the_callers_own() -> None:
    env = SanaWMEnv(world="twin", scene=3, output="torch", depth=True)
    seen, info = env.reset(seed=0)
    kept, far = seen.clone(), info["depth"].clone()
    seen.zero_()
    info["depth"].zero_()
    assert torch.equal(env.look(), kept)
    assert torch.equal(env.reset(seed=0)[1]["depth"], far)
    envs = SanaWMVectorEnv(2, world="twin", scene=3, output="torch", depth=True)
    assert envs.reset(seed=0)[1]["depth"].shape == (2, 64, 64)


def test_snapshots_go_from_one_kind_to_the_other() -> None:
    arrays, tensors = (SanaWMEnv(world="tiny", scene=3, output=output) for output in ("numpy", "torch"))
    arrays.reset(seed=0)
    arrays.step(1)
    snap = arrays.snapshot()
    first = arrays.step(3)[0]
    tensors.reset(seed=9)
    tensors.restore(snap)
    assert np.array_equal(tensors.step(3)[0].numpy(), first)


def test_gym_make_and_other_interfaces() -> None:
    env = gym.make("SanaWM-v0", world="twin", output="torch", disable_env_checker=True, max_episode_steps=2)
    env.reset(seed=0)
    env.step(1)
    assert env.step(1)[3] is True  # Gymnasium's own time limit
    envs = gym.make_vec("SanaWM-Twin-v0", num_envs=2, output="torch")
    assert isinstance(envs.reset(seed=0)[0], torch.Tensor)
    with pytest.raises(ValueError, match="unknown output 'jax'"):
        SanaWMEnv(world="twin", output="jax")
    from wm_env.parallel import parallel_env
    from wm_env.sb3 import SanaWMVecEnv

    with pytest.raises(ValueError, match="Stable-Baselines3 takes NumPy"):
        SanaWMVecEnv(1, world="twin", output="torch")
    with pytest.raises(ValueError, match="PettingZoo interface gives NumPy"):
        parallel_env(world="twin", output="torch")

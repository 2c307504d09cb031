"""TorchRL's own checks, partial resets, moments as TensorDicts, and a collector."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import wm_env  # noqa: F401  (registers the ids)

pytest.importorskip("torchrl", reason="the extra `torchrl` is not installed")
pytestmark = pytest.mark.slow

from torchrl.envs import GymWrapper, check_env_specs  # noqa: E402

from wm_env.torchrl import SanaWMEnv  # noqa: E402


def made(count: int = 3, **settings: Any) -> SanaWMEnv:
    return SanaWMEnv(num_envs=count, **{"world": "twin", "max_episode_steps": 3, "threads": 1, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task": "objectnav", "action_type": "multikeys"},
        {"task": "pointnav", "action_type": "camera", "obs_type": "rgbd"},
    ],
    ids=["keys", "multikeys", "camera"],
)
def test_torchrl_finds_nothing_to_say(settings: dict[str, Any]) -> None:
    check_env_specs(made(**settings))


def test_a_rollout_is_the_vector_environments_through_resets_of_single_slots() -> None:
    env = made(2, task="objectnav", max_episode_steps=None)
    near: Any = gym.make_vec(
        "SanaWM-v0", num_envs=2, world="twin", task="objectnav", max_episode_steps=None,
        autoreset_mode="disabled", threads=1,
    )  # fmt: skip
    env.set_seed(5)
    data, seen = env.reset(), near.reset(seed=5)[0]
    for step in range(4):
        action = torch.tensor([1 + step % 2, 3])
        data = env.step(data.set("action", action))
        after, rewards, *_ = near.step(action.numpy())
        assert np.array_equal(data["image"].numpy(), seen["image"])
        assert np.array_equal(data["next", "image"].numpy(), after["image"])
        assert torch.equal(data["next", "reward"][:, 0], torch.from_numpy(rewards).float())
        data, seen = data["next"].select(*env.observation_spec.keys()), after
    again = env.reset(data.set("_reset", torch.tensor([[False], [True]])))
    seen, _ = near.reset(options={"reset_mask": np.array([False, True])})
    assert np.array_equal(again["image"].numpy(), seen["image"])


def test_a_moment_is_a_tensordict_that_is_indexed_and_expanded() -> None:
    env = made(max_episode_steps=None, world="twin")
    env.set_seed(1)
    env.rollout(2)
    moment = env.snapshot()
    assert moment.batch_size == torch.Size([3])
    first = env.step(_now(env).set("action", torch.tensor([1, 2, 3])))
    futures = made(2, max_episode_steps=None)
    futures.restore(moment[1:2].expand(2))
    drawn = futures.step(_now(futures).set("action", torch.tensor([2, 2])))
    for slot in range(2):
        assert torch.equal(drawn["next", "observation"][slot], first["next", "observation"][1])
    env.restore(moment)
    second = env.step(_now(env).set("action", torch.tensor([1, 2, 3])))
    assert torch.equal(first["next", "observation"], second["next", "observation"])
    with pytest.raises(ValueError, match=r"batch size \[3\], this environment of \[2\]"):
        futures.restore(moment)


def _now(env: SanaWMEnv) -> Any:
    """Return a TensorDict to act in, without what was seen."""
    return env.fake_tensordict().exclude("next")


def test_a_collector_gathers_it() -> None:
    from torchrl.collectors import Collector

    env = made(2)
    collector = Collector(env, None, frames_per_batch=8, total_frames=16)
    batches = [batch.clone() for batch in collector]
    collector.shutdown()
    assert [batch.numel() for batch in batches] == [8, 8]
    assert int(batches[0]["next", "truncated"].sum()) == 2, "episodes of three steps end"


@pytest.mark.parametrize("mode", ["disabled", "same_step"])
def test_torchrls_own_wrapper_takes_the_vector_environment(mode: str) -> None:
    envs = gym.make_vec(
        "SanaWM-v0", num_envs=2, world="twin", task="objectnav", max_episode_steps=3, autoreset_mode=mode
    )
    wrapped = GymWrapper(envs)
    data = wrapped.rollout(5, break_when_any_done=False)
    assert data["next", "done"][:, :, 0].tolist() == [[False, False, True, False, False]] * 2


def test_outputs_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="TorchRL takes tensors"):
        made(output="numpy")

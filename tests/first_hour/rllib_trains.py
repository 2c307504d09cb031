"""A few iterations of RLlib's PPO with remote runners, in an environment of its own: `make test-rllib`.

`ray[rllib]` pins an older Gymnasium, so this is not part of the suite. The recipe is the one of
docs/scaling.md: register inside the workers, pictures as float32 in [0, 1] with the goal as channels.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env


class PictureAndGoal(gym.ObservationWrapper):
    """Observations as one float32 picture `(h, w, 3 + g)` in [0, 1]: the frame, and a goal's g numbers."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gym.spaces.Dict)
        height, width, _ = env.observation_space["image"].shape or (0, 0, 0)
        self._scale = float(np.max(env.observation_space["goal"].high))
        goal = int(np.prod(env.observation_space["goal"].shape or ()))
        self.observation_space = gym.spaces.Box(0.0, 1.0, (height, width, 3 + goal), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        image = observation["image"].astype(np.float32) / 255
        goal = np.ravel(observation["goal"]).astype(np.float32) / self._scale
        return np.concatenate([image, np.broadcast_to(goal, (*image.shape[:2], len(goal)))], axis=-1)


def make(config: dict[str, Any]) -> gym.Env[Any, Any]:
    import wm_env  # noqa: F401  (registers the ids in this process)

    return PictureAndGoal(gym.make("SanaWM-v0", **config))


def main(iterations: int = 2) -> None:
    """Train and print the loss of every iteration; raise where it is none."""
    register_env("sana-wm", make)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    settings = {"world": "twin", "task": "objectnav", "max_episode_steps": 16, "obs_size": 64}
    config = (
        PPOConfig()
        .environment("sana-wm", env_config=settings)
        .env_runners(num_env_runners=2, rollout_fragment_length=32)
        .training(train_batch_size_per_learner=64, minibatch_size=32, num_epochs=1)
    )
    trainer = config.build_algo()
    for number in range(iterations):
        found = trainer.train()
        loss = float(found["learners"]["default_policy"]["total_loss"])
        steps = found["env_runners"]["num_env_steps_sampled"]
        if not math.isfinite(loss):
            sys.exit(f"iteration {number}: the loss is {loss}")
        print(f"iteration {number}: {steps} env steps, loss {loss:.3f}, Gymnasium {gym.__version__}")
    trainer.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()

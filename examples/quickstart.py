"""Step through an imagined world and save what was seen. About 5 seconds on one CPU core."""

from __future__ import annotations

import argparse

import gymnasium as gym
from PIL import Image

import wm_env  # noqa: F401  (registers the ids)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure", "twin" or a checkpoint folder')
parser.add_argument("--steps", type=int, default=20, help="env steps; one step is 4 pixel frames, 0.25 s")
parser.add_argument("--out", default="quickstart.png", help="picture of the last observation")
settings = parser.parse_args()

env = gym.make("SanaWM-v0", world=settings.world)
observation, info = env.reset(seed=0)
env.action_space.seed(0)
for _ in range(settings.steps):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    print(f"step {info['chunk_index']:3d}  reward {reward:6.2f}  position {info['c2w'][:3, 3].round(2)}")
    if terminated or truncated:
        observation, info = env.reset()

Image.fromarray(observation).resize((256, 256)).save(settings.out)
env.close()

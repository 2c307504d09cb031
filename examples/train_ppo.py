"""Train a PPO agent inside an imagined world, then score it in the true one.

About 20 CPU minutes at these settings; `--steps 2048` is a minute and learns nothing. The same as
`wm-env agent train`, spelled out with Stable-Baselines3 alone.
"""

from __future__ import annotations

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from wm_env.agents.evaluate import FIRST_SEED, evaluate, summarize
from wm_env.sb3 import SanaWMVecEnv

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure", "twin" or a checkpoint folder')
parser.add_argument("--task", default="pointnav", help="task with a goal")
parser.add_argument("--steps", type=int, default=50_000, help="env steps over all slots")
parser.add_argument("--num-envs", type=int, default=16, help="slots, stepped in one model call")
parser.add_argument("--rollout", type=int, default=128, help="env steps of a slot between updates")
parser.add_argument("--episodes", type=int, default=50, help="episodes of each evaluation")
parser.add_argument("--limit", type=int, default=80, help="env steps of an episode")
parser.add_argument("--out", default="ppo.zip", help="file of the trained policy")
settings = parser.parse_args()

torch.manual_seed(0)
envs = VecMonitor(
    SanaWMVecEnv(
        settings.num_envs,
        world=settings.world,
        task=settings.task,
        split="train",
        max_episode_steps=settings.limit,
    )
)
model = PPO("MultiInputPolicy", envs, n_steps=settings.rollout, batch_size=64, ent_coef=0.01, seed=0)
model.learn(settings.steps)
model.save(settings.out)


def agent(observations, state, starts):
    """The policy looks at observations alone."""
    return model.predict(observations, deterministic=False)[0]


for world in dict.fromkeys((settings.world, "twin")):
    results = evaluate(
        agent,
        [FIRST_SEED + i for i in range(settings.episodes)],
        num_envs=settings.num_envs,
        max_episode_steps=settings.limit,
        world=world,
        task=settings.task,
    )
    print(f"{world}: {summarize(results)}")

"""Walk to a goal by planning alone: imagine many futures in one batch, do the best first step, repeat.

No training. About 2 CPU minutes; most of it is imagining.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np

import wm_env  # noqa: F401  (registers the ids)
from wm_env.agents.planning import Planner, plan

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure", "twin" or a checkpoint folder')
parser.add_argument("--seed", type=int, default=0, help="scene, start and goal")
parser.add_argument("--candidates", type=int, default=32, help="futures imagined at once")
parser.add_argument("--rounds", type=int, default=2, help="1 is random shooting, more is CEM")
parser.add_argument("--decisions", type=int, default=20, help="plans made, at most")
settings = parser.parse_args()

planner = Planner(candidates=settings.candidates, rounds=settings.rounds, horizon=4, hold=3, elites=4)
generator = np.random.default_rng(settings.seed)
env = gym.make("SanaWM-PointNav-v0", world=settings.world)
_, info = env.reset(seed=settings.seed)
terminated = False
for decision in range(settings.decisions):
    best = plan(env.unwrapped, planner, generator)
    for _ in range(planner.hold):
        _, reward, terminated, _, info = env.step(int(best.actions[0]))
        if terminated:
            break
    print(f"plan {decision:2d}  promised {best.value:6.2f}  {info['distance_to_goal']:.2f} m to the goal")
    if terminated:
        print(f"arrived after {info['chunk_index']} steps, SPL {info['spl']:.2f}")
        break

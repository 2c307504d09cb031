"""One moment, four futures, one picture: walk, turn left, turn right, step back from the same state.

A branch is the same state used several times, so it costs no copy, and all futures are stepped in one batched
model call. About 5 seconds on one CPU core.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from PIL import Image

import wm_env  # noqa: F401  (registers the ids)

FUTURES = {"forward": 1, "left": 3, "right": 4, "back": 2}  # name -> action of Discrete(9)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure", "twin" or a checkpoint folder')
parser.add_argument("--seed", type=int, default=0, help="scene and start")
parser.add_argument("--steps", type=int, default=8, help="steps of each future; a step is 0.25 s")
parser.add_argument("--out", default="futures.png", help="picture: one row per future, time to the right")
settings = parser.parse_args()

env = gym.make("SanaWM-v0", world=settings.world)
start, _ = env.reset(seed=settings.seed)
for _ in range(2):
    start = env.step(1)[0]

futures = env.unwrapped.branch(len(FUTURES), noise="shared")
actions = np.array(list(FUTURES.values()))
columns = [np.stack([start] * len(FUTURES))]
for _ in range(settings.steps):
    columns.append(futures.step(actions)[0])  # (4, h, w, 3)

rows = [np.concatenate([column[i] for column in columns], axis=1) for i in range(len(FUTURES))]
picture = Image.fromarray(np.concatenate(rows))
picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(settings.out)
print(f"{settings.out}: rows are {', '.join(FUTURES)}")

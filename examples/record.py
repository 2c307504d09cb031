"""Record a scripted walk, the imagined world beside the truth. About 15 seconds on one CPU core.

The same as `wm-env record --out walk.mp4 --compare --overlay`, spelled out.
"""

from __future__ import annotations

import argparse

from wm_env.agents.scripted import make_policy
from wm_env.env import SanaWMEnv
from wm_env.recording import Layout, contact_sheet, film, record_video, save_png
from wm_env.twin import twin_like

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure", "twin" or a checkpoint folder')
parser.add_argument("--seed", type=int, default=0, help="scene, start and policy")
parser.add_argument("--steps", type=int, default=60, help="env steps; a step is 0.25 s")
parser.add_argument("--out", default="walk", help="writes OUT.mp4 and OUT.png")
settings = parser.parse_args()

imagined = SanaWMEnv(world=settings.world, action_type="multikeys")
true = SanaWMEnv(world=twin_like(imagined.world.spec), action_type="multikeys")
for env in (imagined, true):
    env.reset(seed=settings.seed)

shots = film([imagined, true], make_policy("wander", settings.seed), settings.steps)
layout = Layout(labels=(settings.world, "twin"), overlay=True)
frames = record_video(f"{settings.out}.mp4", shots, layout, imagined.world.spec.fps, imagined.state)
save_png(f"{settings.out}.png", contact_sheet(frames, layout.labels, 1 / imagined.steps_per_second))

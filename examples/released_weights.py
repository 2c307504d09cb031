"""Step a released SANA-WM model from your own picture and save a video. A step is 1.5 s of video.

Get the weights first: `wm-env download sana-wm-streaming --to FOLDER` (docs/released_weights.md).
It needs a GPU: on a CPU one step of the 2.6 B model takes minutes.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import imageio.v2 as imageio

import wm_env  # noqa: F401  (registers the ids)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--weights", required=True, help="folder of the released weights")
parser.add_argument("--image", required=True, help="start picture")
parser.add_argument("--prompt", default="", help="what the picture shows")
parser.add_argument("--keys", default="wwwddwww", help="one key a step: w s a d i k j l, or . for none")
parser.add_argument("--refiner", default="none", choices=("none", "ltx2"))
parser.add_argument("--device", default="cuda")
parser.add_argument("--size", type=int, nargs=2, default=(704, 1280), help="height and width in pixels")
parser.add_argument("--out", default="released.mp4")
settings = parser.parse_args()

env = gym.make(
    "SanaWM-v0",
    world="sana-wm-streaming",
    weights=settings.weights,
    image=settings.image,
    prompt=settings.prompt,
    refiner=settings.refiner,
    device=settings.device,
    frame_size=tuple(settings.size),
    obs_type="rgb_sequence",
    max_episode_steps=40,
)
frames, info = env.reset(seed=0)
with imageio.get_writer(settings.out, fps=16, macro_block_size=1) as video:
    video.append_data(frames[0])
    for key in settings.keys:
        frames, reward, terminated, truncated, info = env.step(".wsadikjl".index(key))
        for frame in frames:
            video.append_data(frame)
        print(f"chunk {info['chunk_index']:3d}  position {info['c2w'][:3, 3].round(2)}")
env.close()

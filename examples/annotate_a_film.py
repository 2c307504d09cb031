"""A film without poses, all the way: annotate, check the poses, step in, walk on, score against the truth.

A walk through a rendered room is filmed and its poses are hidden; what is known is how high the camera was
held. The same walk with the true poses stands beside it, and both are compared with what the room really
shows from where the episode went. With --film it is your own film, which has no truth to be scored by.
Needs the extra `annotate`. About 2 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import wm_env
from wm_env.annotation import CameraHeight
from wm_env.model.intrinsics import intrinsics_from_fov, scale_intrinsics
from wm_env.model.metrics.images import psnr
from wm_env.model.scenes.paths import start_pose, walk_keys
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scene
from wm_env.recording import pressed, write_frames

PATH = ("wd", "w", "wa", "wa", "w", "wd")  # keys that the film is walked with: aside, and turning

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--film", help="a film of your own; by default one is rendered")
parser.add_argument("--height", type=float, default=1.4, help="metres of the camera over the floor")
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure" or a checkpoint folder')
parser.add_argument("--seed", type=int, default=1, help="rendered room and path")
parser.add_argument("--steps", type=int, default=16, help="length of the rendered film, 0.25 s each")
parser.add_argument("--size", type=int, default=384, help="its width and height in pixels")
parser.add_argument("--walk", default="a" * 3 + "s" * 3 + "d" * 3, help="keys, one a step of 0.25 s")
parser.add_argument("--out", type=Path, default=Path("annotated"), help="folder for all of it")
settings = parser.parse_args()

# 1. a film; its poses are known to the room alone
film, truth = settings.film, None
if film is None:
    scene = make_scene(settings.seed, "val")
    start = start_pose(scene, settings.seed)[None]
    c2w = walk_keys(scene, start, [PATH[step % len(PATH)] for step in range(settings.steps)])
    camera = torch.tensor([intrinsics_from_fov(80.0, settings.size, settings.size)], dtype=torch.float64)
    shown, _ = render(scene, c2w, camera, settings.size, settings.size, detail=1.0)
    truth = wm_env.PosedClip(shown[0].numpy(), c2w[0].numpy(), camera[0].numpy(), fps=16)
    settings.out.mkdir(parents=True, exist_ok=True)
    film = settings.out / "room.mp4"
    write_frames(film, list(truth.frames), fps=16)

# 2. its poses, in metres since somebody knows how high the camera was held
found = wm_env.annotate(film, settings.out / "clips", scale=CameraHeight(settings.height))
for row in found.rows:
    print(f"{row.clip}: {row.status}", *row.reasons, sep="; ")
if not found.accepted:
    raise SystemExit("no clip was accepted; annotations.jsonl and pages/ say why")
clip = wm_env.PosedClip.load(found.accepted[0])

# 3. do they fit the pictures?
print(wm_env.check_context(clip, world=settings.world).sentence)


# 4. step in, and walk on
def walked(context: wm_env.PosedClip) -> tuple[np.ndarray, np.ndarray]:
    """Return what the world draws after a clip, uint8 `(F, h, w, 3)`, and where, `(F, 4, 4)` from its end."""
    env = gym.make("SanaWM-v0", world=settings.world, context=context, action_type="multikeys")
    env.reset(seed=settings.seed)
    frames, poses = [], []
    for key in settings.walk:
        *_, info = env.step(pressed(key))
        frames.append(env.unwrapped.state.frames[0].cpu().numpy())
        poses.append(info["c2w_frames"])
    return np.concatenate(frames), np.concatenate(poses)


imagined, poses = walked(clip)
write_frames(settings.out / "walk.mp4", list(imagined), fps=16)
print(f"{settings.out / 'walk.mp4'}: {len(imagined)} frames after {len(clip)} filmed ones")

# 5. the room itself from the same places, and the same walk after the true poses
if truth is not None:
    beside, _ = walked(truth)
    height, width = imagined.shape[1:3]
    places = (torch.tensor(truth.c2w[-1]) @ torch.from_numpy(poses).double())[None]
    small = scale_intrinsics(camera, truth.size, (height, width))
    room, _ = render(scene, places, small, height, width, detail=1.0)
    own, best = (float(psnr(torch.from_numpy(one), room[0]).mean()) for one in (imagined, beside))
    print(f"PSNR {own:.2f} dB with the poses found, {best:.2f} dB with the true ones: {own - best:+.2f} dB")

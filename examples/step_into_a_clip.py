"""Step into a place that was filmed: clip in, check, walk on, a film with both paths from above.

With --clip, a film or folder of your own with poses (docs/clips.md). Without, a camera goes once around in a
rendered room and stands for whoever films. Nothing is in the way of a walk through a clip, walls neither.
About 40 seconds on one CPU core.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw

import wm_env
from wm_env.recording import pressed, write_frames

SIDE, METRES = 256, 8.0  # pixels of a panel, width of the map
FILMED, WALKED = (90, 150, 230), (230, 70, 60)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--clip", help="a clip with poses; by default one is rendered")
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure" or a checkpoint folder')
parser.add_argument("--seed", type=int, default=0, help="rendered room, and the walk")
parser.add_argument("--walk", default="w" * 5 + "d" * 12 + "w" * 5, help="keys, one a step of 0.25 s")
parser.add_argument("--out", default="clip.mp4", help="film")
settings = parser.parse_args()


def rendered_round(seed: int, steps: int = 26) -> wm_env.PosedClip:
    """Return what a camera sees that walks a circle and stops at walls."""
    camera = gym.make("SanaWM-Twin-v0", obs_type="rgb_sequence", action_type="multikeys")
    camera.reset(seed=seed)
    shown = [camera.step(pressed("wd")) for _ in range(steps)]
    frames = np.concatenate([frames for frames, *_ in shown])
    poses = np.concatenate([info["c2w_frames"] for *_, info in shown])
    return wm_env.PosedClip(frames, poses, shown[0][-1]["intrinsics"], fps=16)


def panel(view: np.ndarray, filmed: np.ndarray, walked: list[np.ndarray], label: str) -> np.ndarray:
    """Return a picture: the view, and both paths from above (x right, z up), the start in the middle."""
    canvas = Image.new("RGB", (2 * SIDE, SIDE), (16, 16, 20))
    canvas.paste(Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(canvas)

    def at(pose: np.ndarray) -> tuple[float, float]:
        scale = SIDE / METRES
        return 1.5 * SIDE + pose[0, 3] * scale, 0.5 * SIDE - pose[2, 3] * scale

    for path, colour in ((list(filmed), FILMED), (walked, WALKED)):
        if len(path) > 1:
            draw.line([at(pose) for pose in path], colour, 3)
    here = walked[-1] if walked else filmed[-1]
    x, y = at(here)
    draw.line([(x, y), (x + 20 * here[0, 2], y - 20 * here[2, 2])], (240, 240, 240), 2)
    draw.text((SIDE + 8, 6), label, FILMED if label == "filmed" else WALKED)
    return np.asarray(canvas)


clip = rendered_round(settings.seed) if settings.clip is None else wm_env.PosedClip.load(settings.clip)
check = wm_env.check_context(clip, world=settings.world)
print(check.sentence)

env = gym.make("SanaWM-v0", world=settings.world, context=clip, action_type="multikeys")
start, info = env.reset(seed=settings.seed)
print(f"{info['context_frames']} frames are committed; the last of them is the start")
seen = env.unwrapped.start_clip
filmed = seen.c2w
film = [panel(view, filmed[: i + 1], [], "filmed") for i, view in enumerate(seen.frames)]

walked = [np.eye(4)]
for key in settings.walk:
    _, _, ended, cut, info = env.step(pressed(key))
    for view, pose in zip(env.unwrapped.state.frames[0].cpu().numpy(), info["c2w_frames"], strict=True):
        walked.append(pose)
        film.append(panel(view, filmed, walked, "imagined"))
    if ended or cut:
        break
write_frames(settings.out, film, fps=16)
print(f"{settings.out}: {len(seen)} filmed and {len(walked) - 1} imagined frames")

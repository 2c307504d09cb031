"""Fine-tune the small world on a folder of your own clips and walk in it. About 4 minutes of one CPU core.

CLIPS holds NAME.mp4 beside NAME.npz (or .json) with c2w (F, 4, 4) and intrinsics, see "Your own clips" in
docs/training.md. To try it without any, record walks first:

    wm-env record --world twin --format folder --episodes 12 --steps 33 --out walks
    python examples/train_own_world.py --clips walks --layout episodes

A step takes about 1.4 s. 150 of them adapt a world, they do not make one from nothing; for more there is
`wm-env train world`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from PIL import Image

import wm_env  # noqa: F401  (registers the ids)
from wm_env.model.config import DiTConfig
from wm_env.model.data.clip import ClipShards
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.importing import BadClips, ImportConfig, import_clips, predicted_depth, report_lines
from wm_env.model.data.layouts import episode_clips, re10k_clips, video_clips
from wm_env.model.embedded import embedded_vae, write_parts
from wm_env.model.storage.checkpoint import load_card
from wm_env.model.training.command import lines
from wm_env.model.training.inputs import Inputs, Resources, completed
from wm_env.model.training.losses.flow_matching import WorldLossConfig
from wm_env.model.training.parts.world import WorldTraining
from wm_env.model.training.recipe import DataSize
from wm_env.model.training.schedule import LoopConfig
from wm_env.model.training.table import train

LAYOUTS = {"video": video_clips, "episodes": episode_clips, "re10k": re10k_clips}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--clips", type=Path, required=True, help="folder of your clips")
parser.add_argument("--layout", default="video", choices=sorted(LAYOUTS))
parser.add_argument("--out", type=Path, default=Path("own_world"), help="new folder; OUT/world is the result")
parser.add_argument("--frames", type=int, default=33, help="pixel frames of a training clip, 4k+1")
parser.add_argument("--every", type=int, default=1, help="keep each n-th frame; a world runs at 16 a second")
parser.add_argument("--scale", type=float, default=1.0, help="factor on translations that makes them metres")
parser.add_argument("--skip-bad", action="store_true", help="leave out clips that cannot be used")
parser.add_argument("--steps", type=int, default=150, help="training steps")
settings = parser.parse_args()
torch.set_num_threads(1)
started = time.monotonic()


def say(what: str) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {what}", flush=True)


def progress(step: int, total: int, loss: float) -> None:
    if step % 10 == 0:
        say(f"step {step} of {total}, loss {loss:.3f}")


# 1. Check every clip, predict its depth, cut it into training clips.
clips = LAYOUTS[settings.layout](settings.clips, ClipFiles())
depth_of = predicted_depth(embedded_vae("tiny-pure")[0])
config = ImportConfig(frames=settings.frames, every=settings.every, scale=settings.scale)
data = settings.out / "data"
origin = {"layout": settings.layout, "from": str(settings.clips), "depth_by": "tiny-pure"}
try:
    done = import_clips(clips, data, config, depth_of=depth_of, origin=origin, skip_bad=settings.skip_bad)
except BadClips as error:
    raise SystemExit(f"{error.report}\n{error}") from None
say("\n".join(report_lines(done.left_out, len(clips))))
say(f"{done.windows} training clips of {settings.frames} frames, {done.speed:.3f} m a frame")

# 2. Take the shipped world apart and train its transformer further; the clips are encoded on the way.
parts = write_parts("tiny-pure", settings.out / "parts")
latent_frames = (settings.frames - 1) // 4 + 1
training = WorldTraining(
    dit=DiTConfig(**load_card(parts["dit"])["settings"]["dit"]),
    loop=LoopConfig(
        total_steps=settings.steps,
        lr=3e-4,
        muon_lr=3e-4,
        warmup_steps=5,
        ema_decay=0.9,
        log_every=10,
        eval_every=settings.steps,
    ),
    stages=(WorldLossConfig(batch=4, frames=min(8, latent_frames), own_history=0.3, window_dropout=0.4),),
    ends=(1.0,),
)
place = Resources(out=settings.out)
inputs = Inputs(data=data, vae=parts["vae"], init=parts["dit"])
inputs = completed(inputs, ("latents", "vae"), DataSize(), place, "tiny-pure", lines)
run = train("world", training, inputs, place, report=progress)
folder = place.out / "world"  # a folder that every `world=` and `--world` takes
say(f"trained: {run.metrics}")

# 3. Step into the first picture of a held-out clip and walk forward; every row is one start.
shards = ClipShards(data / "val")
rows = []
for index in range(min(3, len(shards))):
    clip = shards.read(index)
    env = gym.make(
        "SanaWM-v0",
        world=str(folder),
        action_type="multikeys",
        image=clip.rgb[0].numpy(),
        intrinsics=clip.intrinsics.numpy(),
        prompt=shards.captions[int(clip.caption[0])],
    )
    observation, _ = env.reset(seed=0)
    row = [observation]
    forward = np.zeros(8, np.int8)
    forward[0] = 1  # the key "w"
    for _ in range(7):
        observation, *_ = env.step(forward)
        row.append(observation)
    rows.append(np.concatenate(row, axis=1))
    env.close()
strip = np.concatenate(rows)
Image.fromarray(strip).resize((2 * strip.shape[1], 2 * strip.shape[0]), Image.Resampling.NEAREST).save(
    settings.out / "strip.png"
)
say(f"{folder}: gym.make('SanaWM-v0', world={str(folder)!r}); what it imagines: {settings.out / 'strip.png'}")

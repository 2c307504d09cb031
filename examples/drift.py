"""For how long can a world be trusted? PSNR against the truth by second, beside two worlds without a model.

The camera walks random keys. Every frame of the world is compared with the true renderer's frame at the same
pose; the first frame repeated for ever is what no model at all would score, and the unrelated walk is what a
world would score that does not listen to its actions. About 20 seconds on one CPU core.
"""

from __future__ import annotations

import argparse

from wm_env.bench.walks import in_batches, repeat_first, walks
from wm_env.model.metrics import psnr
from wm_env.model.metrics.intervals import band
from wm_env.model.scenes.paths import trajectory
from wm_env.worlds import resolve_world

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure", "twin" or a checkpoint folder')
parser.add_argument("--scenes", type=int, default=6, help="scenes; fewer than 5 give no interval")
parser.add_argument("--seconds", type=int, default=4, help="length of a walk")
settings = parser.parse_args()

world = resolve_world(settings.world)
spec = world.spec
steps = settings.seconds * spec.fps // spec.frames_per_step
seeds = range(settings.scenes)
truth = walks(spec, split="val", seeds=seeds, keys=[trajectory("random_walk", steps, seed) for seed in seeds])

shown = {
    spec.label: in_batches(world, truth, batch=8),
    "first frame repeated": repeat_first(truth),
    "an unrelated walk": truth.frames.roll(1, dims=0),
}
print(f"{'PSNR (dB) in second':<24}" + "".join(f"{second + 1:>24}" for second in range(settings.seconds)))
for name, frames in shown.items():
    scores = psnr(frames[:, 1:], truth.frames[:, 1:]).numpy()  # (scenes, frames)
    means = scores.reshape(len(scores), settings.seconds, spec.fps).mean(-1)
    print(f"{name:<24}" + "".join(f"{band(column).text():>24}" for column in means.T))

"""Write docs/performance/turns.json: how a view of `tiny` comes back after one, two and ten full turns.

    python docs/measure_turns.py            (about five minutes on one core)

The camera walks eight steps forward and turns on the spot; PSNR (dB) of what is seen after each turn against
what was seen before the first, and against the twin. Means over val scenes with 95% bootstrap intervals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measuring import write

from wm_env.bench.provenance import provenance
from wm_env.bench.walks import roll, starts, steps_around, walks
from wm_env.model.embedded import load_embedded
from wm_env.model.metrics import psnr
from wm_env.model.metrics.intervals import band

OUT = Path(__file__).parent / "performance" / "turns.json"
LEAD = 8  # steps forward first: from the start picture alone little could be forgotten
TURNS = (1, 2, 10)
SCENES = 16


def measure() -> dict[str, Any]:
    """Return the report: settings, and by number of turns the PSNR to itself and to the truth."""
    world = load_embedded("tiny")
    around = steps_around(world.spec)
    keys = ["w"] * LEAD + ["d"] * (around * max(TURNS))
    truth = walks(world.spec, split="val", seeds=range(SCENES), keys=[keys] * SCENES)
    frames = roll(world, starts(world, truth), truth.c2w)
    before = frames[:, LEAD * world.spec.frames_per_step]
    found = {}
    for turns in TURNS:
        index = (LEAD + turns * around) * world.spec.frames_per_step
        found[str(turns)] = {
            "seconds": turns * around * world.spec.frames_per_step / world.spec.fps,
            "itself": band(psnr(frames[:, index], before).numpy()).to_dict(),
            "truth": band(psnr(frames[:, index], truth.frames[:, index]).numpy()).to_dict(),
        }
    return {
        "benchmark": "turns",
        **provenance(world.spec, "python docs/measure_turns.py"),
        "settings": {"split": "val", "scenes": SCENES, "lead_steps": LEAD, "steps_around": around},
        "turns": found,
    }


if __name__ == "__main__":
    write(__doc__, OUT, measure)

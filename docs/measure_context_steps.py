"""Write docs/performance/context_steps.json: what a step costs after a context, beside one without.

    python docs/measure_context_steps.py            (about two minutes on one core)

Both episodes are stepped in turn, in one process, along the same random walk; CPU time of this thread. The
ratio is that of the two medians; its interval is over the pairs of steps, resampled.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import write

from wm_env.bench.provenance import provenance
from wm_env.bench.walks import starts, walks
from wm_env.model.embedded import load_embedded
from wm_env.model.scenes.paths import trajectory

OUT = Path(__file__).parent / "performance" / "context_steps.json"
WARM = 24  # steps before: as many as the context has chunks
STEPS = 60
SLOTS = (1, 8)


def seconds(world: Any, slots: int, kind: str) -> np.ndarray:
    """Return CPU seconds `(STEPS, 2)` of a step without and with a context of a kind."""
    keys = [trajectory("random_walk", WARM + STEPS, seed) for seed in range(slots)]
    truth = walks(world.spec, split="val", seeds=range(slots), keys=keys)
    states = [world.begin(starts(world, truth, one))[1] for one in ("none", kind)]
    taken = []
    for step in range(WARM + STEPS):
        first = 1 + step * world.spec.frames_per_step
        c2w = truth.c2w[:, first : first + world.spec.frames_per_step]
        pair = [0.0, 0.0]
        for index in (0, 1) if step % 2 else (1, 0):
            before = time.thread_time()
            _, states[index] = world.step_chunk(states[index], c2w)
            pair[index] = time.thread_time() - before
        taken.append(pair)
    return np.array(taken[WARM:])


def ratio(taken: np.ndarray) -> dict[str, float]:
    """Return the ratio of the medians, with over without, and its 95% bootstrap interval."""
    drawn = np.random.default_rng(0).integers(0, len(taken), (2000, len(taken)))
    many = np.median(taken[drawn], axis=1)
    lo, hi = np.percentile(many[:, 1] / many[:, 0], [2.5, 97.5])
    without, after = np.median(taken, axis=0)
    return {"without_s": without, "after_s": after, "ratio": after / without, "lo": lo, "hi": hi}


def measure() -> dict[str, Any]:
    """Return the report: settings, and the ratio by world, context and slots."""
    rows = []
    for name in ("tiny", "tiny-pure"):
        world = load_embedded(name)
        for kind in ("turn", "walk"):
            for slots in SLOTS:
                rows.append(
                    {"world": name, "context": kind, "slots": slots, **ratio(seconds(world, slots, kind))}
                )
    world = load_embedded("tiny")
    return {
        "benchmark": "context_steps",
        **provenance(world.spec, "python docs/measure_context_steps.py"),
        "settings": {"warm_up": WARM, "steps": STEPS},
        "rows": rows,
    }


if __name__ == "__main__":
    write(__doc__, OUT, measure)

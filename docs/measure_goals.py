"""Write docs/performance/goals.json: can a point goal on an own picture be reached on foot?

    python docs/measure_goals.py            (about two minutes on one core)

PointNav without a true scene draws its goal where the world's own depth shows open ground
(`model/open_ground.py`). Worlds start from the picture of val scenes, or from a full turn in them, as if
these were somebody's own. Then the true scene is asked which of the places 1.5 to 6 m away can be reached
on foot by a body of `RADIUS`, and by one of 0.25 m (learned depth is some centimetres off). `anywhere` is
what the task drew before: the same distances in all directions.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from measure_contact import true_surfaces
from measuring import write
from torch import Tensor

from wm_env.bench.provenance import provenance
from wm_env.bench.walks import context_frames, starts, walks
from wm_env.model.contact import RADIUS, Surfaces, joined
from wm_env.model.embedded import load_embedded
from wm_env.model.open_ground import open_ground
from wm_env.model.scenes.free_space import distance_field
from wm_env.model.scenes.paths import trajectory
from wm_env.model.state import select

OUT = Path(__file__).parent / "performance" / "goals.json"
SCENES, SEED = 32, 100
NEAR, FAR = 1.5, 6.0  # metres, of PointNav
SLIM = 0.25  # metres


def measure() -> dict[str, Any]:
    """Return the report: settings, and the shares by depth and context."""
    worlds = {name: load_embedded(name) for name in ("tiny", "tiny-pure")}
    spec = worlds["tiny"].spec
    seeds = range(SEED, SEED + SCENES)
    truth = walks(spec, split="val", seeds=seeds, keys=[trajectory("random_walk", 1, seed) for seed in seeds])
    here = torch.eye(4).double().expand(SCENES, 1, 4, 4)
    rows = []
    for kind in ("none", "turn"):
        for name, world in worlds.items():
            chunk, state = world.begin(starts(world, truth, kind))
            newest = Surfaces(chunk.depth[:, -1:], here, torch.ones(SCENES, 1, dtype=torch.bool))
            kept = world.surfaces(state)
            seen = newest if kept is None else joined([newest, kept])
            rows.append({"depth": name, "context": kind, **scored(truth, grounds(seen, truth.intrinsics))})
        shown = context_frames(spec, truth, kind)[:, :: spec.frames_per_step]
        seen = true_surfaces(truth, torch.cat([shown, here], 1))
        rows.append({"depth": "true", "context": kind, **scored(truth, grounds(seen, truth.intrinsics))})
    rows.append({"depth": "anywhere", "context": "none", **scored(truth, [_anywhere()] * SCENES)})
    return {
        "benchmark": "goals",
        **provenance(spec, "python docs/measure_goals.py"),
        "settings": {"split": "val", "scenes": SCENES, "near": NEAR, "far": FAR, "slim": SLIM},
        "rows": rows,
    }


def grounds(seen: Surfaces, intrinsics: Tensor) -> list[Tensor]:
    """Return the places of every slot, as the task asks for them."""
    return [open_ground(select(seen, [slot]), intrinsics[[slot]], FAR) for slot in range(SCENES)]


def scored(truth: Any, places: list[Tensor]) -> dict[str, Any]:
    """Return the mean share of places that can be reached, and how many slots have any 1.5 m away."""
    shares: dict[float, list[float]] = {RADIUS: [], SLIM: []}
    for slot, own in enumerate(places):
        far = own[own.norm(dim=-1) >= NEAR]
        start = truth.start_c2w[slot]
        there = far @ start[:3, :3].T + start[:3, 3]
        for radius, found in shares.items():
            if len(far):
                field = distance_field(select(truth.scene, [slot]), start[:3, 3], radius)
                found.append(float(torch.isfinite(field.at(there)).double().mean()))
    return {
        "scenes": len(shares[RADIUS]),
        "reached": sum(shares[RADIUS]) / max(1, len(shares[RADIUS])),
        "reached_slim": sum(shares[SLIM]) / max(1, len(shares[SLIM])),
    }


def _anywhere() -> Tensor:
    """Return places 1.5 to 6 m away in all directions, distances drawn evenly."""
    generator = torch.Generator().manual_seed(0)
    away, angle = (
        torch.empty(512, dtype=torch.float64).uniform_(low, high, generator=generator)
        for low, high in ((NEAR, FAR), (-math.pi, math.pi))
    )
    return torch.stack([away * angle.sin(), torch.zeros_like(away), away * angle.cos()], -1)


if __name__ == "__main__":
    write(__doc__, OUT, measure)

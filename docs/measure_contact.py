"""Write docs/performance/contact.json: is a camera stopped where the learned world shows something?

    python docs/measure_contact.py            (about five minutes on one core)

Cameras of random walks in val scenes with true walls. Before every pixel frame's move, what the world
remembers of surfaces is asked whether a body of 0.3 m fits where the move leads (`model/contact.py`), and the
true scene is asked too. Right, missed: places that are 3 cm too near or nearer; wrong: places with 3 cm to
spare that were called blocked; what lies between is a tie. `true depth`: the same with the twin's depth of
all frames so far, which bounds what any depth can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import write
from torch import Tensor

from wm_env.bench.provenance import provenance
from wm_env.bench.walks import context_frames, starts, walks
from wm_env.model.contact import BODY, RADIUS, Surfaces, clearance, joined, obstacles
from wm_env.model.embedded import load_embedded
from wm_env.model.kinematics import KeyMotion, start_motion, step_keys
from wm_env.model.scenes.free_space import is_free, slide
from wm_env.model.scenes.paths import held_keys, trajectory
from wm_env.model.scenes.raycast import render

OUT = Path(__file__).parent / "performance" / "contact.json"
SCENES, STEPS, SEED = 16, 24, 0
TIE = 0.03  # metres
Told = tuple[Tensor, Tensor, Tensor]
"""Of one pixel frame: blocked by depth, surely blocked and surely free in truth, each `(B,)` bool."""


def counted(told: Sequence[Told]) -> dict[str, Any]:
    """Return how often blocked moves were called so."""
    by_depth, blocked, free = (torch.stack(parts) for parts in zip(*told, strict=True))
    right, wrong, missed = (
        int(found.sum()) for found in (by_depth & blocked, by_depth & free, ~by_depth & blocked)
    )
    return {
        "right": right,
        "wrong": wrong,
        "missed": missed,
        "moves": by_depth.numel(),
        "precision": right / max(1, right + wrong),
        "recall": right / max(1, right + missed),
    }


def measure() -> dict[str, Any]:
    """Return the report: settings, and the counts by world and context."""
    rows = []
    for name in ("tiny", "tiny-pure"):
        world = load_embedded(name)
        for kind in ("none", "turn"):
            rows.append({"world": name, "context": kind, **counted(walked(world, kind))})
    for kind in ("none", "turn"):
        rows.append(
            {"world": "true depth", "context": kind, **counted(walked(load_embedded("tiny"), kind, True))}
        )
    spec = load_embedded("tiny").spec
    return {
        "benchmark": "contact",
        **provenance(spec, "python docs/measure_contact.py"),
        "settings": {"split": "val", "scenes": SCENES, "steps": STEPS},
        "rows": rows,
    }


def walked(world: Any, kind: str, true_depth: bool = False) -> list[Told]:
    """Return what was said of every move of walks after contexts of a kind."""
    spec, told = world.spec, []
    seeds = range(SEED, SEED + SCENES)
    keys = [trajectory("random_walk", STEPS, seed) for seed in seeds]
    truth = walks(spec, split="val", seeds=seeds, keys=keys)
    motion = KeyMotion(
        translation_speed=spec.max_translation, rotation_speed_deg=spec.max_rotation_deg, fps=spec.fps
    )
    state = start_motion(SCENES)
    back, origin = truth.start_c2w[:, :3, :3], truth.start_c2w[:, :3, 3]
    shown: list[Surfaces] = []
    seen: Callable[[], Surfaces]
    if true_depth:
        shown.append(true_surfaces(truth, context_frames(spec, truth, kind)[:, :: spec.frames_per_step]))

        def seen() -> Surfaces:
            return joined(shown)
    else:
        chunk, inner = world.begin(starts(world, truth, kind))

        def seen() -> Surfaces:
            newest = Surfaces(chunk.depth[:, -1:], state.c2w[:, None], torch.ones(SCENES, 1).bool())
            kept = world.surfaces(inner)
            return newest if kept is None else joined([newest, kept])

    for held in zip(*keys, strict=True):
        pressed = torch.stack([held_keys(one) for one in held])
        around = obstacles(seen(), state.c2w[:, :3, 3], truth.intrinsics)

        def bend(start: Tensor, end: Tensor) -> Tensor:
            there = [(back @ place.double()[..., None])[..., 0] + origin for place in (start, end)]
            near, far = (is_free(truth.scene, there[1][:, None], RADIUS + tie)[:, 0] for tie in (-TIE, TIE))
            told.append((clearance(around, end[:, None])[:, 0] < BODY, ~near, far))  # noqa: B023
            reached, hit = slide(truth.scene, *there)
            bent = (back.mT @ (reached - origin)[..., None])[..., 0]
            return torch.where(hit[:, None], bent, end)

        c2w, state = step_keys(state, pressed, spec.frames_per_step, motion, bend)
        if true_depth:
            shown.append(true_surfaces(truth, c2w[:, -1:]))
        else:
            chunk, inner = world.step_chunk(inner, c2w)
    return told


def true_surfaces(truth: Any, c2w: Tensor) -> Surfaces:
    """Return the twin's depth from poses `(B, S, 4, 4)` relative to the start."""
    size = truth.frames.shape[2:4]
    _, depth = render(truth.scene, truth.start_c2w[:, None] @ c2w, truth.intrinsics, *size)
    return Surfaces(depth, c2w.double(), torch.ones(depth.shape[:2]).bool())


if __name__ == "__main__":
    write(__doc__, OUT, measure)

"""Write docs/performance/context_check.json: how often `wm-env context check` is right about our own clips.

    python docs/measure_context_check.py            (about twenty minutes on one core)

Clips are walks through val scenes in which the camera goes at least a metre and turns at least 30 degrees,
every other one a context of `context="walk"`, at four frame sizes, each in a world frame of its own. Three
groups, no clip is in two of them:

    damaged      40 clips, one fault each: right is "does not fit", and the mended poses are the true ones
    undamaged    20 clips as they are: right is "fits"
    others       faults that no change of convention makes, and two at once: wrong is "fits"

Mended poses are the true ones where between frames half a second apart rotations agree to half a degree,
translations to 10% once they are scaled, that scale within a factor of 2 (the depth of single pictures knows
no better) and focal lengths within a factor of 1.25. A fault is only counted where it moves the pictures by
half a pixel; what `PosedClip` refuses as it is made never reaches the check and is counted apart.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.provenance import provenance
from wm_env.context_check import check_context, fixed_clip
from wm_env.contexts import walk
from wm_env.model.data.pose_check.check import PoseCheck
from wm_env.model.data.pose_check.hypotheses import OPENGL, OURS, matrix, readings
from wm_env.model.data.pose_check.warping import Pairs, choose_pairs, pixels_apart, relative_poses, views
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.embedded import load_embedded
from wm_env.model.geometry import (
    assemble,
    invert_rigid,
    rotation_angle_deg,
    rotation_from_quaternion,
    se3_exp,
)
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.scenes.paths import start_fov_deg, start_pose, training_paths
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import make_scenes
from wm_env.model.storage.atomic import atomic_path
from wm_env.model.world import WorldSpec

OUT = Path(__file__).parent / "performance" / "context_check.json"
SPLIT, FIRST_SEED = "val", 11000
SIZES = ((64, 64), (96, 96), (72, 96), (72, 128))  # height, width
WALK_FRAMES = 65
LEAST_PATH, LEAST_TURN_DEG, LEAST_PIXELS = 1.0, 30.0, 0.5
DAMAGED = (
    *["world-to-camera"] * 7,
    *["OpenGL axes"] * 7,
    *[f"scale x{factor:g}" for factor in (0.001, 0.01, 0.1, 10, 100) for _ in range(2)],
    *["swapped axes"] * 8,
    *[f"focal length x{factor:g}" for factor in (0.5, 0.6, 1.6, 2.0) for _ in range(2)],
)
OTHERS = (
    *["world-to-camera and OpenGL axes"] * 8,
    *["mirrored"] * 8,
    *["backwards in time"] * 8,
    *["spliced"] * 8,
    *["scaled x3 from the middle on"] * 8,
    *["scaled x0.4 from the middle on"] * 8,
    *["drift of 20 degrees and 0.4 m"] * 8,
)
UNDAMAGED = 20


class Filmed(NamedTuple):
    """A clip with true poses, the depth `(F, h, w)` of its frames in metres, and what made it."""

    clip: PosedClip
    depth: Tensor
    seed: int
    walk: str


def filmed(spec: WorldSpec) -> Iterator[Filmed]:
    """Yield clips that go and turn far enough, one a seed."""
    seed = FIRST_SEED - 1
    made = 0
    while True:
        seed += 1
        scene = make_scenes([seed], SPLIT)
        start = start_pose(scene, seed)
        height, width = SIZES[made % len(SIZES)]
        kind = ("context", "walker")[made // len(SIZES) % 2]
        if kind == "context":
            path = start @ walk(scene, seed, start, spec)
        else:
            path = training_paths(scene, torch.Generator().manual_seed(seed), WALK_FRAMES, start[None])[0]
        turned = rotation_angle_deg(path[:-1, :3, :3], path[1:, :3, :3]).sum()
        if (path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=-1).sum() < LEAST_PATH or turned < LEAST_TURN_DEG:
            continue
        camera = torch.tensor([intrinsics_from_fov(start_fov_deg(seed), width, height)], dtype=torch.float64)
        frames, depth = render(scene, path[None], camera, height, width)
        rng = np.random.default_rng(seed)
        quaternion = rng.normal(size=4)
        turn = rotation_from_quaternion(torch.tensor(quaternion / np.linalg.norm(quaternion)))
        elsewhere = assemble(turn, torch.tensor(rng.uniform(-1, 1, 3))) @ invert_rigid(path[0])
        made += 1
        clip = PosedClip(frames[0].numpy(), (elsewhere @ path).numpy(), camera[0].numpy(), spec.fps)
        yield Filmed(clip, depth[0], seed, kind)


def damaged(one: Filmed, damage: str, other: Filmed) -> PosedClip:
    """Return the clip with a fault; `other` gives the second half of a spliced one.

    Raises `ValueError` where that is no `PosedClip`.
    """
    poses, camera = torch.tensor(one.clip.c2w), one.clip.intrinsics.copy()
    half = len(poses) // 2
    name, _, amount = damage.partition(" x")
    match name:
        case "world-to-camera":
            poses = invert_rigid(poses)
        case "OpenGL axes":
            poses = poses @ matrix(OPENGL)
        case "world-to-camera and OpenGL axes":
            poses = invert_rigid(poses @ matrix(OPENGL))
        case "scale":
            poses[:, :3, 3] *= float(amount)
        case "swapped axes":
            others = [h.axes for h in readings() if h.reading == "given" and h.axes not in (OURS, OPENGL)]
            axes = matrix(others[np.random.default_rng(one.seed).integers(len(others))])
            poses = axes @ poses @ axes.mT
        case "focal length":
            camera[:2] *= float(amount)
        case "mirrored":
            poses = matrix((-1, 2, 3)) @ poses @ matrix((-1, 2, 3))
        case "backwards in time":
            poses = poses.flip(0)
        case "spliced":
            cut = torch.tensor(other.clip.c2w)
            start = min(half, len(cut) - (len(poses) - half))
            poses[half:] = poses[half] @ invert_rigid(cut[start]) @ cut[start : start + len(poses) - half]
        case "scaled":
            by = float(amount.split(" ")[0])
            poses[half:, :3, 3] = poses[half, :3, 3] + by * (poses[half:, :3, 3] - poses[half, :3, 3])
        case "drift of 20 degrees and 0.4 m":
            part = torch.linspace(0, 1, len(poses), dtype=torch.float64)[:, None]
            poses = poses @ se3_exp(part * torch.tensor([0.28, 0.0, 0.28, 0.0, 0.35, 0.0]))
    return replace(one.clip, c2w=poses.numpy(), intrinsics=camera)


def pixels_moved(one: Filmed, clip: PosedClip) -> float:
    """Return by how many pixels the poses and the camera of a damaged clip put the pictures wrong, mean."""
    pairs = choose_pairs(len(clip), clip.fps)
    seen = views(torch.tensor(clip.frames), one.depth, torch.tensor(one.clip.intrinsics), pairs, 4)
    if not np.array_equal(clip.intrinsics, one.clip.intrinsics):
        return LEAST_PIXELS  # a focal length moves what turns at all
    motions = (relative_poses(torch.tensor(c.c2w), pairs) for c in (one.clip, clip))
    return float(pixels_apart(seen, *motions).mean())


def is_mended(one: Filmed, mended: PosedClip) -> bool:
    """Return whether mended poses and focal length are the true ones, as the module's docstring has it."""
    half_second = torch.arange(0, len(mended) - 8, 4)
    pairs = Pairs(half_second, half_second + 8)
    true, own = (relative_poses(torch.tensor(c.c2w), pairs) for c in (one.clip, mended))
    if rotation_angle_deg(true[:, :3, :3], own[:, :3, :3]).max() > 0.5:
        return False
    t, u = true[:, :3, 3], own[:, :3, 3]
    scale = float((t * u).sum() / (u * u).sum().clamp_min(1e-12))
    off = float((scale * u - t).norm() / t.norm())
    focal = float(mended.intrinsics[0] / one.clip.intrinsics[0])
    return 0.5 < scale < 2 and off < 0.1 and 1 / 1.25 < focal < 1.25


def row(one: Filmed, clip: PosedClip, damage: str) -> dict[str, Any]:
    """Return what the check says of a clip, whether its mended poses are true, and how long it took."""
    began = time.perf_counter()
    check: PoseCheck = check_context(clip)
    seconds = time.perf_counter() - began
    mends = check.verdict == "does not fit" and check.best is not None
    return {
        "seed": one.seed,
        "walk": one.walk,
        "size": list(clip.size),
        "frames": len(clip),
        "damage": damage,
        "verdict": check.verdict,
        "sentence": check.sentence,
        "sure": check.sure,
        "mended": mends and is_mended(one, fixed_clip(clip, check)),
        "scale": check.scale,
        "focal": check.focal,
        "seconds": round(seconds, 2),
    }


def group(source: Iterator[Filmed], damages: Sequence[str]) -> dict[str, Any]:
    """Return the rows of one group, and how many draws were left out and why."""
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    harmless = 0
    for damage in damages:
        while True:
            one = next(source)
            try:
                clip = damaged(one, damage, next(source) if damage == "spliced" else one)
            except ValueError as error:
                refused.append({"seed": one.seed, "damage": damage, "error": str(error)})
                continue
            if damage != "none" and pixels_moved(one, clip) < LEAST_PIXELS:
                harmless += 1
                continue
            break
        rows.append(row(one, clip, damage))
        print(f"{damage}: {rows[-1]['sentence']} ({'mended' if rows[-1]['mended'] else 'not mended'})")
    return {"rows": rows, "refused_at_load": refused, "harmless_draws": harmless}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    spec = load_embedded("tiny").spec
    source = filmed(spec)
    groups = {
        "damaged": group(source, DAMAGED),
        "undamaged": group(source, ["none"] * UNDAMAGED),
        "others": group(source, OTHERS),
    }
    report = {
        "benchmark": "context check",
        **provenance(spec, "python docs/measure_context_check.py"),
        "settings": {"split": SPLIT, "first_seed": FIRST_SEED, "sizes": SIZES},
        "groups": groups,
    }
    with atomic_path(options.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

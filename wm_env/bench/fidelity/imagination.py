"""What a world imagines, from frames to numbers by scene: the frames that a long rollout has anyway.

A world has to invent what nobody has looked at, and there PSNR rewards the mean of all rooms, which is haze.
So PSNR is split by what earlier frames have shown, and the rest asks whether frames look like rooms, hold
together and follow the camera, without asking for the true room. Beside the world stand true frames of other
walks through the same scenes (the best case) and the first frame repeated (the worst).

`LOOKS` frames a walk are looked at, evenly spaced over its last three quarters. Legend: `S` scenes, `L` of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wm_env.bench.fidelity.rows import FidelitySettings
from wm_env.bench.seen import psnr_where, seen_by_walk
from wm_env.bench.walks import Rolled, Walks, walk
from wm_env.model.judge.network import CELLS, KINDS, SIZE, FrozenJudge, cell_kinds
from wm_env.model.metrics.appearance import clip_statistics
from wm_env.model.metrics.edges import gradient_energy, grid_energy
from wm_env.model.metrics.frechet import frechet_band
from wm_env.model.metrics.told_apart import telling_accuracy
from wm_env.model.metrics.warping import warp_errors
from wm_env.model.scenes.paths import trajectory
from wm_env.model.scenes.raycast import render, surfaces
from wm_env.model.scenes.worlds import surface_kinds
from wm_env.model.world import WorldSpec

LOOKS = 24
PERIODS = 3
OTHER_WALK = 2**21  # added to a walk's seed for another one through its scene
TRUE, OTHER, FIRST, TEMPLATE = "true frames", "true, another walk", "repeat first frame", "template"
WRONG = "true, another's motion"


def look_times(frames: int) -> Tensor:
    """Return the numbers of the frames that are looked at, of walks of `frames` after the start: `(L,)`."""
    return torch.linspace(frames // 4 + 1, frames, LOOKS).round().long().unique()


def imagined(
    name: str, spec: WorldSpec, truth: Walks, made: Rolled, settings: FidelitySettings, judge: FrozenJudge
) -> dict[str, Any]:
    """Return what the world `name` imagined along long walks, by measure, row and scene.

    truth: the walks. made: what the world made of them, their frames and depth.
    """
    times = look_times(truth.frames.shape[1] - 1)
    near, late = other_walk(spec, truth, settings, times)
    rows = {
        name: made.frames[:, times],
        TRUE: truth.frames[:, times],
        OTHER: late,
        FIRST: truth.frames[:, :1].expand_as(late),
    }
    kinds = true_kinds(truth, times)
    judged = {row: judge.judge(frames.flatten(0, 1)) for row, frames in rows.items()}
    shape = kinds.shape[:2]
    pooled = {row: one.pooled.unflatten(0, shape).numpy() for row, one in judged.items()}
    return {
        "judge": judge.sha256,
        "frames": times.tolist(),
        "known": known(name, spec, truth, made.frames, near, settings),
        "looks": {row: statistics(frames, times) for row, frames in rows.items()},
        "frechet": {
            row: list(frechet_band(features, pooled[TRUE])) for row, features in pooled.items() if row != TRUE
        },
        "told_apart": {row: telling_accuracy(rows[row], rows[TRUE]).tolist() for row in (name, OTHER)},
        "structure": structure({row: one.kinds.unflatten(0, shape) for row, one in judged.items()}, kinds),
        "geometry": geometry(name, spec, truth, made, times),
    }


def other_walk(
    spec: WorldSpec, truth: Walks, settings: FidelitySettings, times: Tensor
) -> tuple[Tensor, Tensor]:
    """Return true frames of another random walk from the same starts, at the horizons and at `times`."""
    steps = -(-(truth.frames.shape[1] - 1) // spec.frames_per_step)
    seeds = [settings.seed + OTHER_WALK + slot for slot in range(len(truth.prompts))]
    path = walk(spec, truth.scene, truth.start_c2w, [trajectory("random_walk", steps, one) for one in seeds])
    wanted = torch.cat([torch.tensor(settings.horizons), times])
    frames, _ = render(truth.scene, path[:, wanted], truth.intrinsics, *spec.frame_size)
    return frames[:, : len(settings.horizons)], frames[:, len(settings.horizons) :]


def true_kinds(truth: Walks, times: Tensor) -> Tensor:
    """Return what most of each cell should show at `times`, by pose and scene: int64 `(S, L, 8, 8)`."""
    height, width = truth.frames.shape[2:4]
    scale = torch.tensor([SIZE / width, SIZE / height] * 2, dtype=torch.float64)
    poses = truth.start_c2w[:, None] @ truth.c2w[:, times]
    return cell_kinds(surface_kinds(surfaces(truth.scene, poses, truth.intrinsics * scale, SIZE, SIZE)))


def known(
    name: str, spec: WorldSpec, truth: Walks, made: Tensor, other: Tensor, settings: FidelitySettings
) -> dict[str, Any]:
    """Return PSNR on the pixels that earlier true frames have shown and on the others, and the share of both.

    By what is measured, row and horizon; made: frames of the world, other: of another walk at the horizons.
    """
    found: dict[str, Any] = {"seen": {}, "never": {}, "share": {}}
    for index, h in enumerate(settings.horizons):
        mask = seen_by_walk(spec, truth, h)
        found["share"][str(h)] = mask.double().mean((1, 2)).tolist()
        for row, frames in ((name, made[:, h]), (OTHER, other[:, index]), (FIRST, truth.frames[:, 0])):
            for part, where in (("seen", mask), ("never", ~mask)):
                values = psnr_where(frames, truth.frames[:, h], where)
                found[part].setdefault(row, {})[str(h)] = values
    return found


def statistics(frames: Tensor, times: Tensor) -> dict[str, dict[str, list[float]]]:
    """Return statistics of frames `(S, L, h, w, 3)` by name and period such as "65-128", a number a scene."""
    out: dict[str, dict[str, list[float]]] = {}
    for some in torch.arange(len(times)).tensor_split(PERIODS):
        if len(some):
            period = f"{int(times[some[0]])}-{int(times[some[-1]])}"
            clip = frames[:, some]
            found = {key: value for key, value in clip_statistics(clip).items() if key != "luma"}
            found |= {f"gradient at {scale}": value for scale, value in gradient_energy(clip).items()}
            found["token grid"] = grid_energy(clip)
            for key, values in found.items():
                out.setdefault(key, {})[period] = values.tolist()
    return out


def structure(found: Mapping[str, Tensor], truth: Tensor) -> dict[str, list[float]]:
    """Return how far floor and ceiling are where they belong, by row and scene, beside a constant template.

        cells that are floor (ceiling) and found as such / cells that are either or found as either

    found: kinds `(S, L, 8, 8)` that the judge finds in the frames of a row; truth: those that height, pitch
    and walls put there. template: in every frame the kind that a cell has most often in all of them, the best
    that can be said without looking.
    """
    most = torch.nn.functional.one_hot(truth, KINDS).flatten(0, 1).sum(0).argmax(-1)  # (8, 8)
    told = {**found, TEMPLATE: most.expand(*truth.shape[:2], CELLS, CELLS)}
    wanted = truth < 2
    out = {}
    for row, kinds in told.items():
        right = (wanted & (kinds == truth)).flatten(1).sum(1)
        either = (wanted | (kinds < 2)).flatten(1).sum(1)
        out[row] = (right / either.clamp_min(1)).tolist()
    return out


def geometry(
    name: str, spec: WorldSpec, truth: Walks, made: Rolled, times: Tensor
) -> dict[str, dict[str, list[float]]]:
    """Return the errors of a step with and without its motion, by row and scene; a world without depth: none.

    Pairs are the frames at `times` and those one env step before.
    """
    before = (times - spec.frames_per_step).clamp_min(0)
    rows = {TRUE: (truth.frames, truth.depth, truth.c2w)}
    if made.depth is not None:
        rows = {name: (made.frames, made.depth, truth.c2w), **rows}
    if len(truth.prompts) > 1:
        rows[WRONG] = (truth.frames, truth.depth, truth.c2w.roll(1, dims=0))
    out = {}
    for row, (frames, depth, poses) in rows.items():
        errors = [
            warp_errors(
                frames[scene, before], frames[scene, times],
                (depth[scene, before], depth[scene, times]), (poses[scene, before], poses[scene, times]),
                truth.intrinsics[scene].expand(len(times), -1),
            )
            for scene in range(len(frames))
        ]  # fmt: skip
        out[row] = {
            "warped": [float(one.warped.mean()) for one in errors],
            "still": [float(one.still.mean()) for one in errors],
        }
    return out

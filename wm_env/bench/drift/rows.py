"""How a world drifts over a long episode, beside the baselines that tell whether a number means anything.

For every trajectory, scene and noise seed the world walks the commanded path; every rollout becomes one row
of `rows.jsonl` with its scores in equal time bins (`columns`, `clip_metrics`). Rows beside the world: the
first frame repeated, the autoencoder alone, the twin rendered again, the world shown the poses of an
unrelated walk, the world with a part removed, and the world fed with the true history (teacher forced).

A group of scenes is walked in one batched world call per chunk and written when all its rows are complete, so
an interrupted run continues where it was and ends with the same file. `wm_env.bench.drift.score` turns rows
into the report. Legend: `B` walks of a group, `F` pixel frames, `K` frames a step.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.bench.drift.bins import BINS
from wm_env.bench.drift.clip_metrics import (
    appearance_scores,
    latency_scores,
    pose_scores,
    revisit_scores,
    wanted_motion,
)
from wm_env.bench.drift.columns import Clip, measured
from wm_env.bench.drift.error_split import encoded, latent_scores, place_scores
from wm_env.bench.drift.pose_estimate import track_poses
from wm_env.bench.drift.probes import add_seconds, memory_steps, probe_gate, probe_memories
from wm_env.bench.drift.revisit import loop_closure
from wm_env.bench.drift.rollouts import (
    ESTIMATE,
    REPEAT,
    SHUFFLED,
    DriftSettings,
    Group,
    image_group,
    rollouts,
    rows_per_scene,
    scene_group,
    steps_per_scene,
)
from wm_env.bench.records import plain
from wm_env.bench.row_file import Job, append_rows, open_rows, rounded, write_json
from wm_env.bench.seen import share_shown
from wm_env.bench.walks import Tick
from wm_env.images import StartImage
from wm_env.model.geometry import relative_to_first
from wm_env.model.rollout import LearnedWorld
from wm_env.model.storage.atomic import atomic_path
from wm_env.model.world import World

FILM_FRAMES = 7
TELEMETRY = 6  # env steps that one with telemetry takes as long as
TOP_DOWN_WALKS = 4  # paths kept a trajectory for the figure


def drift(
    worlds: Mapping[str, World],
    settings: DriftSettings,
    out: Path,
    *,
    compared: int = 1,
    image: StartImage | None = None,
    prompt: str = "",
    report: Callable[[int, int, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Walk everything that `out` does not hold yet, and return all rows of `out/rows.jsonl`.

    worlds: the one that is judged first, others after it, then ablations. compared: how many of them are
    worlds of their own, whose poses are estimated too. image: start from this picture, without a
    truth, instead of from scenes. report: called with (env steps done, in all, what is walked).
    """
    world = next(iter(worlds.values()))
    _check_frames(settings, world)
    _check_alike(worlds)
    whole = tuple(worlds)[:compared]
    identity = {"world": world.spec.label, "weights_sha256": world.spec.weights_sha256, **asdict(settings)}
    identity |= {"rows": list(worlds), "image": image is not None and _digest(image), "prompt": prompt}
    plan = _plan(settings, image is None)
    per_scene = rows_per_scene(worlds, settings, image is None)
    rows = open_rows(out, json.loads(json.dumps(identity)), plan, per_scene)
    done = {(row["trajectory"], row["scene"]) for row in rows}
    if image is None and settings.pose_every and not (out / "gate.json").exists():
        write_json(out / "gate.json", probe_gate(world, settings)._asdict())
    each = steps_per_scene(worlds, settings, image is None, compared)
    walked, made_before = each * sum(len(scenes) for _, scenes in plan), 0
    probed = image is None and isinstance(world, LearnedWorld)
    total = walked + (TELEMETRY * memory_steps(settings) if probed else 0)
    for index, (name, scenes) in enumerate(plan):
        if (name, scenes[0]) in done:
            made_before += each * len(scenes)
            continue
        tick = _counting(report, made_before, total, f"{name}, scenes {scenes[0]}-{scenes[-1]}")
        made_before += each * len(scenes)
        films = all(name != before for before, _ in plan[:index])  # the first group of a trajectory
        if image is None:
            group = scene_group(world, settings, name, scenes)
        else:
            group = image_group(world, settings, name, image, prompt)
        made = [
            rounded(plain(row)) for row in _measure(worlds, whole, settings, name, group, out, films, tick)
        ]
        append_rows(out, made)
        rows += made
    if image is None and isinstance(world, LearnedWorld) and not (out / "telemetry.json").exists():
        tick = _weighed(_counting(report, walked, total, "state telemetry"), TELEMETRY)
        write_json(out / "telemetry.json", probe_memories(world, settings, tick).to_json())
    if report is not None:
        report(total, total, "done")
    return rows


def _counting(report: Callable[[int, int, str], None] | None, done: int, total: int, what: str) -> Tick:
    """Return what counts the steps of a group onwards from `done` and reports every one."""

    def tick(steps: int) -> None:
        nonlocal done
        if report is not None:
            report(done, total, what)  # a tick comes before its step
        done += steps

    tick(0)
    return tick


def _weighed(tick: Tick, weight: int) -> Tick:
    """Return what counts things that take as long as `weight` steps each."""
    return lambda things: tick(things * weight)


def _digest(image: StartImage) -> str:
    """Return what tells one start picture and its lens from another."""
    lens = json.dumps(image.intrinsics).encode()
    return hashlib.sha256(image.pixels.tobytes() + lens).hexdigest()


def _check_frames(settings: DriftSettings, world: World) -> None:
    frames = settings.steps * world.spec.frames_per_step
    if frames < 4 * BINS:
        raise ValueError(
            f"a horizon of {frames} frames is too short for {BINS} bins; take {4 * BINS} or more"
        )


def _check_alike(worlds: Mapping[str, World]) -> None:
    """Raise `ValueError` where worlds cannot be walked along one path."""
    (first, world), *others = worlds.items()
    for name, other in others:
        for field in ("frames_per_step", "frame_size", "max_translation", "max_rotation_deg", "fps"):
            here, there = world.spec.__dict__[field], other.spec.__dict__[field]
            if here != there:
                raise ValueError(
                    f"worlds {first!r} and {name!r} cannot share a report: {field} {here}, {there}"
                )


def _plan(settings: DriftSettings, scenes: bool) -> list[Job]:
    """Return the groups: trajectory and scene seeds; a picture is one scene with the seed as its number."""
    seeds = list(range(settings.seed, settings.seed + settings.scenes)) if scenes else [settings.seed]
    stride = len(settings.trajectories) if settings.spread else 1
    shares = {name: seeds[k % stride :: stride] for k, name in enumerate(settings.trajectories)}
    return [
        (name, own[i : i + settings.batch])
        for name, own in shares.items()
        for i in range(0, len(own), settings.batch)
    ]


def _measure(
    worlds: Mapping[str, World],
    whole: Sequence[str],
    settings: DriftSettings,
    name: str,
    group: Group,
    out: Path,
    films: bool,
    tick: Tick,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one group; keep the time every row took and, if `films`, those of its first scene."""
    first, world = next(iter(worlds.items()))
    true = None
    if isinstance(world, LearnedWorld) and group.truth is not None:
        true = encoded(world, group.truth.frames, group.truth.depth)
    shown = None
    if group.truth is not None and settings.pose_every:
        sampled = torch.arange(0, group.c2w.shape[1], settings.pose_every)
        shown = share_shown(world.spec, group.truth, settings.context, sampled).numpy()  # (B, m)
    spent: dict[str, float] = {}
    for noise in range(settings.seeds):
        started = time.process_time()
        for row, made in rollouts(worlds, group, noise, tick):
            spent[row] = spent.get(row, 0.0) + time.process_time() - started
            poses = latents = None
            if shown is not None:
                counted = _weighed(tick, ESTIMATE)
                poses = _poses(group, made.frames, row, whole, settings.pose_every, shown, counted)
            own = worlds.get(row, world)
            if made.latents is not None and true is not None and _same_codec(own, world):
                latents = latent_scores(made.latents, true, BINS)
            elif row == REPEAT and true is not None:
                latents = latent_scores(true[:, :1].expand_as(true), true, BINS)
            for slot, scene in enumerate(group.scenes):
                found = _score(world, group, slot, made.frames[slot], row == first)
                if row == SHUFFLED:  # walked elsewhere: it never came back to the commanded poses
                    found["revisit"] = []
                if poses is not None:
                    found |= poses[slot]
                if latents is not None:
                    found["latent"] = latents[slot]
                yield {"trajectory": name, "row": row, "scene": scene, "noise": noise, **found}
            if films and noise == 0 and row in whole:
                _keep_film(out, name, row, made.frames, group)
            started = time.process_time()
    walked = len(group.scenes) * settings.seeds * settings.steps * world.spec.frames_per_step
    add_seconds(out, spent, walked / world.spec.fps)


def _same_codec(one: World, other: World) -> bool:
    """Return whether two worlds have equal autoencoders, so that their latents can be compared."""
    if not (isinstance(one, LearnedWorld) and isinstance(other, LearnedWorld)):
        return False
    mine, theirs = one.vae.state_dict(), other.vae.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def _score(world: World, group: Group, slot: int, frames: Tensor, judged: bool) -> dict[str, Any]:
    """Return the scores of one rollout `(1 + F, h, w, 3)`; the truth's own statistics ride with `judged`."""
    truth = None if group.truth is None else group.truth.frames[slot]
    chunk = world.spec.frames_per_step
    found: dict[str, Any] = dict(appearance_scores(frames, BINS, chunk))
    found |= measured(Clip(frames, truth))
    found["latency"] = latency_scores(frames, wanted_motion(truth, group.c2w[slot]))
    found["revisit"] = revisit_scores(frames, truth, group.c2w[slot], world.spec.fps)
    if truth is not None:
        del found["variances"]  # deviations are told in spreads of the truth
        if judged:
            found["reference"] = appearance_scores(truth, BINS, chunk)
    return found


def _poses(
    group: Group,
    frames: Tensor,
    row: str,
    whole: Sequence[str],
    every: int,
    shown: np.ndarray,
    tick: Tick,
) -> list[dict[str, Any]] | None:
    """Return pose scores of the worlds that are compared, and of a camera that never moved for `REPEAT`.

    shown: `(B, m)`, share of the sampled views that was shown before the walk.
    """
    truth = group.truth
    if truth is None or row not in (*whole, REPEAT):
        return None
    commanded = truth.start_c2w[:, None] @ truth.c2w
    total = frames.shape[1] - 1
    sampled = torch.arange(0, total + 1, every)
    if row == REPEAT:
        none = np.zeros(len(sampled), dtype=bool)
        realised = commanded[:, :1].expand(-1, len(sampled), -1, -1)
        told = (sampled.numpy(), total, BINS, none)
        return [
            {"pose": pose_scores(commanded[i, sampled], realised[i], *told, shown[i])}
            for i in range(len(commanded))
        ]
    track = track_poses(truth.scene, frames, commanded, truth.intrinsics, every, tick)
    places = place_scores(truth.scene, track, frames, truth.frames, truth.intrinsics, BINS)
    out = []
    for slot in range(len(commanded)):
        asked, got = commanded[slot, sampled], track.c2w[slot]
        lost = track.lost[slot].numpy()
        found = pose_scores(asked, got, sampled.numpy(), total, BINS, lost, shown[slot])
        found["closure"] = {"deg": None, "share_of_path": None}
        if not lost[-1]:
            closure = loop_closure(asked, got)
            found["closure"] = {"deg": closure.degrees, "share_of_path": closure.share_of_path}
        if slot < TOP_DOWN_WALKS:
            relative = [relative_to_first(path)[:, [0, 2], 3].tolist() for path in (asked, got)]
            found["top_down"] = {"commanded": relative[0], "realised": relative[1], "lost": lost.tolist()}
        out.append({"pose": found, "place": places[slot]})
    return out


def _keep_film(out: Path, name: str, row: str, frames: Tensor, group: Group) -> None:
    """Write the frames of the filmstrip of the group's first scene."""
    chosen = np.linspace(0, frames.shape[1] - 1, FILM_FRAMES).round().astype(int)
    film: dict[str, Any] = {"frames": frames[0, chosen].numpy(), "index": chosen, "row": np.array(row)}
    if group.truth is not None:
        film["truth"] = group.truth.frames[0, chosen].numpy()
    (out / "films").mkdir(exist_ok=True)
    file = f"{name}--{row}".replace("/", "-").replace(" ", "-")
    with atomic_path(out / "films" / f"{file}.npz") as temporary:
        np.savez_compressed(temporary, **film)


def seconds_to_steps(seconds: float, world: World) -> int:
    """Return the env steps that last `seconds`, rounded."""
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"a horizon of {seconds} s must be a positive number of seconds")
    return max(1, round(seconds * world.spec.fps / world.spec.frames_per_step))

"""Contexts of scene seeds: posed pictures of the true scene that end at its start pose.

    turn   one full turn on the spot, 25 steps
    walk   a walk of 25 steps that ends at the start: one that left it, run backwards

They hold the renderer's colours and poses, nothing else. A clip of one's own ends at the start as well
(`clip_context`). States after a context are the same every time, so they are kept, the latest used of them,
up to `KEPT_BYTES`.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.geometry import assemble, invert_rigid
from wm_env.model.kinematics import KeyMotion
from wm_env.model.scenes.paths import trajectory, walk_keys
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene
from wm_env.model.state import cat, nbytes, select, tree_map
from wm_env.model.world import Chunk, Context, PosedFrames, Start, World, WorldSpec

SceneContext = Literal["turn", "walk"]
SCENE_CONTEXTS: tuple[SceneContext, ...] = ("turn", "walk")
STEPS = 25
SAME_CAMERA = 0.02  # of the focal length and of the size, as in the frames of one clip
KEPT_BYTES = 2**30  # of states after contexts, in one process

_kept: OrderedDict[Hashable, tuple[Chunk, Any]] = OrderedDict()
_lock = threading.Lock()


def scene_context(
    kind: SceneContext,
    scene: Scene,
    scene_seed: int,
    start_c2w: Tensor,
    image: np.ndarray,
    intrinsics: tuple[float, float, float, float],
    spec: WorldSpec,
    key: Hashable,
) -> Context:
    """Return the context `kind` of one scene; start_c2w `(4, 4)` float64 absolute, image its picture."""

    def load() -> PosedFrames:
        step = spec.frames_per_step
        relative = turn(step) if kind == "turn" else walk(scene, scene_seed, start_c2w, spec)
        camera = torch.tensor([intrinsics], dtype=torch.float64)
        frames, _ = render(scene, (start_c2w @ relative)[None], camera, *spec.frame_size)
        pictures = frames[0].numpy()
        pictures[-1] = image
        return PosedFrames(pictures, relative.numpy())

    length = 1 + STEPS * spec.frames_per_step
    return Context(length=length, load=load, key=(kind, scene_seed, key))


class ClipContext(NamedTuple):
    """A clip as a start: its last frame uint8 `(h, w, 3)`, `(fx, fy, cx, cy)`, caption, and all of it."""

    image: np.ndarray
    intrinsics: tuple[float, float, float, float]
    caption: str | None
    context: Context

    def clip(self, fps: float) -> PosedClip:
        """Return it as a clip again, of `fps` frames per second."""
        seen = self.context.load()
        return PosedClip(seen.frames, seen.c2w, np.array(self.intrinsics), fps, self.caption)


def clip_context(source: PosedClip | str | Path, spec: WorldSpec) -> ClipContext:
    """Return a clip, or the one that a path holds, as a world takes it: its rate, its size, whole chunks.

    Leading frames that do not fit are dropped. Raises `ValueError` in one sentence as `PosedClip` does.
    """
    clip = _as_taken(source, spec).ending(spec.frames_per_step)
    seen = PosedFrames(clip.frames, clip.from_last())
    digest = hashlib.sha256(seen.frames.tobytes() + seen.c2w.tobytes()).hexdigest()
    fx, fy, cx, cy = clip.intrinsics.tolist()
    context = Context(length=len(clip), load=lambda: seen, key=("clip", digest))
    return ClipContext(seen.frames[-1], (fx, fy, cx, cy), clip.caption, context)


def _as_taken(source: PosedClip | str | Path, spec: WorldSpec) -> PosedClip:
    """Return a clip, or the one that a path holds, at a world's frame rate and size."""
    if not isinstance(source, str | Path | PosedClip):
        raise ValueError(f"a clip is a PosedClip or the path of one, not a {type(source).__name__}")
    clip = source if isinstance(source, PosedClip) else PosedClip.load(source, size=spec.frame_size)
    return clip.resampled(spec.fps).resized(*spec.frame_size)


def shown_frames(source: PosedClip | str | Path, spec: WorldSpec, intrinsics: Sequence[float]) -> PosedFrames:
    """Return the last K n frames of a clip as a running episode takes them, poses as they are.

    intrinsics: `(fx, fy, cx, cy)` of the episode, which has one camera. Raises `ValueError` in one sentence
    as `PosedClip` does, and where the clip was taken by another camera.
    """
    clip = _as_taken(source, spec)
    own, size = np.asarray(intrinsics, np.float64), np.array([spec.frame_size[1], spec.frame_size[0]])
    focal = np.abs(clip.intrinsics[:2] / own[:2] - 1).max()
    centre = np.abs((clip.intrinsics[2:] - own[2:]) / size).max()
    if focal > SAME_CAMERA or centre > SAME_CAMERA:
        raise ValueError(
            f"the clip was taken by another camera, fx, fy, cx, cy = {_listed(clip.intrinsics)} at this "
            f"size; the episode has {_listed(own)}: start it from a clip or picture of the same camera"
        )
    step = spec.frames_per_step
    if len(clip) < step:
        raise ValueError(f"{len(clip)} frames are less than a step of {step}; film longer")
    first = len(clip) % step
    return PosedFrames(clip.frames[first:], clip.c2w[first:])


def shown_to_slots(
    clips: Sequence[PosedClip | str | Path | None], spec: WorldSpec, intrinsics: Sequence[Sequence[float]]
) -> list[PosedFrames | None]:
    """Return `shown_frames` of a clip or None a slot, intrinsics one each; `ValueError` names the slot."""
    is_clip = isinstance(clips, str | Path | PosedClip)
    several = isinstance(clips, Sequence) and not is_clip
    if not several or len(clips) != len(intrinsics):
        given = f"{len(clips)} clips" if several else "one clip" if is_clip else f"a {type(clips).__name__}"
        raise ValueError(f"{given} for {len(intrinsics)} envs; give a list with a clip or None for each")
    seen: list[PosedFrames | None] = []
    for slot, (clip, camera) in enumerate(zip(clips, intrinsics, strict=True)):
        try:
            seen.append(None if clip is None else shown_frames(clip, spec, camera))
        except ValueError as error:
            raise ValueError(f"slot {slot}: {error}") from error
    return seen


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def turn(frames_per_step: int) -> Tensor:
    """Return the poses `(1 + K 25, 4, 4)` float64 of one turn to the right that ends where it began."""
    angle = torch.arange(1 + STEPS * frames_per_step, dtype=torch.float64)
    angle = angle * (2 * math.pi / (STEPS * frames_per_step))
    rotation = torch.zeros(len(angle), 3, 3, dtype=torch.float64)
    rotation[:, 0, 0] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 0, 2], rotation[:, 2, 0] = angle.sin(), -angle.sin()
    rotation[:, 1, 1] = 1.0
    poses = assemble(rotation, torch.zeros(len(angle), 3, dtype=torch.float64))
    poses[-1] = torch.eye(4, dtype=torch.float64)
    return poses


def walk(scene: Scene, seed: int, start_c2w: Tensor, spec: WorldSpec) -> Tensor:
    """Return the poses `(1 + K 25, 4, 4)` float64 of a walk that ends at the start, relative to it."""
    motion = KeyMotion(
        translation_speed=spec.max_translation, rotation_speed_deg=spec.max_rotation_deg, fps=spec.fps
    )
    keys = trajectory("random_walk", STEPS, seed)
    path = walk_keys(scene, start_c2w[None], keys, motion, spec.frames_per_step)[0]
    relative = invert_rigid(start_c2w.double())[None] @ path.flip(0)
    relative[-1] = torch.eye(4, dtype=torch.float64)
    return relative


def begin(world: World, starts: Sequence[Start]) -> tuple[Chunk, Any]:
    """Return `world.begin(starts)`; states after contexts of scene seeds come from those kept."""
    keys = [_key(world.spec, start) for start in starts]
    if all(key is None for key in keys):
        return world.begin(starts)
    with _lock:
        known = {slot: _kept[key] for slot, key in enumerate(keys) if key is not None and key in _kept}
        for slot in known:
            _kept.move_to_end(keys[slot])
    missing = [slot for slot in range(len(starts)) if slot not in known]
    parts = [known[slot] for slot in known]
    if missing:
        fresh = world.begin([starts[slot] for slot in missing])
        parts.append(fresh)
        for index, slot in enumerate(missing):
            if keys[slot] is not None:
                _keep(keys[slot], tree_map(torch.clone, select(fresh, [index])))
    order = torch.tensor([*known, *missing]).argsort()
    chunk, state = select(cat(parts), order)
    return chunk, world.set_noise_seed(state, [start.noise_seed for start in starts])


def _key(spec: WorldSpec, start: Start) -> Hashable | None:
    """Return what decides a state after a context but for its noise seed; None where nobody can tell."""
    if start.context is None or start.context.key is None or spec.weights_sha256 is None:
        return None
    own = (spec.name, tuple(sorted(spec.options.items())), spec.weights_sha256, spec.frame_size)
    return (own, start.context.key, start.prompt, start.temperature, start.intrinsics)


def _keep(key: Hashable, value: tuple[Chunk, Any]) -> None:
    with _lock:
        _kept[key] = value
        while len(_kept) > 1 and sum(nbytes(one) for one in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)


def forget() -> None:
    """Drop all states that are kept."""
    with _lock:
        _kept.clear()

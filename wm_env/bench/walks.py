"""Walks to measure a world on, and how a world shows them.

A walk is a list of held keys driven through a procedural scene with the world's own speeds; collisions slide
along the walls. Every world gets the start image and the same poses, so frame f of a world and frame f of
the renderer are the same view. Legend: `B` walks, `F` pixel frames after the start, `K` frames a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wm_env.contexts import turn
from wm_env.contexts import walk as context_walk
from wm_env.model.geometry import relative_to_first
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.kinematics import KeyMotion, start_motion, step_keys
from wm_env.model.pixels import to_pixels, to_rgb
from wm_env.model.rollout import LearnedWorld
from wm_env.model.scenes.captions import caption
from wm_env.model.scenes.paths import held_keys, resolver, start_fov_deg, start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import Scene, make_scenes
from wm_env.model.state import select
from wm_env.model.world import Context, PosedFrames, Start, World, WorldSpec

CONTEXT_SEED = 2**20  # added to a walk's seed for the walk of its context


class Walks(NamedTuple):
    """The truth of one walk per scene.

    frames: uint8 `(B, 1 + F, h, w, 3)`. depth: float32 `(B, 1 + F, h, w)` metres. c2w: `(B, 1 + F, 4, 4)`
    float64 relative to the start. scene: the scenes. start_c2w: `(B, 4, 4)` float64 absolute. intrinsics:
    `(B, 4)` float64 pixels. prompts: one a scene. noise_seeds: what the world's noise is keyed with.
    """

    frames: Tensor
    depth: Tensor
    c2w: Tensor
    scene: Scene
    start_c2w: Tensor
    intrinsics: Tensor
    prompts: tuple[str, ...]
    noise_seeds: tuple[int, ...]


def walks(
    spec: WorldSpec,
    *,
    split: str,
    seeds: Sequence[int],
    keys: Sequence[Sequence[str]],
    noise_seed: int = 0,
) -> Walks:
    """Return the truth of walking `keys[i]` (held keys of every step) from the start of scene `seeds[i]`.

    Frame size, chunk length and speeds are those of `spec`; `noise_seed` is added to each scene's seed.
    """
    height, width = spec.frame_size
    scene = make_scenes(seeds, split)
    starts = torch.stack([start_pose(select(scene, [slot]), seed) for slot, seed in enumerate(seeds)])
    camera = [intrinsics_from_fov(start_fov_deg(seed), width, height) for seed in seeds]
    intrinsics = torch.tensor(camera, dtype=torch.float64)
    path = walk(spec, scene, starts, keys)
    frames, depth = render(scene, path, intrinsics, height, width)
    return Walks(
        frames=frames,
        depth=depth,
        c2w=relative_to_first(path),
        scene=scene,
        start_c2w=starts.double(),
        intrinsics=intrinsics,
        prompts=tuple(caption(scene)),
        noise_seeds=tuple(noise_seed + seed for seed in seeds),
    )


def steps_around(spec: WorldSpec) -> int:
    """Return how many env steps a full turn takes at full speed."""
    return round(360 / (spec.max_rotation_deg * spec.frames_per_step))


def walk(spec: WorldSpec, scene: Scene | None, start: Tensor, keys: Sequence[Sequence[str]]) -> Tensor:
    """Return absolute poses `(B, 1 + F, 4, 4)` float64 of one key list a slot, from `start` `(B, 4, 4)`.

    Without a scene nothing is in the way.
    """
    motion = KeyMotion(
        translation_speed=spec.max_translation, rotation_speed_deg=spec.max_rotation_deg, fps=spec.fps
    )
    hook = None if scene is None else resolver(scene)
    state = start_motion(start.shape[0])._replace(c2w=start.double())
    poses = [state.c2w[:, None]]
    for held in zip(*keys, strict=True):
        pressed = torch.stack([held_keys(one) for one in held])  # (B, 8)
        path, state = step_keys(state, pressed, spec.frames_per_step, motion, hook)
        poses.append(path)
    return torch.cat(poses, dim=1)


def context_frames(spec: WorldSpec, truth: Walks, kind: str) -> Tensor:
    """Return the poses `(B, F, 4, 4)` float64 of every context of a kind, relative to the start.

    kind: "none" for the start alone, "turn" or "walk". The walk of a context is another than the one that is
    measured: its keys are drawn from a seed of its own.
    """
    if kind == "turn":
        return turn(spec.frames_per_step).expand(len(truth.prompts), -1, -1, -1)
    if kind == "walk":
        paths = [
            context_walk(select(truth.scene, [slot]), seed + CONTEXT_SEED, truth.start_c2w[slot], spec)
            for slot, seed in enumerate(truth.noise_seeds)
        ]
        return torch.stack(paths)
    return torch.eye(4, dtype=torch.float64).expand(len(truth.prompts), 1, 4, 4)


def contexts(spec: WorldSpec, truth: Walks, kind: str) -> list[Context | None]:
    """Return the context of every walk, None where it is of kind "none"."""
    if kind == "none":
        return [None] * len(truth.prompts)
    poses = context_frames(spec, truth, kind)
    frames, _ = render(truth.scene, truth.start_c2w[:, None] @ poses, truth.intrinsics, *spec.frame_size)
    frames[:, -1] = truth.frames[:, 0]
    shown = [PosedFrames(a.numpy(), b.numpy()) for a, b in zip(frames, poses, strict=True)]
    return [Context(length=len(one.frames), load=partial(_same, one)) for one in shown]


def _same(frames: PosedFrames) -> PosedFrames:
    return frames


def starts(world: World, truth: Walks, context: str = "none") -> list[Start]:
    """Return what `world` is told: start image, intrinsics, prompt, seed; the scene only if it renders.

    context: kind of what is committed before the start.
    """
    images = truth.frames[:, 0].numpy()
    told = []
    sees = world.spec.sees_scene
    before = contexts(world.spec, truth, "none" if sees else context)
    for slot, (prompt, seed) in enumerate(zip(truth.prompts, truth.noise_seeds, strict=True)):
        fx, fy, cx, cy = truth.intrinsics[slot].tolist()
        told.append(
            Start(
                image=images[slot],
                intrinsics=(fx, fy, cx, cy),
                prompt=prompt,
                noise_seed=seed,
                context=before[slot],
                scene=select(truth.scene, [slot]) if sees else None,
                start_c2w=truth.start_c2w[slot].numpy() if sees else None,
            )
        )
    return told


def take(truth: Walks, slots: slice, frames: int | None = None) -> Walks:
    """Return the walks `slots`, cut to `1 + frames` frames."""
    end = None if frames is None else 1 + frames
    return truth._replace(
        frames=truth.frames[slots, :end],
        depth=truth.depth[slots, :end],
        c2w=truth.c2w[slots, :end],
        scene=select(truth.scene, list(range(len(truth.prompts)))[slots]),
        start_c2w=truth.start_c2w[slots],
        intrinsics=truth.intrinsics[slots],
        prompts=truth.prompts[slots],
        noise_seeds=truth.noise_seeds[slots],
    )


class Rolled(NamedTuple):
    """What a world made of walks.

    frames: uint8 `(B, 1 + F, h, w, 3)`. latents: float32 `(B, 1 + F/K, C, h', w')`, or None. depth: float32
    `(B, 1 + F, h, w)` metres, or None where the world has none.
    """

    frames: Tensor
    latents: Tensor | None
    depth: Tensor | None = None


Watch = Callable[[Any], None]
"""Called with the state of a world before every step."""


Tick = Callable[[int], None]
"""Called with the env steps that are made next, for a progress bar."""


def _nobody(state: Any) -> None:
    """Watch nothing."""


def no_steps(steps: int) -> None:
    """Count nothing."""


def ticking(tick: Tick, slots: int) -> Watch:
    """Return what counts a step of every slot."""
    return lambda state: tick(slots)


def roll_out(world: World, told: Sequence[Start], c2w: Tensor, watch: Watch = _nobody) -> Rolled:
    """Return what the world makes along poses `(B, 1 + F, 4, 4)` from the start."""
    first, state = world.begin(told)
    made = [first]
    for begin in range(1, c2w.shape[1], world.spec.frames_per_step):
        watch(state)
        chunk, state = world.step_chunk(state, c2w[:, begin : begin + world.spec.frames_per_step])
        made.append(chunk)
    latents = [chunk.latent.float().cpu() for chunk in made if chunk.latent is not None]
    depths = [chunk.depth.float().cpu() for chunk in made if chunk.depth is not None]
    return Rolled(
        frames=torch.cat([chunk.frames.cpu() for chunk in made], dim=1),
        latents=torch.stack(latents, dim=1) if len(latents) == len(made) else None,
        depth=torch.cat(depths, dim=1) if len(depths) == len(made) else None,
    )


def roll(world: World, told: Sequence[Start], c2w: Tensor, watch: Watch = _nobody) -> Tensor:
    """Return the frames of `roll_out` alone."""
    return roll_out(world, told, c2w, watch).frames


def codec_only(world: LearnedWorld, truth: Walks) -> Tensor:
    """Return the true frames after the world's autoencoder, uint8, shaped like `truth.frames`."""
    vae = world.vae
    with torch.inference_mode():
        latents = vae.encode_clip(truth.frames.to(world.device), truth.depth.to(world.device))
        state = vae.start_decoding(latents[:, 0])  # latents (B, T, C, h, w)
        shown = []
        for latent in latents.unbind(1):
            pixels, state = vae.decode(latent, state)
            shown.append(to_rgb(pixels).cpu())
    frames = torch.stack(shown, dim=1).flatten(1, 2)  # (B, 4T, h, w, 3), frame 0 four times
    return frames[:, 3:]


def repeat_first(truth: Walks) -> Tensor:
    """Return the start image for ever, shaped like `truth.frames`: what no model at all would show."""
    return truth.frames[:, :1].expand_as(truth.frames)


def copy_last(truth: Walks, chunk: int) -> Tensor:
    """Return the last true frame of the chunk before, shaped like `truth.frames`.

    No model at all with a true history would show this.
    """
    frame = torch.arange(truth.frames.shape[1])
    return truth.frames[:, ((frame - 1).clamp_min(0) // chunk) * chunk]


def batches(truth: Walks, batch: int) -> list[Walks]:
    """Return the walks in parts of at most `batch`."""
    total = len(truth.prompts)
    return [take(truth, slice(begin, min(begin + batch, total))) for begin in range(0, total, batch)]


def in_batches(
    world: World, truth: Walks, batch: int, tick: Tick = no_steps, context: str = "none"
) -> Tensor:
    """Return `roll` of all walks, `batch` of them to a world call, after contexts of a kind."""
    return rolled_in_batches(world, truth, batch, tick, context).frames


def rolled_in_batches(
    world: World, truth: Walks, batch: int, tick: Tick = no_steps, context: str = "none"
) -> Rolled:
    """Return the same with the depth of the frames, without latents."""
    made = [
        roll_out(world, starts(world, part, context), part.c2w, ticking(tick, len(part.prompts)))
        for part in batches(truth, batch)
    ]
    depths = [one.depth for one in made if one.depth is not None]
    return Rolled(
        frames=torch.cat([one.frames for one in made]),
        latents=None,
        depth=torch.cat(depths) if len(depths) == len(made) else None,
    )


def teacher_forced(
    world: LearnedWorld, told: Sequence[Start], truth: Walks, watch: Watch = _nobody
) -> Tensor:
    """Return frames like `roll`'s, every chunk drawn from the true history instead of the world's own.

    What is committed of each chunk is the true latent, the true frame and its depth. watch: called with the
    state before every step.
    """
    with torch.inference_mode():
        pixels = to_pixels(truth.frames.to(world.device), truth.depth.to(world.device))  # (B, 1 + F, 4, h, w)
        latents = world.vae.encode_clip(truth.frames.to(world.device), truth.depth.to(world.device))
    first, state = world.begin(told)
    shown = [first.frames.cpu()]
    chunk = world.spec.frames_per_step
    for step, begin in enumerate(range(1, truth.c2w.shape[1], chunk), 1):
        watch(state)
        view = world.look(state, truth.c2w[:, begin : begin + chunk])
        latent, dit = world.draw(state, view)
        made = world.refine(state, world.decode(state, latent), view)
        shown.append(to_rgb(made).cpu())
        state = world.commit(state, view, latents[:, step], pixels[:, begin + chunk - 1], dit)
    return torch.cat(shown, dim=1)

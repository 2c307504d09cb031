"""What one episode starts from: drawn from a generator and the reset options, before any model runs.

Every reset draws the same numbers in the same order whatever the world is, so that one seed names one scene,
pose, image and goal in the twin and in every learned world.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from wm_env.contexts import SCENE_CONTEXTS, ClipContext, SceneContext, clip_context, scene_context
from wm_env.images import Intrinsics, StartImage, parse_intrinsics, start_image
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.intrinsics import intrinsics_from_fov
from wm_env.model.names import did_you_mean, unknown
from wm_env.model.scenes.captions import caption, with_prompt
from wm_env.model.scenes.paths import start_fov_deg, start_pose
from wm_env.model.scenes.raycast import render
from wm_env.model.scenes.worlds import SPLITS, Scene, make_scene
from wm_env.model.storage.facts import as_integer, shown
from wm_env.model.world import Context, Start, WorldSpec

RESET_OPTIONS = ("scene", "split", "image", "context", "prompt", "intrinsics", "noise_seed")
_SEED_LIMIT = 2**31


@dataclass(frozen=True, kw_only=True)
class ResetOptions:
    """What the caller asks of an episode; None leaves it to the seed.

    scene: a scene seed, or several to draw from. split: the stream they belong to. image: the user's picture
    at the world's frame size with its intrinsics, instead of a scene. context: "turn" or "walk" of the scene
    before the start, a clip whose last frame is `image`, or "none" for the start picture alone. intrinsics:
    `(fx, fy, cx, cy)` in pixels of the frame.
    """

    scene: int | tuple[int, ...] | range | None = None
    split: str = "val"
    image: StartImage | None = None
    context: str | ClipContext = "none"
    prompt: str | None = None
    intrinsics: Intrinsics | None = None
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        of_scene = isinstance(self.context, str)
        if of_scene and self.context not in ("none", *SCENE_CONTEXTS):
            raise ValueError(
                unknown("context", self.context, ("none", *SCENE_CONTEXTS), "a PosedClip or the path of one")
            )
        if of_scene and self.context != "none" and self.image is not None:
            raise ValueError(f"context={self.context!r} is of a scene and an image has none; leave one out")
        if self.split not in SPLITS:
            raise ValueError(unknown("split", self.split, SPLITS))
        several = isinstance(self.scene, tuple | range)
        scenes = cast("tuple[int, ...]", self.scene) if several else (cast("int | None", self.scene),)
        if isinstance(scenes, range):
            scenes = (scenes[0], scenes[-1]) if scenes else ()  # the others lie between
        if not scenes:
            raise ValueError("scene=() names no scene seed to draw from")
        for name, seed in (*(("scene", seed) for seed in scenes), ("noise_seed", self.noise_seed)):
            if seed is not None and not 0 <= seed < 2**63:
                raise ValueError(f"{name}={shown(seed)} is not a seed from 0 to 2**63 - 1")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Everything decided at reset. scene is None for a user's image; start_c2w `(4, 4)` float64 is then I."""

    image: np.ndarray
    intrinsics: Intrinsics
    prompt: str
    noise_seed: int
    task_seed: int
    temperature: float
    scene: Scene | None
    scene_seed: int | None
    start_c2w: np.ndarray
    context: Context | None = None

    def start(self, sees_scene: bool) -> Start:
        """Return what the world is told: a learned world never sees the scene nor the absolute pose."""
        told = Start(
            image=self.image,
            intrinsics=self.intrinsics,
            prompt=self.prompt,
            noise_seed=self.noise_seed,
            temperature=self.temperature,
            context=self.context,
        )
        return replace(told, scene=self.scene, start_c2w=self.start_c2w) if sees_scene else told


def reset_options(defaults: ResetOptions, options: dict[str, Any] | None, spec: WorldSpec) -> ResetOptions:
    """Return `defaults` overridden by reset options; bad values raise `ValueError`, unknown names warn."""
    options = {key: value for key, value in as_options(options).items() if value is not None}
    odd = sorted(map(str, options.keys() - set(RESET_OPTIONS)))
    if odd:
        warnings.warn(
            f"reset options {shown(odd)} are unknown and ignored; known are {', '.join(RESET_OPTIONS)}"
            f"{did_you_mean(odd[0], RESET_OPTIONS)}",
            stacklevel=3,
        )
    frame_size = spec.frame_size
    if "image" in options and "scene" in options:
        raise ValueError("give either a scene seed or an image at reset, not both")
    clip = _given_clip(options, spec)
    changed: dict[str, Any] = {}
    scene = options.get("scene")
    if isinstance(scene, range):
        changed["scene"] = scene  # as it is: it may hold more seeds than memory does
    elif isinstance(scene, tuple | list) or (isinstance(scene, np.ndarray) and scene.ndim):
        changed["scene"] = tuple(_integer("scene", seed) for seed in scene)
    elif "scene" in options:
        changed["scene"] = _integer("scene", options["scene"])
    if "noise_seed" in options:
        changed["noise_seed"] = _integer("noise_seed", options["noise_seed"])
    for name in ("split", "prompt", "context"):
        if name in options and not (name == "context" and clip is not None):
            changed[name] = _text(name, options[name])
    given = options.get("intrinsics")
    if "image" in options:
        picture = start_image(options["image"], given, frame_size)
        changed |= {"image": picture, "scene": None, "intrinsics": None}
        changed.setdefault(
            "context", "none" if isinstance(defaults.context, ClipContext) else defaults.context
        )
    elif clip is not None:
        picture = StartImage(clip.image, clip.intrinsics)
        changed |= {"image": picture, "scene": None, "intrinsics": None, "context": clip}
        if clip.caption is not None:
            changed.setdefault("prompt", clip.caption)
    elif "scene" in options or "split" in options:
        changed["image"] = None
        if isinstance(defaults.context, ClipContext):
            changed.setdefault("context", "none")
    if given is not None and "image" not in options:
        changed["intrinsics"] = parse_intrinsics(given, frame_size)
    return replace(defaults, **changed)


def _given_clip(options: Mapping[str, Any], spec: WorldSpec) -> ClipContext | None:
    """Return the clip that the options name as a context, None where they name none."""
    given = options.get("context")
    word = isinstance(given, str) and not os.path.exists(given)
    if word or not isinstance(given, str | Path | PosedClip):
        return None  # a word, or what is refused by its kind
    for name in ("image", "scene", "intrinsics"):
        if name in options:
            raise ValueError(f"a clip is a start of its own: give either context= or {name}=, not both")
    return clip_context(given, spec)


def draw_seeds(generator: np.random.Generator) -> tuple[int, int, int]:
    """Return the scene, noise and task seed that an episode of the next numbers of `generator` has."""
    scene, noise, task = (int(n) for n in generator.integers(_SEED_LIMIT, size=3))
    return scene, noise, task


def draw_episode(
    generator: np.random.Generator, asked: ResetOptions, spec: WorldSpec, temperature: float
) -> Episode:
    """Return the episode of the next numbers of `generator`; three are drawn whatever is asked for."""
    scene_seed, noise_seed, task_seed = draw_seeds(generator)
    noise_seed = noise_seed if asked.noise_seed is None else asked.noise_seed
    if asked.image is not None:
        return Episode(
            image=asked.image.pixels,
            intrinsics=asked.intrinsics or asked.image.intrinsics,
            prompt=asked.prompt or "",
            noise_seed=noise_seed,
            task_seed=task_seed,
            temperature=temperature,
            scene=None,
            scene_seed=None,
            start_c2w=np.eye(4),
            context=asked.context.context if isinstance(asked.context, ClipContext) else None,
        )
    if isinstance(asked.scene, tuple):
        scene_seed = asked.scene[scene_seed % len(asked.scene)]
    elif isinstance(asked.scene, range):
        several = asked.scene
        count = (several[-1] - several.start) // several.step + 1  # `len` ends at 2^63 - 1
        scene_seed = several.start + several.step * (scene_seed % count)
    elif asked.scene is not None:
        scene_seed = asked.scene
    scene = make_scene(scene_seed, asked.split)
    if asked.prompt is not None:
        scene = with_prompt(scene, [asked.prompt])
    height, width = spec.frame_size
    intrinsics = asked.intrinsics or intrinsics_from_fov(start_fov_deg(scene_seed), width, height)
    c2w = start_pose(scene, scene_seed)  # (4, 4) float64
    camera = torch.tensor([intrinsics], dtype=torch.float64)
    frames, _ = render(scene, c2w[None, None], camera, height, width)
    image = frames[0, 0].numpy()
    context = None
    if asked.context != "none" and not spec.sees_scene:  # a renderer needs none
        kind = cast(SceneContext, asked.context)
        key = (asked.split, asked.prompt)
        context = scene_context(kind, scene, scene_seed, c2w, image, intrinsics, spec, key)
    return Episode(
        image=image,
        intrinsics=intrinsics,
        prompt=caption(scene)[0] if asked.prompt is None else asked.prompt,
        noise_seed=noise_seed,
        task_seed=task_seed,
        temperature=temperature,
        scene=scene,
        scene_seed=scene_seed,
        start_c2w=c2w.numpy(),
        context=context,
    )


@functools.lru_cache(maxsize=1)
def placeholder_scene() -> Scene:
    """Return the scene that fills the batch slots of episodes without one; nothing is read from it."""
    return make_scene(0, "val")


def as_options(options: Any) -> Mapping[str, Any]:
    """Return reset options, none for None, or raise `ValueError` where they are no names with values."""
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"options are a {type(options).__name__}; expected a dict of names and values")
    return options or {}


def _integer(name: str, value: Any) -> int:
    if not isinstance(as_integer(value), int):
        raise ValueError(f"reset option {name}={shown(value)} is not an integer")
    return int(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"reset option {name}={shown(value)} is not a string")
    return value

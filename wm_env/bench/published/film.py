"""How a world films a scene: chunk by chunk, or, where it needs the whole path in advance, at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wm_env.bench.published.folder import BenchScene
from wm_env.bench.published.rows import film_scene
from wm_env.images import start_image
from wm_env.model.frame_counts import latent_frames
from wm_env.model.geometry import relative_to_first
from wm_env.model.placement import check_device
from wm_env.model.released.clip import check_clip, draw_clip, steps_of
from wm_env.model.released.presets import ReleasedSettings, folder_of, load_parts, released_name
from wm_env.model.released.rollout import teacher_sampler
from wm_env.model.released.variants import FRAME_SIZE, RELEASED, STEPPABLE
from wm_env.model.storage.atomic import expanded
from wm_env.model.storage.folder import choose_stage1, look_into
from wm_env.model.storage.tensor_files import files_of, sha256_of_files
from wm_env.model.world import World
from wm_env.worlds import resolve_world

SHIFT = 8.0  # of the published benchmark's schedule; the model's own is 9.8
FPS = 16


class Filming(Protocol):
    """A world that films scenes. refiner: its latent refiner, None without; label and the rest: of a spec."""

    label: str
    weights_sha256: str | None
    fps: int
    frame_size: tuple[int, int]
    refiner: str | None

    def steps(self, scene: BenchScene) -> int:
        """Return how often `film` calls `tick` with 1."""
        ...

    def film(self, scene: BenchScene, seed: int, tick: Callable[[int], object]) -> Tensor:
        """Return frames uint8 `(F, h, w, 3)` along the scene's path, frame 0 the input image."""
        ...


class Stepped:
    """A world that is stepped."""

    def __init__(self, world: World) -> None:
        spec = world.spec
        self.world, self.label, self.weights_sha256 = world, spec.label, spec.weights_sha256
        self.fps, self.frame_size = spec.fps, spec.frame_size
        self.refiner = "ltx2" if spec.options.get("refiner") == "ltx2" else None

    def steps(self, scene: BenchScene) -> int:
        return -(-(len(scene.c2w) - 1) // self.world.spec.frames_per_step)

    def film(self, scene: BenchScene, seed: int, tick: Callable[[int], object]) -> Tensor:
        return film_scene(self.world, scene, seed, tick)


class WholePath:
    """The released model that draws a whole clip along its path."""

    def __init__(self, name: str, settings: ReleasedSettings, device: str, sampler_steps: int) -> None:
        self.parts = load_parts(name, settings, device=device, whole_path=True)
        self.variant = RELEASED[name]
        self.sampler = dataclasses.replace(teacher_sampler(sampler_steps), shift=SHIFT)
        self.refiner = None if settings.refiner == "none" else settings.refiner
        self.label = name if self.refiner is None else f"{name}, refiner {self.refiner}"
        stage1 = choose_stage1(look_into(folder_of(name, settings)), self.variant)
        self.weights_sha256: str | None = sha256_of_files(files_of(stage1.path))
        self.fps, self.frame_size = FPS, settings.frame_size or FRAME_SIZE

    def steps(self, scene: BenchScene) -> int:
        stride = self.parts.dit.cfg.temporal_stride
        frames = latent_frames(len(self._path(scene)), stride)
        return steps_of(self.sampler, self.variant, frames)

    def film(self, scene: BenchScene, seed: int, tick: Callable[[int], object]) -> Tensor:
        picture = start_image(str(scene.image), scene.intrinsics, self.frame_size)
        c2w, lens = self._path(scene), torch.tensor(picture.intrinsics, dtype=torch.float64)
        check_clip(picture.pixels, lens, c2w, self.parts.dit.cfg.temporal_stride)

        def step() -> None:
            tick(1)

        frames = draw_clip(
            self.parts, self.sampler, variant=self.variant, image=picture.pixels,  # type: ignore[arg-type]
            intrinsics=lens, c2w=c2w, prompt=scene.prompt, noise_seed=seed, progress=step,
        )  # fmt: skip
        return frames[: len(scene.c2w)]

    def _path(self, scene: BenchScene) -> Tensor:
        """Return the path `(F, 4, 4)`, standing still at its end until F = 8 k + 1."""
        c2w = relative_to_first(torch.from_numpy(scene.c2w))
        missing = -(len(c2w) - 1) % self.parts.dit.cfg.temporal_stride
        return torch.cat([c2w, c2w[-1:].expand(missing, -1, -1)])


def filming(world: str, device: str, options: Mapping[str, Any], sampler_steps: int) -> Filming:
    """Return what films for a preset or folder with the options of its family (`wm_env.worlds`).

    Raises `ValueError` for a world that renders its own scenes.
    """
    name = _released(world)
    if name is not None and name not in STEPPABLE:
        check_device(device)
        own = {} if world in RELEASED else {"weights": str(expanded(world).resolve())}
        return WholePath(name, ReleasedSettings(**{**options, **own}), device, sampler_steps)
    made = resolve_world(world, device=device, **options)
    if made.spec.sees_scene:
        raise ValueError(f"world {made.spec.label!r} renders its own scenes and cannot start from a picture")
    return Stepped(made)


def _released(world: str) -> str | None:
    """Return which released model a name or folder is, None for another world."""
    if world in RELEASED:
        return world
    folder = Path(expanded(world)) if world.startswith("~") else Path(world)
    return released_name(folder) if folder.is_dir() else None

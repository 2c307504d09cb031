"""The videos of a world: one per scene, `METHOD/SPLIT/SCENE_generated.mp4`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from torch import Tensor

from wm_env.bench.published.folder import BenchScene
from wm_env.images import start_image
from wm_env.model.geometry import relative_to_first
from wm_env.model.storage.atomic import atomic_path
from wm_env.model.storage.film import film_file
from wm_env.model.world import Start, World


def film_scene(
    world: World, scene: BenchScene, noise_seed: int, tick: Callable[[int], object] = lambda steps: None
) -> Tensor:
    """Return the world's frames uint8 `(F, h, w, 3)` along the scene's path, frame 0 the input image.

    A last chunk that the path does not fill is completed by standing still and cut off again. tick: called
    with the steps made.
    """
    picture = start_image(str(scene.image), scene.intrinsics, world.spec.frame_size)
    told = Start(
        image=picture.pixels, intrinsics=picture.intrinsics, prompt=scene.prompt, noise_seed=noise_seed
    )
    c2w = relative_to_first(torch.from_numpy(scene.c2w))[None]  # (1, F, 4, 4)
    chunk, total = world.spec.frames_per_step, c2w.shape[1]
    missing = -(total - 1) % chunk
    c2w = torch.cat([c2w, c2w[:, -1:].expand(-1, missing, -1, -1)], dim=1)
    first, state = world.begin([told])
    shown = [first.frames.cpu()]
    for begin in range(1, c2w.shape[1], chunk):
        made, state = world.step_chunk(state, c2w[:, begin : begin + chunk])
        shown.append(made.frames.cpu())
        tick(1)
    return torch.cat(shown, dim=1)[0, :total]


def video_path(method: Path, split: str, scene: str) -> Path:
    """Return where the video of a scene belongs."""
    return method / split / f"{scene}_generated.mp4"


def write_video(path: Path, frames: Tensor, fps: int) -> None:
    """Write frames `(F, h, w, 3)` uint8 as mp4, nearly lossless; the file appears only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, film_file(temporary, fps=fps, crf=0) as append:
        for frame in frames.numpy():
            append(frame)


def read_video(path: Path) -> Tensor:
    """Return the frames uint8 `(F, h, w, 3)` of a video, or raise `ValueError` saying what is wrong."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        reader: Any = imageio.get_reader(path, format="FFMPEG")
        with reader:
            frames = [np.asarray(frame) for frame in reader]
    except (OSError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a video: {' '.join(str(error).split())[:200]}") from error
    if not frames:
        raise ValueError(f"{path} holds no frames")
    return torch.from_numpy(np.stack(frames))

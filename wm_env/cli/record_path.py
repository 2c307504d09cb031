"""The part of `wm-env record` that draws a whole camera path at once (`--trajectory`)."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.images import start_image
from wm_env.model.frame_counts import latent_frames
from wm_env.model.kinematics import KeyMotion, c2w_from_actions
from wm_env.model.released.clip import check_clip, draw_clip, steps_of
from wm_env.model.released.presets import (
    FRAME_SIZE,
    MAX_ROTATION_DEG,
    MAX_TRANSLATION,
    RELEASED,
    ReleasedSettings,
    load_parts,
)
from wm_env.model.released.rollout import teacher_sampler
from wm_env.model.storage.array_files import read_arrays
from wm_env.model.storage.facts import read_json
from wm_env.progress import Bar
from wm_env.recording import write_frames

WHOLE_PATH = ("sana-wm-bidirectional", "sana-wm-chunk-causal")
STRIDE, FPS = 8, 16


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is drawn. sampler_steps: denoising steps, 60 in the released models."""

    world: str
    trajectory: Path
    image: Path
    prompt: str
    seed: int
    device: str
    sampler_steps: int
    overwrite: bool
    settings: ReleasedSettings


def load_trajectory(path: Path) -> tuple[Tensor, Tensor | None]:
    """Return poses `(F, 4, 4)` float64 and intrinsics, or None, of a trajectory file.

    .npy: an array `(F, 4, 4)`. .npz, .json: `c2w`, and `intrinsics` where given. .txt: an action string such
    as "w-40,dw-24,none-16", driven at the released speeds.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the trajectory file {str(path)!r} does not exist")
    try:
        if path.suffix == ".txt":
            motion = KeyMotion(
                translation_speed=MAX_TRANSLATION, rotation_speed_deg=MAX_ROTATION_DEG, fps=FPS
            )
            return c2w_from_actions(path.read_text(encoding="utf-8").strip(), motion), None
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64)), None
        if path.suffix not in (".npz", ".json"):
            raise ValueError("expected .npy, .npz, .json or .txt")
        content = read_json(path) if path.suffix == ".json" else read_arrays(path)
        c2w = torch.tensor(np.asarray(content["c2w"], dtype=np.float64))
        rows = content.get("intrinsics")
        return c2w, None if rows is None else torch.tensor(np.asarray(rows, dtype=np.float64))
    except (ValueError, KeyError, TypeError, EOFError, OverflowError) as error:
        raise ValueError(f"the trajectory file {str(path)!r} cannot be used: {error!s:.300}") from error


def record_clip(clip: Clip, out: Path) -> dict[str, Any]:
    """Draw the clip, write it as mp4 and return the facts; everything is checked before weights are read."""
    if clip.world not in WHOLE_PATH:
        raise ValueError(f"--trajectory goes with {' or '.join(WHOLE_PATH)}, not with --world {clip.world}")
    c2w, rows = load_trajectory(clip.trajectory)
    size = clip.settings.frame_size or FRAME_SIZE
    picture = start_image(str(clip.image), None, size)
    intrinsics = torch.tensor(picture.intrinsics, dtype=torch.float64) if rows is None else rows
    check_clip(picture.pixels, intrinsics, c2w, STRIDE)
    sampler = replace(teacher_sampler(), steps=clip.sampler_steps)
    variant = RELEASED[clip.world]
    parts = load_parts(clip.world, clip.settings, device=clip.device, whole_path=True)
    started = time.perf_counter()
    total = steps_of(sampler, variant, latent_frames(c2w.shape[0], STRIDE))
    with Bar(total, "denoising") as bar:
        frames = draw_clip(
            parts, sampler, variant=variant, image=picture.pixels, intrinsics=intrinsics, c2w=c2w,  # type: ignore[arg-type]
            prompt=clip.prompt, noise_seed=clip.seed, progress=bar.update,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    write_frames(out, frames.numpy(), FPS, overwrite=clip.overwrite)
    print(f"{out}: {len(frames)} frames of {clip.world} along {clip.trajectory}, {seconds:.1f} s")
    return {
        "out": str(out),
        "world": clip.world,
        "trajectory": str(clip.trajectory),
        "frames": len(frames),
        "fps": FPS,
        "seed": clip.seed,
        "prompt": clip.prompt,
        "refiner": clip.settings.refiner,
        "sampler_steps": clip.sampler_steps,
        "seconds": seconds,
    }

"""Episodes of `wm-env record --format folder`: episode_*/ with episode.json, steps.npz and frames/."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from wm_env.model.data.layouts.pictures import Pictures, all_frames, listed, read_json
from wm_env.model.data.recorded import ClipRef, RecordedClip
from wm_env.model.intrinsics import intrinsics_per_frame


def episode_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the recorded episodes of a folder by name."""
    return [listed(path.name, episode_clip, path, pictures) for path in sorted(folder.glob("episode_*"))]


def is_episode(folder: Path) -> bool:
    """Return whether a folder is a recorded episode."""
    return (folder / "episode.json").is_file()


def episode_clip(name: str, folder: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of one episode; the frame rate is that of its world."""
    facts_file, steps_file = folder / "episode.json", folder / "steps.npz"
    missing = [path.name for path in (facts_file, steps_file) if not path.is_file()]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: not a finished episode")
    try:
        facts = read_json(facts_file)
        with np.load(steps_file) as steps:
            c2w = torch.from_numpy(steps["c2w"].astype(np.float64))
        camera, prompt, fps = facts["intrinsics"], facts["prompt"], facts.get("fps")
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"the episode's files cannot be read: {error}") from error
    intrinsics = torch.tensor(camera, dtype=torch.float64)
    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=intrinsics_per_frame(intrinsics, len(c2w)),
        caption=str(prompt or ""),
        rate=lambda: fps,
        frames=lambda: all_frames(folder / "frames", pictures),
    )

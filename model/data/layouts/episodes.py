"""Episodes of `wm-env record --format folder`: episode_*/ with episode.json, steps.npz and frames/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from wm_env.model.data.layouts.pictures import Pictures, all_frames, listed, read_json
from wm_env.model.data.recorded import ClipRef, RecordedClip
from wm_env.model.intrinsics import intrinsics_per_frame
from wm_env.model.storage.array_files import read_arrays
from wm_env.model.storage.facts import number, shown


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
    facts, arrays = read_json(facts_file), read_arrays(steps_file, steps_file.name)
    try:
        c2w = torch.from_numpy(arrays["c2w"].astype(np.float64))
        intrinsics = torch.tensor(facts["intrinsics"], dtype=torch.float64)
        prompt, fps = facts["prompt"], facts.get("fps")
    except KeyError as error:
        raise ValueError(f"the episode's files hold no {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"c2w or intrinsics of the episode are not numbers: {error}") from error
    if fps is not None and not number(fps, 0.001, 1e4):
        raise ValueError(f"fps is {shown(fps)}; expected frames per second")
    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=intrinsics_per_frame(intrinsics, len(c2w)),
        caption=str(prompt or ""),
        rate=lambda: fps,
        frames=lambda: all_frames(folder / "frames", pictures),
    )

"""Clips that `PosedClip.save` wrote: camera.json and frames/, or folders of them."""

from __future__ import annotations

from pathlib import Path

from wm_env.model.data.layouts.pictures import Pictures, folder_clips
from wm_env.model.data.layouts.video import video_clip
from wm_env.model.data.recorded import ClipRef, RecordedClip


def is_saved(folder: Path) -> bool:
    """Return whether a folder is a saved clip."""
    return (folder / "camera.json").is_file() and (folder / "frames").is_dir()


def saved_clips(folder: Path, pictures: Pictures) -> list[ClipRef]:
    """Return the saved clip that a folder is, or those below it, by name."""
    return folder_clips(folder, is_saved, saved_clip, pictures)


def saved_clip(name: str, folder: Path, pictures: Pictures) -> RecordedClip:
    """Return the clip of a saved folder."""
    return video_clip(name, folder / "camera.json", folder / "frames", pictures)

"""Layouts of recorded clips: folders read into `RecordedClip` values without decoding a frame."""

from wm_env.model.data.layouts.colmap import colmap_clips
from wm_env.model.data.layouts.episodes import episode_clips
from wm_env.model.data.layouts.phones import polycam_clips, record3d_clips
from wm_env.model.data.layouts.pictures import Pictures
from wm_env.model.data.layouts.re10k import re10k_clips
from wm_env.model.data.layouts.saved import saved_clips
from wm_env.model.data.layouts.transforms import transforms_clips
from wm_env.model.data.layouts.tum import tum_clips
from wm_env.model.data.layouts.video import video_clips

__all__ = [
    "Pictures",
    "colmap_clips",
    "episode_clips",
    "polycam_clips",
    "re10k_clips",
    "record3d_clips",
    "saved_clips",
    "transforms_clips",
    "tum_clips",
    "video_clips",
]

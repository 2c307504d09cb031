"""Layouts of recorded clips: folders read into `RecordedClip` values without decoding a frame."""

from wm_env.model.data.layouts.episodes import episode_clips
from wm_env.model.data.layouts.pictures import Pictures
from wm_env.model.data.layouts.re10k import re10k_clips
from wm_env.model.data.layouts.saved import saved_clips
from wm_env.model.data.layouts.video import video_clips

__all__ = ["Pictures", "episode_clips", "re10k_clips", "saved_clips", "video_clips"]

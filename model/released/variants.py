"""The released models: their names, what each is, and how it is sampled."""

from __future__ import annotations

import dataclasses

from wm_env.model.config import DiTConfig, sana_wm
from wm_env.model.released.rollout import ReleasedSampler, streaming_sampler, teacher_sampler
from wm_env.model.storage.folder import Variant

RELEASED: dict[str, Variant] = {
    "sana-wm-streaming": "streaming",
    "sana-wm-chunk-causal": "chunk-causal",
    "sana-wm-bidirectional": "bidirectional",
}
STEPPABLE = ("sana-wm-streaming", "sana-wm-chunk-causal")
FRAME_SIZE = (704, 1280)
TEACHER_WINDOW = 10  # chunks; the teacher was trained with all of them, see rollout.py


def sampler_of(variant: Variant) -> ReleasedSampler:
    """Return the released sampler of a variant."""
    return streaming_sampler() if variant == "streaming" else teacher_sampler()


def transformer_config(variant: Variant) -> DiTConfig:
    """Return the released transformer with the softmax window of a variant."""
    window = {"streaming": 2, "chunk-causal": TEACHER_WINDOW, "bidirectional": None}[variant]
    return dataclasses.replace(sana_wm(), window_chunks=window)

"""Checks of golden fixtures, one function for each kind of file."""

from __future__ import annotations

from collections.abc import Callable

from golden_checks import attention, clip, pipeline, report, transformer
from golden_checks.fixture import Fixture, Measured, load

CHECKS: dict[str, Callable[[Fixture], None]] = {
    "gdn_attention": attention.gdn_attention,
    "gdn_ucpe_attention": attention.gdn_attention,
    "ucpe": attention.ucpe,
    "plucker": attention.plucker,
    "dit": transformer.dit,
    "dit_grads": transformer.gradients,
    "streaming": transformer.streaming,
    "samplers": pipeline.samplers,
    "refiner": pipeline.refiner,
    "latent_norm": pipeline.latent_norm,
    "actions": clip.actions,
    "actions_json": clip.action_strings,
    "pose_metrics": clip.pose_metrics,
    "frames": clip.frame_counts,
    "poses": clip.poses,
    "intrinsics": clip.intrinsics,
}

__all__ = ["CHECKS", "Fixture", "Measured", "load", "report"]

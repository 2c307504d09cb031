"""Poses for any film: shots, camera poses and focal length, metric scale, filters, clips.

wm_env.annotate("walk.mp4", "clips", scale=CameraHeight(1.6))        the same as `wm-env annotate`
"""

from wm_env.annotation.pipeline import Annotated, annotate
from wm_env.annotation.recipe import Recipe, load_recipe
from wm_env.annotation.scale import CameraHeight, DepthModel, DepthWorld, KnownDistance, PathLength
from wm_env.annotation.values import ClipRow

__all__ = [
    "Annotated",
    "CameraHeight",
    "ClipRow",
    "DepthModel",
    "DepthWorld",
    "KnownDistance",
    "PathLength",
    "Recipe",
    "annotate",
    "load_recipe",
]

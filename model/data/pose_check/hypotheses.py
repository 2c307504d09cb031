"""What may be wrong with the poses of a clip, and the poses that would be right if it were.

A hypothesis is a reading of the given poses P_i = (R_i | t_i). With A a signed permutation of the axes:

    reading       the poses meant by them, before the axes
    given         P_i                       camera-to-world, as a clip has them
    inverse       P_i^-1                    they were world-to-camera
    centres       (R_i^T | t_i)             rotations of world-to-camera beside camera centres
    shifts        (R_i | -R_i t_i)          rotations of camera-to-world beside world-to-camera translations
    reversed      P_{F-1-i}                 the last pose belongs to the first picture
    world axes    (R_i | A t_i)             translations in other world axes than the rotations

    axes          A^-1 P A                  camera axes: A's row r is the given axis r in ours

det A = -1 are left-handed axes: the motion is seen in a mirror. Translations are multiplied by `scale`, focal
lengths by `focal`. A turn, a shift or a permutation of the world alone changes no motion and is no fault.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.geometry import invert_rigid

Reading = Literal["given", "inverse", "centres", "shifts", "reversed", "world axes"]
Axes = tuple[int, int, int]
"""Row r is the axis that the given axis r is in ours, counted from 1, negative for the opposite."""

OURS: Axes = (1, 2, 3)
OPENGL: Axes = (1, -2, -3)
SAME_SCALE = 2.0  # depth of single pictures tells metres no better than this factor
SAME_FOCAL = 1.25
_WORDS = {1: "right", -1: "left", 2: "down", -2: "up", 3: "forward", -3: "back"}
_READINGS: dict[Reading, str] = {
    "given": "",
    "inverse": "the poses are world-to-camera",
    "centres": "the rotations are world-to-camera beside camera centres",
    "shifts": "the translations are world-to-camera beside camera-to-world rotations",
    "reversed": "the poses run backwards in time",
    "world axes": "",
}


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One reading of the given poses; the default is "as given".

    reading, axes: see the module. scale: factor on the given translations. focal: factor on the given focal
    lengths. `str` is a sentence's end: "the poses are world-to-camera, camera axes right, up, back".
    """

    reading: Reading = "given"
    axes: Axes = OURS
    scale: float = 1.0
    focal: float = 1.0

    @property
    def faults(self) -> int:
        """How many things are wrong under it, 0 as given; axes that no tool writes count twice."""
        common = self.reading == "world axes" or self.axes in (OPENGL, (1, -2, 3), (-1, 2, 3))
        axes = 0 if self.axes == OURS else 1 if common else 2
        reading = self.reading not in ("given", "world axes")
        return int(reading) + axes + int(not self.keeps_scale) + int(not self.keeps_focal)

    @property
    def keeps_scale(self) -> bool:
        """Whether the given metres may be right."""
        return 1 / SAME_SCALE < self.scale < SAME_SCALE

    @property
    def keeps_focal(self) -> bool:
        """Whether the given focal length may be right."""
        return 1 / SAME_FOCAL < self.focal < SAME_FOCAL

    def __str__(self) -> str:
        parts = [_READINGS[self.reading]] if _READINGS[self.reading] else []
        if self.axes != OURS:
            if self.reading == "world axes":
                named = ", ".join("-" * (axis < 0) + "xyz"[abs(axis) - 1] for axis in self.axes)
                parts.append(f"the translations have other world axes than the rotations (theirs: {named})")
            else:
                named = ", ".join(_WORDS[axis] for axis in self.axes)
                known = {OPENGL: " (OpenGL)", (1, -2, 3): " (Unity, left-handed)"}
                hand = " (left-handed)" if determinant(self.axes) < 0 else ""
                parts.append(f"the camera axes are {named}{known.get(self.axes, hand)}")
        if not self.keeps_scale:
            parts.append(f"the translations need a factor of about {self.scale:.2g}")
        if not self.keeps_focal:
            parts.append(f"the focal length needs a factor of about {self.focal:.2g}")
        return " and ".join(parts) or "as given"


AS_GIVEN = Hypothesis()


def matrix(axes: Axes) -> Tensor:
    """Return A `(4, 4)` float64 of axes."""
    found = torch.zeros(4, 4, dtype=torch.float64)
    for row, axis in enumerate(axes):
        found[row, abs(axis) - 1] = 1.0 if axis > 0 else -1.0
    found[3, 3] = 1.0
    return found


def determinant(axes: Axes) -> int:
    """Return 1 for axes that are a rotation of ours, -1 for a mirror image."""
    return round(float(torch.linalg.det(matrix(axes))))


@cache
def readings() -> tuple[Hypothesis, ...]:
    """Return every reading with all its axes, those that claim fewer faults first."""
    every: list[Axes] = [
        (a * order[0], b * order[1], c * order[2])
        for order in itertools.permutations((1, 2, 3))
        for a, b, c in itertools.product((1, -1), repeat=3)
    ]
    found = [Hypothesis(reading=reading, axes=axes) for reading in ("given", "inverse") for axes in every]  # type: ignore[arg-type]
    found += [
        Hypothesis(reading=reading, axes=axes)  # type: ignore[arg-type]
        for reading in ("centres", "shifts", "reversed")
        for axes in (OURS, OPENGL)
    ]
    found += [Hypothesis(reading="world axes", axes=axes) for axes in every if axes != OURS]
    return tuple(sorted(found, key=lambda one: one.faults))


def read_poses(c2w: Tensor, hypothesis: Hypothesis) -> Tensor:
    """Return the poses `(F, 4, 4)` float64 that a hypothesis makes of the given ones."""
    rotation, translation = c2w[:, :3, :3], c2w[:, :3, 3:]
    poses = c2w.clone()
    match hypothesis.reading:
        case "inverse":
            poses = invert_rigid(c2w)
        case "centres":
            poses[:, :3, :3] = rotation.mT
        case "shifts":
            poses[:, :3, 3:] = -rotation @ translation
        case "reversed":
            poses = c2w.flip(0)
    a = matrix(hypothesis.axes)
    if hypothesis.reading == "world axes":
        poses[:, :3, 3:] = a[:3, :3] @ translation
    else:
        poses = a.mT @ poses @ a
    poses[:, :3, 3] *= hypothesis.scale
    return poses


def fixed(clip: PosedClip, hypothesis: Hypothesis) -> PosedClip:
    """Return the clip with the poses and the focal length that a hypothesis says are right.

    Scale and focal length are changed only where the given ones cannot be right: single pictures know them no
    better than `SAME_SCALE` and `SAME_FOCAL`. Raises `ValueError` in one sentence where that is no clip.
    """
    scale = 1.0 if hypothesis.keeps_scale else hypothesis.scale
    focal = 1.0 if hypothesis.keeps_focal else hypothesis.focal
    poses = read_poses(torch.tensor(clip.c2w), replace(hypothesis, scale=scale))
    fx, fy, cx, cy = clip.intrinsics.tolist()
    return replace(clip, c2w=poses.numpy(), intrinsics=np.array([fx * focal, fy * focal, cx, cy]))

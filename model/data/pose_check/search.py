"""The photometric error of every hypothesis on the same pairs of pictures.

First every reading and axes with scales a factor of 1.8 apart on few pixels; then the best of them, "as
given" and the usual faults on more pixels, with finer scales and with other focal lengths. The depth of the
pictures is predicted anew for every focal length, since what a picture shows is farther away through a longer
lens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.data.pose_check.hypotheses import AS_GIVEN, OPENGL, Hypothesis, read_poses, readings
from wm_env.model.data.pose_check.warping import DepthOf, Pairs, Views, errors, relative_poses, views
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.intrinsics import MAX_FOV_DEG, MIN_FOV_DEG, fov_deg

SCALES = tuple(10 ** (k / 4) for k in range(-8, 13))  # corrections; poses x 0.001 ... x 100
FINE_SCALES = tuple(2 ** (k / 4) for k in range(-5, 6))
FOCALS = tuple(2 ** (k / 4) for k in range(-5, 6))
COARSE, FINE = 4, 3  # pixels from one that is compared to the next
FINALISTS = 6
USUAL = (  # what the finals always have, whoever is nearer
    AS_GIVEN,
    Hypothesis(reading="inverse"),
    Hypothesis(axes=OPENGL),
    Hypothesis(reading="inverse", axes=OPENGL),
)
UNITS = (0.01, 0.1, 10.0, 100.0, 1000.0)  # corrections of poses x 100, x 10, x 0.1, x 0.01, x 0.001
FAULT = 0.01  # of chance; what a hypothesis has to gain for each fault it claims


class Scored(NamedTuple):
    """Hypotheses and their errors `(H, P)` on P pairs; `views` are those pairs by focal factor."""

    hypotheses: list[Hypothesis]
    errors: Tensor
    views: dict[float, Views]


def search(clip: PosedClip, pairs: Pairs, depth_of: DepthOf) -> Scored:
    """Return the finalists of all hypotheses on pairs of a clip, every scale and focal length of each.

    Raises nothing: what is no possible camera is left out.
    """
    frames, poses = torch.tensor(clip.frames), torch.tensor(clip.c2w)
    asked = torch.unique(torch.cat([pairs.first, pairs.second]))
    camera = torch.tensor(clip.intrinsics)

    def seen_with(focal: float, stride: int, pairs: Pairs = pairs) -> Views:
        own = camera * torch.tensor([focal, focal, 1.0, 1.0])
        depth = torch.zeros(frames.shape[:3])
        depth[asked] = depth_of(frames[asked], own)
        return views(frames, depth, own, pairs, stride)

    few = Pairs(pairs.first[::2], pairs.second[::2])
    coarse = seen_with(1.0, COARSE, few)
    best: list[tuple[float, Hypothesis]] = []
    for reading in readings():
        found = errors(coarse, _scaled(poses, reading, SCALES, few)).mean(1)
        scaled = [replace(reading, scale=scale) for scale in SCALES]
        found += FAULT * torch.tensor([float(one.faults) for one in scaled])
        at = int(found.argmin())
        best.append((float(found[at]), scaled[at]))
    best.sort(key=lambda one: one[0])
    finalists = list(dict.fromkeys([*USUAL, *(one for _, one in best[:FINALISTS])]))

    hypotheses: list[Hypothesis] = []
    scores: list[Tensor] = []
    kept: dict[float, Views] = {}
    for focal in sorted(possible_focals(clip), key=lambda factor: abs(factor - 1)):
        kept[focal] = seen_with(focal, FINE)
        for one in finalists:
            scales = [one.scale * factor for factor in FINE_SCALES]
            scores.append(errors(kept[focal], _scaled(poses, one, scales, pairs)))
            hypotheses += [replace(one, scale=scale, focal=focal) for scale in scales]
    scores.append(errors(kept[1.0], _scaled(poses, AS_GIVEN, UNITS, pairs)))
    hypotheses += [replace(AS_GIVEN, scale=scale) for scale in UNITS]
    return Scored(hypotheses, torch.cat(scores), kept)


def possible_focals(clip: PosedClip) -> list[float]:
    """Return the focal factors that leave a clip's camera a possible one."""
    height, width = clip.size
    found = []
    for focal in FOCALS:
        angles = fov_deg(
            torch.tensor(clip.intrinsics) * torch.tensor([focal, focal, 1.0, 1.0]), width, height
        )
        if all(MIN_FOV_DEG <= float(angle) <= MAX_FOV_DEG for angle in angles):
            found.append(focal)
    return found


def _scaled(
    poses: Tensor, hypothesis: Hypothesis, scales: list[float] | tuple[float, ...], pairs: Pairs
) -> Tensor:
    """Return the motions `(M, P, 4, 4)` of the pairs under a reading, one set a scale."""
    one = relative_poses(read_poses(poses, replace(hypothesis, scale=1.0)), pairs)
    motions = one[None].repeat(len(scales), 1, 1, 1)
    motions[..., :3, 3] *= torch.tensor(scales, dtype=poses.dtype)[:, None, None]
    return motions

"""A clip whose translations change their unit somewhere: seen from one frame, forward and back in time.

The depth of a single picture may be off by a factor of two, another one in another place, so two stretches
of a clip cannot be compared by it. One frame can: warped with its own depth to a frame before and to one
after it, both translations fit with the same factor, however wrong the depth, unless the unit changes
there. Legend: `A` frames asked, `S` scales, `N` pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from wm_env.model.data.pose_check.hypotheses import Hypothesis, read_poses
from wm_env.model.data.pose_check.warping import (
    GAPS,
    RATE,
    DepthOf,
    Pairs,
    errors,
    land,
    relative_poses,
    views,
)
from wm_env.model.data.posed_clip import PosedClip

SCALES = tuple(2 ** (k / 4) for k in range(-9, 10))
EVERY = 3  # frames at 16 frames per second from one that is asked to the next
STRIDE = 2
STEP = 1.6  # a smaller ratio may come of depth that is off by other factors near and far
CLEAR, HINT = 0.03, 0.016  # of chance: what two factors have to gain over a common one


class ScaleStep(NamedTuple):
    """A frame where the unit of the translations seems to change, the ratio of after to before in the factor
    that fits, and whether it is clear or a hint."""

    frame: int
    ratio: float
    clear: bool


def scale_step(clip: PosedClip, hypothesis: Hypothesis, depth_of: DepthOf) -> ScaleStep | None:
    """Return the most obvious change of scale under a hypothesis, None where there is none.

    At least two frames near each other have to say the same. Compared are the pixels that are seen in both
    other frames: near and far pixels of a wrong depth would ask for different factors.
    """
    step = max(1, round(clip.fps / RATE))
    poses = read_poses(torch.tensor(clip.c2w), hypothesis)
    camera = torch.tensor(clip.intrinsics)
    camera[:2] *= hypothesis.focal
    frames = torch.tensor(clip.frames)
    found: list[tuple[float, int, float]] = []
    for gap in (one * step for one in GAPS[-2:]):
        asked = torch.arange(gap, len(clip) - gap, EVERY * step)  # (A,)
        if not len(asked):
            continue
        depth = torch.zeros(frames.shape[:3])
        depth[asked] = depth_of(frames[asked], camera)
        pairs = Pairs(torch.cat([asked, asked]), torch.cat([asked - gap, asked + gap]))
        motions = relative_poses(poses, pairs)[None].repeat(len(SCALES), 1, 1, 1)  # (S, 2 A, 4, 4)
        motions[..., :3, 3] *= torch.tensor(SCALES, dtype=poses.dtype)[:, None, None]
        seen = views(frames, depth, camera, pairs, STRIDE)
        both = land(seen, relative_poses(poses, pairs)).seen.unflatten(0, (2, -1)).all(0)  # (A, N)
        before, after = errors(seen, motions, both.repeat(2, 1)).split(len(asked), dim=1)
        gain = ((before + after).amin(0) - before.amin(0) - after.amin(0)) / 2
        scales = torch.tensor(SCALES)
        ratio = scales[after.argmin(0)] / scales[before.argmin(0)]
        found += zip(gain.tolist(), asked.tolist(), ratio.tolist(), strict=True)
    told = [one for one in found if max(one[2], 1 / one[2]) > STEP and one[0] > HINT / 2]
    best: ScaleStep | None = None
    most = 0.0
    for gained, frame, own in told:
        near = [
            one[0] for one in told if abs(one[1] - frame) <= GAPS[-1] * step and (one[2] > 1) == (own > 1)
        ]
        if gained > HINT and len(near) > 1 and sum(near) > most:
            most = sum(near)
            best = ScaleStep(frame, own, max(near) > CLEAR)
    return best

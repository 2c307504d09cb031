"""What the errors of the hypotheses prove: who wins, how surely, and what the clip cannot tell apart.

The bootstrap draws stretches of the clip, a twelfth each, since pairs near each other in time see the same
things. Legend: `H` hypotheses, `P` pairs of pictures, `R` bootstrap samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.data.pose_check.hypotheses import AS_GIVEN, Axes, Hypothesis, Reading, read_poses
from wm_env.model.data.pose_check.search import FAULT, Scored
from wm_env.model.data.pose_check.warping import Pairs, pixels_apart, relative_poses
from wm_env.model.data.posed_clip import PosedClip

STRETCHES = 12
SAMPLES = 1000
PARTS = 4  # of the clip, each of which has to fit
TOLD = 0.95  # share of the samples in which a rival has to lose
APART = 0.25  # pixels: motions that are nearer than this are the same
SCALE_TOLD, FOCAL_TOLD = 3.0, 1.4  # factors that have to be clearly worse

SCALE_CHANGE = 1.9  # between two sides of a clip


class Gap(NamedTuple):
    """What poses may leave unexplained over the best motion: of chance, or of what that one gains."""

    chance: float
    share: float


HINT = Gap(0.08, 0.2)  # more of it, and a clip is not said to fit
CLEAR = Gap(0.12, 0.4)  # more of it is another motion and no wrong depth


class Kind(NamedTuple):
    """What a hypothesis says is wrong, whatever the amount."""

    reading: Reading
    axes: Axes
    keeps_scale: bool
    keeps_focal: bool


class Evidence:
    """Errors `(H, P)` of all hypotheses, their means, and who wins the bootstrap samples.

    kinds: what can be wrong. winner `(R,)`: number of the hypothesis that wins a sample, where each fault it
    claims costs `FAULT`. best: the one that wins the whole clip. given: that of "as given" at its best scale
    and focal length, both within what they are known to.
    """

    def __init__(self, clip: PosedClip, pairs: Pairs, scored: Scored) -> None:
        self.clip, self.pairs, self.scored = clip, pairs, scored
        self.hypotheses, self.errors = scored.hypotheses, scored.errors
        self.middle = (pairs.first + pairs.second).double() / 2 / len(clip)  # (P,) in [0, 1)
        self.means = self.errors.mean(1)
        self.sampled = self.errors @ _bootstrap((self.middle * STRETCHES).long()).T  # (H, R)
        kinds = [kind(one) for one in self.hypotheses]
        self.kinds = list(dict.fromkeys(kinds))
        self.kind_of = torch.tensor([self.kinds.index(one) for one in kinds])
        faults = FAULT * torch.tensor([float(one.faults) for one in self.hypotheses])
        self.winner = (self.sampled + faults[:, None]).argmin(0)  # (R,)
        self.best = int((self.means + faults).argmin())
        self.given = self.best_of(self.kind_of == self.kinds.index(kind(AS_GIVEN)))

    def best_of(self, which: Tensor) -> int:
        """Return the number of the hypothesis of least error among those `(H,)` bool."""
        return int(self.means.masked_fill(~which, torch.inf).argmin())

    def sure(self, index: int) -> float:
        """Return the share of samples that a hypothesis's kind wins."""
        return float((self.kind_of[self.winner] == self.kind_of[index]).double().mean())

    def motion(self, index: int) -> Tensor:
        """Return the motions `(P, 4, 4)` of the pairs under a hypothesis."""
        return relative_poses(read_poses(torch.tensor(self.clip.c2w), self.hypotheses[index]), self.pairs)

    def family(self, index: int, *, focal: bool = False) -> Tensor:
        """Return which hypotheses `(H,)` bool differ from one in scale at most, or in focal length too."""
        own = self.hypotheses[index]
        return torch.tensor(
            [
                (one.reading, one.axes) == (own.reading, own.axes) and (focal or one.focal == own.focal)
                for one in self.hypotheses
            ]
        )

    def clearly_worse(self, which: Tensor, index: int) -> bool:
        """Return whether the best of hypotheses `(H,)` bool loses to one in nearly all samples."""
        if not bool(which.any()):
            return True
        rival = self.sampled[which].amin(0)  # (R,)
        return float((rival > self.sampled[index]).double().mean()) >= TOLD

    def misfit(self, index: int, still: Tensor, free: Tensor, allowed: Gap) -> tuple[int, int] | None:
        """Return the first and last frame of a part that a hypothesis does not explain at any scale, or None.

        still, free `(P,)`: errors of no motion and of the best one; allowed: how much more than the best one
        it may leave. Scale is left free since the depth of single pictures is off by other factors in other
        places.
        """
        family = self.family(index)
        part = (self.middle * PARTS).long().clamp(max=PARTS - 1)
        for number in range(PARTS):
            own = part == number
            if not bool(own.any()):
                continue
            gap = float(self.errors[family][:, own].mean(1).min() - free[own].mean())
            if gap > max(allowed.chance, allowed.share * float((still - free)[own].mean())):
                ends = torch.stack([self.pairs.first[own], self.pairs.second[own]])
                return int(ends.min()), int(ends.max())
        return None

    def sides_differ(self, index: int) -> tuple[int, float] | None:
        """Return a frame before and after which a hypothesis fits with different scales, and their ratio."""
        family = self.family(index).nonzero()[:, 0]
        scales = torch.tensor([self.hypotheses[int(i)].scale for i in family])
        for cut in range(1, PARTS):
            before = self.middle < cut / PARTS
            one, two = (self.errors[family][:, side].mean(1) for side in (before, ~before))
            ratio = float(scales[two.argmin()] / scales[one.argmin()])
            loss = (one + two).min() - one.min() - two.min()  # of a common scale
            if max(ratio, 1 / ratio) > SCALE_CHANGE and float(loss) > FAULT:
                return round(cut / PARTS * len(self.clip)), ratio
        return None

    def untold(self) -> list[str]:
        """Return what the clip does not tell of poses that fit as given."""
        own = self.hypotheses[self.given]
        scales = torch.tensor([one.scale for one in self.hypotheses])
        focals = torch.tensor([one.focal for one in self.hypotheses])
        same = self.family(self.given, focal=True)
        found = []
        sides = (scales >= own.scale * SCALE_TOLD, scales <= own.scale / SCALE_TOLD)
        if not all(self.clearly_worse(same & side, self.given) for side in sides):
            found.append("the scale (the camera hardly leaves its place)")
        sides = (focals >= own.focal * FOCAL_TOLD, focals <= own.focal / FOCAL_TOLD)
        if not all(self.clearly_worse(same & side, self.given) for side in sides):
            found.append("the focal length (the camera hardly turns)")
        motion, views = self.motion(self.given), self.scored.views[own.focal]
        for reading, axes in dict.fromkeys((one.reading, one.axes) for one in self.kinds):
            rivals = torch.tensor([(one.reading, one.axes) == (reading, axes) for one in self.hypotheses])
            if (reading, axes) == (own.reading, own.axes) or self.clearly_worse(rivals, self.given):
                continue
            nearest = self.motion(self.best_of(rivals))
            if float(pixels_apart(views, motion, nearest).mean()) > APART:
                found.append(f"whether {Hypothesis(reading=reading, axes=axes)}")
                break
        return found


def kind(one: Hypothesis) -> Kind:
    """Return what a hypothesis says is wrong."""
    return Kind(one.reading, one.axes, one.keeps_scale, one.keeps_focal)


def _bootstrap(stretch: Tensor) -> Tensor:
    """Return the weights `(R, P)` of pairs in samples of whole stretches; stretch `(P,)` int64."""
    present, place = torch.unique(stretch, return_inverse=True)
    drawn = torch.randint(len(present), (SAMPLES, len(present)), generator=torch.Generator().manual_seed(0))
    times = torch.nn.functional.one_hot(drawn, len(present)).sum(1).float()  # (R, stretches)
    weights = times[:, place]
    return weights / weights.sum(1, keepdim=True)

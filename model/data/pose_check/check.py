"""Whether the poses of a clip fit the motion that its pictures show, and what is wrong with them if not.

The answer is one of three:

    fits            "as given" has the least error of all hypotheses, every other one is clearly worse, and in
                    every part of the clip the poses explain the pictures nearly as well as any motion could
    does not fit    another hypothesis does that, or none does
    cannot tell     the pictures do not decide: the camera stands, only turns, or sees nothing to hold on to

How sure: the share of bootstrap samples, over stretches of the clip, in which the hypothesis wins.
Legend: `P` pairs of pictures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wm_env.model.data.pose_check.evidence import CLEAR, HINT, Evidence, kind
from wm_env.model.data.pose_check.free_motion import free_motion
from wm_env.model.data.pose_check.hypotheses import Hypothesis
from wm_env.model.data.pose_check.scale_steps import scale_step
from wm_env.model.data.pose_check.search import search
from wm_env.model.data.pose_check.warping import DepthOf, choose_pairs, errors
from wm_env.model.data.posed_clip import PosedClip

Verdict = Literal["fits", "does not fit", "cannot tell"]

MIN_PAIRS = 8  # with visible motion
MOVES = 0.03  # of chance: what the best motion has to gain over none for a pair to show motion
BLANK = 0.02  # of the range [-1, 1]: pictures whose pixels differ less show nothing
UNEXPLAINED = 0.5  # of what standing still leaves: a motion that leaves more explains nothing
SURE = 0.9  # share of bootstrap samples
DEPTH_OFF = 3.0  # the depth of a whole clip may be off by this factor, by two often is


@dataclass(frozen=True)
class PairError:
    """Errors of one pair of frames, 0 perfect, 1 chance.

    first, second: frame numbers. given: of the poses as given. best: of the hypothesis of least error over
    the whole clip. still: of no motion at all. free: of the best motion that there is for this pair.
    """

    first: int
    second: int
    given: float
    best: float
    still: float
    free: float


@dataclass(frozen=True)
class HypothesisError:
    """A hypothesis, its mean error (0 perfect, 1 chance), and the share of samples that its like wins."""

    hypothesis: Hypothesis
    error: float
    wins: float


@dataclass(frozen=True)
class PoseCheck:
    """What the pictures of a clip say of its poses.

    verdict: "fits", "does not fit" or "cannot tell". sentence: the same with its reason, for people. best:
    the hypothesis that is right, None where none is or nobody can tell. sure: share of the bootstrap samples
    that it wins, in [0, 1], None without one. scale, focal: the factors on translations and focal lengths of
    least error; the scale is no better than the depth of single pictures. table: the best hypothesis of every
    kind, and of every power of ten of its scale, by error. pairs: the errors of every pair of frames.
    """

    verdict: Verdict
    sentence: str
    best: Hypothesis | None
    sure: float | None
    scale: float
    focal: float
    table: tuple[HypothesisError, ...]
    pairs: tuple[PairError, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what goes into JSON; a hypothesis has its text as `says`."""

        def of(one: Hypothesis) -> dict[str, Any]:
            return {**asdict(one), "axes": list(one.axes), "says": str(one)}

        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "best": None if self.best is None else of(self.best),
            "sure": self.sure,
            "scale": self.scale,
            "focal": self.focal,
            "table": [{**of(row.hypothesis), "error": row.error, "wins": row.wins} for row in self.table],
            "pairs": [asdict(pair) for pair in self.pairs],
        }


class _Told(NamedTuple):
    verdict: Verdict
    why: str
    best: Hypothesis | None = None
    sure: float | None = None


def check_poses(clip: PosedClip, depth_of: DepthOf) -> PoseCheck:
    """Return whether a clip's poses fit its pictures; `depth_of` returns the depth of pictures (`DepthOf`).

    The clip has the frame size that `depth_of` takes. What cannot be told is a verdict and no error.
    """
    pairs = choose_pairs(len(clip), clip.fps)
    seen = Evidence(clip, pairs, search(clip, pairs, depth_of))
    best, given = seen.hypotheses[seen.best], seen.hypotheses[seen.given]
    standing = torch.eye(4, dtype=torch.float64).expand(len(pairs.first), 4, 4)
    free = torch.full((len(pairs.first),), torch.inf)
    for index in (seen.best, seen.given):  # each with the depth of its focal length
        own = seen.scored.views[seen.hypotheses[index].focal]
        free = torch.minimum(free, free_motion(own, torch.stack([seen.motion(index), standing]))[1])
    views = seen.scored.views[1.0]
    still = errors(views, standing[None])[0]
    moving = (still - free > MOVES) & (views.chance > BLANK)
    told = _tell(seen, still, free, moving, depth_of)
    of = best if told.best is None or told.best.faults else given
    per_pair = torch.stack([seen.errors[seen.given], seen.errors[seen.best], still, free], dim=1).tolist()
    return PoseCheck(
        verdict=told.verdict,
        sentence=f"{_HEADS[told.verdict]}{told.why}",
        best=told.best,
        sure=told.sure,
        scale=of.scale,
        focal=of.focal,
        table=_table(seen),
        pairs=tuple(
            PairError(first, second, *values)
            for first, second, values in zip(
                pairs.first.tolist(), pairs.second.tolist(), per_pair, strict=True
            )
        ),
    )


_HEADS: dict[Verdict, str] = {
    "fits": "the poses fit the motion",
    "does not fit": "the poses do not fit the motion: ",
    "cannot tell": "cannot tell whether the poses fit: ",
}


def _tell(seen: Evidence, still: Tensor, free: Tensor, moving: Tensor, depth_of: DepthOf) -> _Told:
    """Return the verdict; still, free, moving `(P,)`."""
    best, given = seen.hypotheses[seen.best], seen.hypotheses[seen.given]
    sure = seen.sure(seen.best)
    unlike = seen.misfit(seen.given, still, free, CLEAR)
    part = "" if unlike is None else f"frames {unlike[0]} to {unlike[1]} show another motion than theirs"
    if int(moving.sum()) < MIN_PAIRS:
        if unlike is not None:
            return _Told("does not fit", f"{part}, the pictures hardly change")
        return _Told("cannot tell", "the pictures hardly change; film while walking, in good light")
    if float((free / still)[moving].median()) > UNEXPLAINED:
        return _Told("cannot tell", "no motion of a camera explains the pictures (blur, moving things)")
    whole = seen.misfit(seen.best, still, free, CLEAR) is None
    if unlike is not None and not whole:
        near = f", nearest is that {best}" if best.faults else ""
        return _Told("does not fit", f"{part}; nothing simple mends that{near}")
    step, sides = scale_step(seen.clip, best, depth_of), seen.sides_differ(seen.best)
    if step is not None and step.clear and sides is not None and (step.ratio > 1) == (sides[1] > 1):
        by = f"by about {1 / step.ratio:.2g}"
        return _Told("does not fit", f"the translations change their unit, {by}, near frame {step.frame}")
    if best.faults and whole and (sure >= SURE or unlike is not None) and not _near(best):
        return _Told("does not fit", str(best), best, sure)
    if best.faults:
        return _Told("cannot tell", f"as given they may be right, or {best}")
    doubts = seen.untold()
    bad = seen.misfit(seen.given, still, free, HINT)
    if bad is not None:
        doubts.append(f"the motion of frames {bad[0]} to {bad[1]} well enough")
    if step is not None or sides is not None:
        frame = step.frame if step is not None else sides[0] if sides is not None else 0
        doubts.append(f"whether their unit changes near frame {frame}")
    if doubts:
        return _Told("cannot tell", f"this clip does not show {' or '.join(doubts)}; the rest fits")
    if sure < SURE:
        return _Told("cannot tell", "other readings explain the pictures as well")
    return _Told("fits", "", given, sure)


def _near(best: Hypothesis) -> bool:
    """Return whether all that is wrong is a scale that the depth of the pictures may have wrong."""
    off = max(best.scale, 1 / best.scale)
    return best.faults == 1 and not best.keeps_scale and off < DEPTH_OFF


def _table(seen: Evidence) -> tuple[HypothesisError, ...]:
    """Return the best hypothesis of every kind, and of every power of ten of its scale, by error."""
    kinds = [(kind(one), one.keeps_scale or round(math.log10(one.scale))) for one in seen.hypotheses]
    rows = []
    for own in dict.fromkeys(kinds):
        which = torch.tensor([other == own for other in kinds])
        at = seen.best_of(which)
        wins = float(which[seen.winner].double().mean())
        rows.append(HypothesisError(seen.hypotheses[at], float(seen.means[at]), wins))
    return tuple(sorted(rows, key=lambda row: row.error))

"""`wm-env context check`: whether the poses of a clip fit its pictures, and a mended copy of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from wm_env.context_check import check_context, depth_network, fixed_clip
from wm_env.model.data.pose_check.check import PoseCheck
from wm_env.model.data.pose_check.hypotheses import Hypothesis
from wm_env.model.data.pose_check.search import UNITS, USUAL
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.storage.atomic import check_folder

ROWS = 5  # of the table that are shown whatever they say


@dataclass(frozen=True, kw_only=True)
class ContextCheck:
    """Say whether the poses of a clip fit the motion of its pictures: fits, does not fit, or cannot tell.

    Frames are laid over each other by their depth as the poses say, and as they would say if they were
    world-to-camera, in other axes, of another scale or focal length. Layouts of clips: docs/clips.md.
    """

    clip: Annotated[Path, tyro.conf.Positional]
    """Folder of the clip, a film, or a camera file."""
    fix: Path | None = None
    """New folder for a copy of the clip with the poses mended; it is checked before it is written."""
    world: str = "tiny"
    """Whose depth network looks at the pictures: tiny, tiny-pure, or the folder of an embedded world."""
    fps: float | None = None
    """Pictures per second, where nothing says them."""
    scale: float | None = None
    """Factor on the translations that makes them metres."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx fy cx cy in pixels of the frames, where nothing says them."""
    seed: int = 0
    """Accepted for uniformity; the samples that say how sure it is are always the same."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace the file of --json if it exists; a folder of --fix is never replaced."""

    def run(self) -> dict[str, Any]:
        if self.fix is not None and check_folder(self.fix).exists() and any(self.fix.iterdir()):
            raise FileExistsError(f"--fix {str(self.fix)!r} is not empty; give another folder")
        torch.set_num_threads(1)
        size = None if self.fix is not None else depth_network(self.world)[1]  # a long film would not fit
        clip = PosedClip.load(
            self.clip, fps=self.fps, scale=self.scale, intrinsics=self.intrinsics, size=size
        )
        check = check_context(clip, world=self.world)
        print("\n".join(lines(check)))
        result = {"clip": str(self.clip), "frames": len(clip), "world": self.world, **check.to_dict()}
        if self.fix is None:
            if check.verdict == "does not fit" and check.best is not None:
                print("a copy with the poses mended: the same command with --fix FOLDER")
            return result
        mended = fixed_clip(clip, check)
        again = check_context(mended, world=self.world)
        if again.verdict == "does not fit":
            raise ValueError(f"mended, it still does not fit and is not written: {again.sentence}")
        mended.save(self.fix)
        print(f"{self.fix}: {again.sentence}")
        return {**result, "fixed": {"out": str(self.fix), **again.to_dict()}}


def lines(check: PoseCheck) -> list[str]:
    """Return a check as text: the verdict, how sure, and the hypotheses of least error."""
    sure = "" if check.sure is None else f" (sure {check.sure:.0%})"
    shown = [row for number, row in enumerate(check.table) if number < ROWS or is_usual(row.hypothesis)]
    table = [f"  {row.error:5.3f}  {row.wins:4.0%}  {row.hypothesis}" for row in shown]
    still = sum(pair.still for pair in check.pairs) / len(check.pairs)
    head = f"  error of colours (0 perfect, 1 chance, {still:.3f} with no motion), samples won, hypothesis"
    return [f"{check.sentence}{sure}", head, *table]


def is_usual(hypothesis: Hypothesis) -> bool:
    """Return whether a hypothesis is as given, a usual fault alone, or as given in another unit."""
    alone = hypothesis.keeps_focal and replace(hypothesis, scale=1.0, focal=1.0) in USUAL
    return alone and (hypothesis.keeps_scale or hypothesis.scale in UNITS)

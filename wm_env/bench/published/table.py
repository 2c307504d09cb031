"""What has been published for the one-minute protocol, and our scores under the same names beside it.

Published values are those of the SANA-WM paper (arXiv 2605.15178): one seed, no intervals, 80 scenes, frames
of 704x1280. `SANA-WM` is its chunk-causal first stage, `bidirectional` the first stage of the released
whole-clip model; the streaming student has no row. What was not stated is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from wm_env.bench.records import Record


@dataclass(frozen=True, kw_only=True)
class Scores(Record):
    """Means over scenes, None where nobody measured.

    rot_err: degrees. trans_err, cammc: see docs/reference/evaluation.md#pose-accuracy. overall: VBench, of
    100. psnr (dB), ssim, lpips: of revisited views. diq: imaging quality of the first ten seconds less that
    of the last.
    """

    rot_err: float | None = None
    trans_err: float | None = None
    cammc: float | None = None
    overall: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    diq: float | None = None


PUBLISHED: dict[str, dict[str, Scores]] = {
    "simple_60s": {
        "bidirectional": Scores(rot_err=3.11),
        "SANA-WM": Scores(rot_err=7.59, trans_err=1.59, cammc=1.63, overall=79.29, ssim=0.333, diq=3.79),
        "SANA-WM + refiner": Scores(
            rot_err=4.50, trans_err=1.39, cammc=1.41, overall=80.62, psnr=14.46, ssim=0.292, diq=1.17
        ),
    },
    "hard_60s": {
        "bidirectional": Scores(
            rot_err=3.17, trans_err=1.08, cammc=1.09, overall=80.18, psnr=13.78, lpips=0.432, diq=2.13
        ),
        "SANA-WM": Scores(
            rot_err=10.02, trans_err=1.66, cammc=1.72, overall=79.60, psnr=14.10, ssim=0.327, lpips=0.469,
            diq=3.09,
        ),
        "SANA-WM + refiner": Scores(
            rot_err=8.34, trans_err=1.39, cammc=1.44, overall=81.89, psnr=14.80, ssim=0.312, lpips=0.458,
            diq=0.31,
        ),
    },
}  # fmt: skip
HEADS = ("RotErr", "TransErr", "CamMC", "Overall", "revisit PSNR", "SSIM", "LPIPS", "dIQ")
_POSES = {
    "rot_err": ("rot_err", "RotErr"),
    "trans_err": ("trans_err", "TransErr"),
    "cammc": ("cammc", "CamMC"),
}
_WRITERS = ("vbench_scores", "temporal_degradation", "summary")


def our_scores(evaluations: Mapping[str, Any], poses: Any) -> Scores:
    """Return the scores of a split from what evaluators wrote into a method's folder.

    Under which keys upstream writes them is not published; `rot_err` or `RotErr` and so on of every scene,
    `overall` and `dIQ` are looked for, and what is not there stays None.
    """
    revisits = (evaluations.get("revisit_consistency") or {}).get("overall") or {}
    found = {name: revisits.get(name) for name in ("psnr", "ssim", "lpips")}
    found |= {name: _mean(poses, keys) for name, keys in _POSES.items()}
    for name, key in (("overall", "overall"), ("diq", "dIQ")):
        values = [_number(evaluations.get(file), key) for file in _WRITERS]
        found[name] = next((value for value in values if value is not None), None)
    return Scores(**found)


def _mean(poses: Any, keys: tuple[str, ...]) -> float | None:
    """Return the mean over scenes of the first of some keys that they have."""
    if not isinstance(poses, Mapping):
        return None
    rows = [row for row in poses.values() if isinstance(row, Mapping)]
    for key in keys:
        values = [value for row in rows if (value := _number(row, key)) is not None]
        if values:
            return float(np.mean(values))
    return None


def _number(found: Any, key: str) -> float | None:
    value = found.get(key) if isinstance(found, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def comparison(split: str, method: str, ours: Scores) -> list[str]:
    """Return the lines of a Markdown table: what has been published for a split, and ours last."""
    lines = [f"| {split} | {' | '.join(HEADS)} |", f"|---|{'---:|' * len(HEADS)}"]
    for name, scores in (*PUBLISHED.get(split, {}).items(), (f"**{method}**", ours)):
        values = [getattr(scores, field.name) for field in fields(Scores)]
        lines.append(f"| {name} | {' | '.join('-' if v is None else f'{v:.4g}' for v in values)} |")
    return lines

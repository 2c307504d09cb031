"""What can be scored here of a method's videos: how alike revisited views are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from wm_env.bench.published.folder import BenchScene
from wm_env.bench.published.report import Mean, Overall, PairScore, Revisits
from wm_env.bench.published.rows import read_video, video_path
from wm_env.model.metrics.images import psnr, ssim

WINDOW_SECONDS = 10


def windows(frames: int, fps: int = 16) -> list[tuple[int, int]]:
    """Return the whole ten-second windows [begin, end) of a video: 6 for 960 and for 961 frames."""
    length = WINDOW_SECONDS * fps
    return [(i * length, (i + 1) * length) for i in range(frames // length)]


def revisit_consistency(scene: BenchScene, frames: Tensor, fps: int) -> tuple[PairScore, ...]:
    """Return PSNR and SSIM (uniform 11x11 window) of the scene's revisit pairs in its video.

    Frame numbers are mapped through time, round(index / 16 * fps), and clamped; a pair that falls on one
    frame is left out.
    """
    found = []
    for pair in scene.pairs:
        a, b = (min(round(i / scene.fps * fps), len(frames) - 1) for i in (pair.frame_a, pair.frame_b))
        if a != b:
            scores = {"psnr": float(psnr(frames[a], frames[b])), "ssim": float(ssim(frames[a], frames[b]))}
            found.append(PairScore(frame_a=a, frame_b=b, **scores))
    return tuple(found)


def score_revisits(scenes: Sequence[BenchScene], method: Path, split: str) -> Revisits:
    """Return what `revisit_consistency.json` holds: overall over pairs, per category over scenes.

    LPIPS needs a network this package does not ship; it is null. Videos that cannot be read are listed.
    """
    pairs: list[PairScore] = []
    by_scene: dict[str, tuple[PairScore, ...]] = {}
    by_type: dict[str, list[Mean]] = {}
    unreadable: dict[str, str] = {}
    for scene in scenes:
        try:
            frames = read_video(video_path(method, split, scene.id))
        except ValueError as error:
            unreadable[scene.id] = str(error)
            continue
        found = revisit_consistency(scene, frames, scene.fps)
        by_scene[scene.id] = found
        pairs += found
        if found:
            by_type.setdefault(scene.scene_type, []).append(_mean(found))
    overall = _mean(pairs)
    return Revisits(
        overall=Overall(psnr=overall.psnr, ssim=overall.ssim, lpips=None, pairs=len(pairs)),
        per_category={name: _mean(found) for name, found in by_type.items()},
        per_scene=by_scene,
        unreadable=unreadable,
        lpips_reason="no evaluator wrote it: LPIPS needs a network that is not part of this package",
        ssim_variant="uniform 11x11 window, biased moments",
    )


def _mean(found: Sequence[PairScore | Mean]) -> Mean:
    if not found:
        return Mean(psnr=None, ssim=None)
    return Mean(
        psnr=float(np.mean([one.psnr for one in found])), ssim=float(np.mean([one.ssim for one in found]))
    )

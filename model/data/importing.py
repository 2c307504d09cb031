"""Recorded clips -> training data: every clip is checked before anything is written, then cut into shards.

    1. each clip is read to its end, checked, shrunk (`check_clip`); faults are collected, clip by clip
    2. any fault: `BadClips` with the whole report, nothing is written; with `skip_bad` they are left out
    3. depth is predicted for every frame, clips are cut into windows of `frames`, OUT/train and OUT/val
       appear

Videos carry no depth, the autoencoder needs it (its fourth channel). It comes from a given network and is
only as true as that network is for such pictures; every shard's `origin.json` says `"depth": "predicted"`
and by which weights. The poses of a window are relative to its first frame.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.clip import write_shard
from wm_env.model.data.recorded import CheckedClip, ClipRef, Problem, RecordedClip, check_clip
from wm_env.model.geometry import relative_to_first
from wm_env.model.pixels import from_uint8, metric_depth
from wm_env.model.storage.atomic import scratch_folder, write_text
from wm_env.model.vae.tiny import TinyVAE

DepthOf = Callable[[Tensor, Tensor], Tensor]
"""Depth `(n, H, W)` in metres of rgb uint8 `(n, H, W, 3)` and intrinsics `(4,)` in pixels."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How recorded clips become windows.

    size: height and width of the result. frames: 4k + 1 per window. stride: frames from one window to the
    next, None for `frames` (no overlap). every: Keep every n-th frame (worlds run at 16 frames per
    second). scale: factor on the translations that makes them metres. val: share of the clips (of the
    windows, where there is one clip) that goes to val, at least one. seed: which clips those are.
    """

    size: int = 64
    frames: int = 69
    stride: int | None = None
    every: int = 1
    scale: float = 1.0
    val: float = 0.1
    clips_per_shard: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 5 or (self.frames - 1) % 4:
            raise ValueError(f"frames={self.frames} does not fit the VAE: need 4k+1, at least 5")
        if self.size < 16 or self.size % 16:
            raise ValueError(f"size={self.size} must be a multiple of 16")
        if min(self.every, self.clips_per_shard, self.stride or 1) < 1 or not self.scale > 0:
            raise ValueError(f"every, stride, clips_per_shard and scale must be positive: {self}")
        if not 0 < self.val < 1:
            raise ValueError(f"val={self.val} must be a share between 0 and 1")


class BadClips(ValueError):
    """Some clips cannot be used. report: one line for each; the message counts them."""

    def __init__(self, problems: Sequence[Problem], total: int) -> None:
        bad = sum(not problem.filtered for problem in problems)
        super().__init__(f"{bad} of {total} clips are bad; repair them, or leave them out with --skip-bad")
        self.report = "\n".join(report_lines(problems, total))


class Imported(NamedTuple):
    """What an import made.

    windows: training clips per split. clips: how many were used. left_out: the others. speed: metres per
    frame, the 90th percentile of each clip, median over the clips.
    """

    windows: dict[str, int]
    clips: int
    left_out: tuple[Problem, ...]
    speed: float


class _Window(NamedTuple):
    clip: CheckedClip
    first: int


def report_lines(problems: Sequence[Problem], total: int) -> list[str]:
    """Return the report: a heading, then a line for every clip that cannot be used."""
    bad = sum(not problem.filtered for problem in problems)
    filtered = len(problems) - bad
    tail = f", {filtered} filtered out by their scores" if filtered else ""
    width = max((len(problem.clip) for problem in problems), default=0)
    rows = [f"  {p.clip:<{width}}  {'filtered: ' if p.filtered else ''}{p.what}" for p in problems]
    return [f"{total} clips, {bad} bad{tail}", *rows]


def predicted_depth(vae: TinyVAE) -> DepthOf:
    """Return the depth prediction of an autoencoder's depth network."""

    @torch.no_grad()
    def depth(rgb: Tensor, intrinsics: Tensor) -> Tensor:
        device = vae.latent_mean.device
        rows = intrinsics.float().to(device).expand(len(rgb), -1)
        colour = from_uint8(rgb.to(device)).movedim(-1, 1)  # (n, 3, H, W)
        return metric_depth(vae.depth_net(colour, rows)).cpu()

    return depth


def import_clips(
    listed: Sequence[ClipRef],
    out: Path,
    config: ImportConfig,
    *,
    depth_of: DepthOf,
    origin: dict[str, Any],
    skip_bad: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Imported:
    """Check all clips, then write OUT/train and OUT/val; see the module docstring.

    origin: JSON values that go into every shard (where the clips came from, which weights predicted the
    depth). Raises `BadClips`, `FileExistsError` where `out` holds data already, `ValueError` where too
    little is left.
    """
    for split in ("train", "val"):
        if (out / split).exists():
            raise FileExistsError(f"{out / split} exists; give another folder, imports are never mixed")
    try:
        with scratch_folder(out, "import") as scratch:
            checked, problems = _check_all(listed, config, scratch, report)
            if any(not problem.filtered for problem in problems) and not skip_bad:
                raise BadClips(problems, len(listed))
            windows = _split(checked, config)
            facts = {**origin, "depth": "predicted", "settings": asdict(config)}
            for split, chosen in windows.items():
                _write_split(scratch / split, chosen, config, depth_of, facts)
            for split in windows:
                os.replace(scratch / split, out / split)
            left_out = [{"clip": p.clip, "what": p.what, "filtered": p.filtered} for p in problems]
            write_text(out / "import.json", json.dumps({**facts, "left_out": left_out}, indent=2) + "\n")
    finally:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    counts = {split: len(chosen) for split, chosen in windows.items()}
    return Imported(counts, len(checked), tuple(problems), _speed(checked))


def _check_all(
    listed: Sequence[ClipRef], config: ImportConfig, scratch: Path, report: Callable[[int, int], None] | None
) -> tuple[list[CheckedClip], list[Problem]]:
    """Return the sound clips, in order, and the problems of the others."""
    checked: list[CheckedClip] = []
    problems: list[Problem] = []
    for number, clip in enumerate(listed):
        found = (
            _check_one(clip, config, scratch / f"{number}.npy") if isinstance(clip, RecordedClip) else clip
        )
        if isinstance(found, Problem):
            problems.append(found)
        else:
            checked.append(found)
        if report is not None:
            report(number + 1, len(listed))
    sizes = Counter(clip.source for clip in checked)
    if len(sizes) > 1:
        (height, width), count = sizes.most_common(1)[0]
        odd = [clip for clip in checked if clip.source != (height, width)]
        checked = [clip for clip in checked if clip.source == (height, width)]
        problems += [
            Problem(c.name, f"frames of {c.source[1]}x{c.source[0]}; {count} clips have {width}x{height}")
            for c in odd
        ]
    order = {clip.name if isinstance(clip, RecordedClip) else clip.clip: i for i, clip in enumerate(listed)}
    return checked, sorted(problems, key=lambda problem: order[problem.clip])


def _check_one(clip: RecordedClip, config: ImportConfig, rgb: Path) -> CheckedClip | Problem:
    try:
        found = check_clip(clip, size=config.size, every=config.every, scale=config.scale, rgb=rgb)
    except ValueError as error:
        return Problem(clip.name, " ".join(str(error).split()))
    if found.frames < config.frames:
        taken = "" if config.every == 1 else f" (every {config.every})"
        return Problem(
            clip.name, f"{found.frames} frames{taken}; a window needs {config.frames}, see --frames"
        )
    return found


def _split(checked: Sequence[CheckedClip], config: ImportConfig) -> dict[str, list[_Window]]:
    """Return the windows of train and val: whole clips apart, or, of a single clip, its end for val."""
    stride = config.stride or config.frames
    cut = [[_Window(c, at) for at in range(0, c.frames - config.frames + 1, stride)] for c in checked]
    if len(checked) > 1:
        held = max(1, round(config.val * len(checked)))
        order = torch.randperm(len(checked), generator=torch.Generator().manual_seed(config.seed)).tolist()
        val = sorted(order[:held])
        train = sorted(order[held:])
        return {"train": [w for i in train for w in cut[i]], "val": [w for i in val for w in cut[i]]}
    windows = cut[0] if cut else []
    held = max(1, round(config.val * len(windows)))
    last = windows[-held:]
    first = [w for w in windows[:-held] if w.first + config.frames <= last[0].first] if last else []
    if not first:
        raise ValueError(
            f"{len(checked)} sound clips give {len(windows)} windows of {config.frames} frames that do not "
            "overlap; train and val need one each: shorten --frames or add clips"
        )
    return {"train": first, "val": last}


def _write_split(
    folder: Path, windows: Sequence[_Window], config: ImportConfig, depth_of: DepthOf, facts: dict[str, Any]
) -> None:
    folder.mkdir()
    for number, begin in enumerate(range(0, len(windows), config.clips_per_shard)):
        chosen = windows[begin : begin + config.clips_per_shard]
        captions = sorted({window.clip.caption for window in chosen})
        rows = [_arrays(window, captions.index(window.clip.caption), config, depth_of) for window in chosen]
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        clips = [{"clip": window.clip.name, "first_frame": window.first} for window in chosen]
        write_shard(folder / f"shard-{number:05d}", arrays, captions, {**facts, "clips": clips})


def _arrays(window: _Window, caption: int, config: ImportConfig, depth_of: DepthOf) -> dict[str, np.ndarray]:
    clip, span = window.clip, slice(window.first, window.first + config.frames)
    rgb = np.array(np.load(clip.rgb, mmap_mode="r")[span])
    depth = depth_of(torch.from_numpy(rgb), clip.intrinsics)
    return {
        "rgb": rgb,
        "depth": depth.half().numpy(),
        "c2w": relative_to_first(clip.c2w[span]).float().numpy(),
        "intrinsics": clip.intrinsics.float().numpy(),
        "caption": np.full(config.frames, caption, np.int16),
    }


def _speed(checked: Sequence[CheckedClip]) -> float:
    steps = [(c.c2w[1:, :3, 3] - c.c2w[:-1, :3, 3]).norm(dim=-1) for c in checked]
    return statistics.median(float(torch.quantile(step, 0.9)) for step in steps)

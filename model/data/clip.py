"""Clips with poses, and shards of them on disk that several processes can read while one writes.

A shard is a folder of plain arrays (`numpy.load(mmap_mode="r")` reads a clip without reading the shard):

    rgb.npy         uint8   (n, F, H, W, 3)
    depth.npy       float16 (n, F, H, W)       metres along z
    c2w.npy         float32 (n, F, 4, 4)       relative to frame 0 of the clip
    intrinsics.npy  float32 (n, 4)             fx, fy, cx, cy in pixels
    caption.npy     int16   (n, F)             index into captions.json, per frame: events change it
    captions.json   list of strings

It is written under a temporary name and renamed when complete, so a folder that exists is whole.
"""

from __future__ import annotations

import bisect
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ARRAYS = ("rgb", "depth", "c2w", "intrinsics", "caption")


class Clip(NamedTuple):
    """Frames of one or several clips; the leading axes are the caller's (none, or B).

    rgb: uint8 `(..., F, H, W, 3)`. depth: float32 `(..., F, H, W)` metres. c2w: float32 `(..., F, 4, 4)`.
    intrinsics: float32 `(..., 4)` pixels. caption: int64 `(..., F)`, index into a caption table.
    """

    rgb: Tensor
    depth: Tensor
    c2w: Tensor
    intrinsics: Tensor
    caption: Tensor


def write_shard(folder: Path, arrays: dict[str, np.ndarray], captions: Sequence[str]) -> None:
    """Write a shard so that `folder` either does not exist or is complete."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in ARRAYS:
        np.save(temporary / f"{name}.npy", arrays[name])
    (temporary / "captions.json").write_text(json.dumps(list(captions)))
    os.replace(temporary, folder)


class ClipShards:
    """All complete shards of a folder as one indexed set of clips, read through memory maps."""

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Open the shards that are complete now, or only those named, in name order."""
        paths = sorted(path for path in folder.glob("shard-*") if path.is_dir())
        if names is not None:
            paths = [path for path in paths if path.name in set(names)]
        if not paths:
            raise FileNotFoundError(f"no shards in {folder}; render some first (`train data`)")
        self.folder, self.paths = folder, paths
        self._maps = [{a: np.load(p / f"{a}.npy", mmap_mode="r") for a in ARRAYS} for p in paths]
        self._ends = np.cumsum([len(maps["rgb"]) for maps in self._maps]).tolist()
        self.captions: list[str] = []  # table of all shards, without repeats
        self._to_table: list[np.ndarray] = []
        index: dict[str, int] = {}
        for path in paths:
            own = json.loads((path / "captions.json").read_text())
            for text in own:
                if text not in index:
                    index[text] = len(self.captions)
                    self.captions.append(text)
            self._to_table.append(np.array([index[text] for text in own], dtype=np.int64))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self._maps[0]["rgb"].shape[1]

    def _locate(self, index: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def read(self, index: int, frames: Sequence[int] | slice = slice(None)) -> Clip:
        """Return clip `index`, all frames or the given ones. The poses stay relative to frame 0."""
        shard, row = self._locate(index)
        maps = self._maps[shard]
        pick = frames if isinstance(frames, slice) else list(frames)
        return Clip(
            torch.from_numpy(np.array(maps["rgb"][row][pick])),
            torch.from_numpy(np.array(maps["depth"][row][pick])).float(),
            torch.from_numpy(np.array(maps["c2w"][row][pick])),
            torch.from_numpy(np.array(maps["intrinsics"][row])),
            torch.from_numpy(self._to_table[shard][maps["caption"][row][pick]]),
        )

    def poses(self, index: int) -> Tensor:
        """Return the poses `(F, 4, 4)` of clip `index`, relative to its frame 0."""
        shard, row = self._locate(index)
        return torch.from_numpy(np.array(self._maps[shard]["c2w"][row]))

    def read_many(self, indices: Sequence[int], frames: Sequence[Sequence[int] | slice]) -> Clip:
        """Return a batch: clip `indices[i]` at `frames[i]`, all of the same length."""
        clips = [self.read(i, f) for i, f in zip(indices, frames, strict=True)]
        return Clip(*(torch.stack(parts) for parts in zip(*clips, strict=True)))

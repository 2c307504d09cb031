"""Clips with poses, and shards of them on disk that several processes can read while one writes.

A shard is a folder of plain arrays (`numpy.load(mmap_mode="r")` reads a clip without reading the shard):

    rgb.npy         uint8   (n, F, H, W, 3)
    depth.npy       float16 (n, F, H, W)       metres along z
    c2w.npy         float32 (n, F, 4, 4)       relative to frame 0 of the clip
    intrinsics.npy  float32 (n, 4)             fx, fy, cx, cy in pixels
    caption.npy     int16   (n, F)             index into captions.json, per frame: events change it
    captions.json   list of strings
    origin.json     of imported clips only: where they came from, and that their depth is predicted

It is written under a temporary name and renamed when complete, so a folder that exists is whole.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.geometry import check_rigid
from wm_env.model.intrinsics import check_intrinsics
from wm_env.model.storage.atomic import atomic_folder

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


def write_shard(
    folder: Path,
    arrays: dict[str, np.ndarray],
    captions: Sequence[str],
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write a shard so that `folder` either does not exist or is complete; origin: JSON values, see above."""
    with atomic_folder(folder) as temporary:
        for name in ARRAYS:
            np.save(temporary / f"{name}.npy", arrays[name])
        (temporary / "captions.json").write_text(json.dumps(list(captions)), encoding="utf-8")
        if origin is not None:
            text = json.dumps(dict(origin), indent=2) + "\n"
            (temporary / "origin.json").write_text(text, encoding="utf-8")


class ClipShards:
    """All complete shards of a folder as one indexed set of clips, read through memory maps."""

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Open the shards that are complete now, or only those named, in name order."""
        paths = sorted(path for path in folder.glob("shard-*") if path.is_dir())
        if names is not None:
            paths = [path for path in paths if path.name in set(names)]
        if not paths:
            raise FileNotFoundError(
                f"no shards in {folder}; render some first (`train data`) or import your own (`train import`)"
            )
        self.folder, self.paths = folder, paths
        self._maps = [{a: np.load(p / f"{a}.npy", mmap_mode="r") for a in ARRAYS} for p in paths]
        _check_shards(paths, self._maps)
        self._ends = np.cumsum([len(maps["rgb"]) for maps in self._maps]).tolist()
        self.captions: list[str] = []  # table of all shards, without repeats
        self._to_table: list[np.ndarray] = []
        index: dict[str, int] = {}
        for path in paths:
            own = json.loads((path / "captions.json").read_text(encoding="utf-8"))
            for text in own:
                if text not in index:
                    index[text] = len(self.captions)
                    self.captions.append(text)
            self._to_table.append(np.array([index[text] for text in own], dtype=np.int64))

    def close(self) -> None:
        """Nothing to end: shards are maps of files; `RenderedClips` has processes."""

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self._maps[0]["rgb"].shape[1]

    @property
    def origins(self) -> list[dict[str, Any]]:
        """The `origin.json` of every shard that has one; rendered shards have none."""
        files = [path / "origin.json" for path in self.paths]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]

    def share(self, rank: int, of: int) -> ClipShards:
        """Return the shards of worker `rank` of `of`: every `of`-th, from number `rank` on.

        The shares are disjoint and together everything; they depend on the names of the shards alone.
        """
        return ClipShards(self.folder, [path.name for path in share_of(self.paths, rank, of)])

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


def share_of(items: Sequence[Path], rank: int, of: int) -> list[Path]:
    """Return items `rank`, `rank + of`, ...; raise `ValueError` where a worker would get none."""
    if not 0 <= rank < of:
        raise ValueError(f"rank={rank} must be in 0 .. {of - 1}")
    if len(items) < of:
        raise ValueError(f"{len(items)} shards are too few for {of} workers; write smaller shards")
    return list(items[rank::of])


def _check_shards(paths: Sequence[Path], maps: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Raise `ValueError` listing shards of another size and clips whose poses or cameras are broken."""
    sizes = [maps_["rgb"].shape[1:4] for maps_ in maps]
    faults = [
        f"{path.name} holds clips of {size[0]} frames of {size[2]}x{size[1]}, "
        f"{paths[0].name} of {sizes[0][0]} of {sizes[0][2]}x{sizes[0][1]}"
        for path, size in zip(paths, sizes, strict=True)
        if size != sizes[0]
    ]
    for path, arrays in zip(paths, maps, strict=True):
        if (
            _fault(arrays, slice(None)) is not None
        ):  # one look per shard; clip by clip only where it is needed
            rows = {row: _fault(arrays, slice(row, row + 1)) for row in range(len(arrays["rgb"]))}
            faults += [f"{path.name} clip {row}: {fault}" for row, fault in rows.items() if fault is not None]
    if faults:
        raise ValueError(f"{len(faults)} faults in {paths[0].parent}: {'; '.join(faults)}")


def _fault(arrays: Mapping[str, np.ndarray], rows: slice) -> str | None:
    """Return what is wrong with the poses or cameras of some clips of a shard, None where nothing is."""
    try:
        check_rigid(torch.from_numpy(np.array(arrays["c2w"][rows])))
        check_intrinsics(torch.from_numpy(np.array(arrays["intrinsics"][rows])), *arrays["rgb"].shape[2:4])
    except ValueError as error:
        return str(error)
    return None

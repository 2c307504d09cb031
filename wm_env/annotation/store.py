"""What is kept of an annotation, and where: every stage is written whole, with what it was made from.

    OUT/annotations.jsonl      a `ClipRow` for every clip, by name
    OUT/CLIP/                  an accepted clip, a saved `PosedClip`
    OUT/poses/CLIP.npz         the poses of every clip that has any: frames (numbers in the film), c2w,
                               intrinsics, metric, motion
    OUT/pages/CLIP.html        the same to look at
    OUT/.annotate/             stages that are done: shots, matches and poses, scale; safe to delete

A stage is read again where its digest is that of today's film and settings.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wm_env.annotation.values import ClipRow, Matches, Track
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.storage.array_files import read_arrays
from wm_env.model.storage.atomic import atomic_path, check_folder, remove_leftovers, write_text

ROWS, STAGES, POSES, PAGES = "annotations.jsonl", ".annotate", "poses", "pages"
_MATCHES = ("features", "uv", "first", "second")


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def film_facts(path: Path) -> dict[str, Any]:
    """Return what tells a film, or a folder of pictures, from a changed one: names, sizes and times."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return {
        "path": str(path.resolve()),
        "files": [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files],
    }


class Store:
    """The folder of an annotation. Raises `ValueError` for a folder that holds something else."""

    def __init__(self, out: Path) -> None:
        check_folder(out)
        if out.is_dir() and any(out.iterdir()) and not (out / STAGES).is_dir():
            raise ValueError(f"{str(out)!r} is not empty and no annotation; give another folder")
        self.out = out
        (out / STAGES).mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        remove_leftovers(out / STAGES)
        self._rows = {row["clip"]: row for row in self._read_rows()}

    def _read_rows(self) -> list[dict[str, Any]]:
        path = self.out / ROWS
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is corrupted ({error}); delete it") from error

    @property
    def work(self) -> Path:
        """Folder of the stages."""
        return self.out / STAGES

    def stage(self, name: str, digest: str) -> dict[str, np.ndarray] | None:
        """Return the arrays of a stage, None where it is not done or was made from something else."""
        path = self.work / f"{name}.npz"
        if not path.is_file():
            return None
        try:
            found = read_arrays(path, path.name)
        except ValueError:
            return None  # whatever damaged it, the stage is made again
        return found if str(found.pop("digest", "")) == digest else None

    def keep(self, name: str, digest: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a stage."""
        with atomic_path(self.work / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, digest=np.array(digest), **arrays)  # type: ignore[arg-type]

    def accepted(self, clip: str, digest: str) -> bool:
        """Return whether a clip was accepted and written from the same things."""
        row = self._rows.get(clip)
        written = row is not None and row["status"] == "accepted" and row["digest"] == digest
        return written and (self.out / clip / "camera.json").is_file()

    def write_clip(self, name: str, clip: PosedClip, *, metric: bool) -> None:
        """Write an accepted clip; one of the same name that an annotation wrote before is replaced."""
        self.remove_clip(name)
        clip.save(self.out / name, metric=metric)

    def remove_clip(self, name: str) -> None:
        """Remove a clip that an annotation wrote before and that is not accepted any more."""
        if name in self._rows and self._rows[name]["status"] == "accepted":
            shutil.rmtree(self.out / name, ignore_errors=True)

    def write_poses(self, name: str, numbers: np.ndarray, track: Track) -> None:
        """Write the poses of a clip. numbers: `(n,)` of the frames in the film."""
        (self.out / POSES).mkdir(exist_ok=True)
        with atomic_path(self.out / POSES / f"{name}.npz") as temporary:
            np.savez_compressed(
                temporary,
                frames=numbers,
                c2w=track.c2w,
                intrinsics=track.intrinsics,
                metric=np.array(track.metric),
                motion=np.array(track.motion),
            )

    def write_row(self, row: ClipRow) -> None:
        """Write the row of a clip among the others."""
        self._rows[row.clip] = row.to_json()
        lines = [json.dumps(self._rows[name]) + "\n" for name in sorted(self._rows)]
        write_text(self.out / ROWS, "".join(lines))


def track_arrays(track: Track, matches: Matches, seconds: float) -> dict[str, np.ndarray]:
    """Return a track and its matches as arrays of a stage."""
    told = {"frames": track.frames, "c2w": track.c2w, "intrinsics": track.intrinsics}
    own = {f"matches_{name}": np.asarray(getattr(matches, name)) for name in _MATCHES}
    facts = json.dumps(
        {"motion": track.motion, "metric": track.metric, "left_out": track.left_out, "seconds": seconds}
    )
    return {**told, **own, "size": np.array(matches.size), "facts": np.array(facts)}


def track_from(arrays: Mapping[str, np.ndarray]) -> tuple[Track, Matches, float]:
    """Return the track, the matches and the seconds that `track_arrays` wrote."""
    facts = json.loads(str(arrays["facts"]))
    height, width = (int(one) for one in arrays["size"])
    track = Track(
        frames=arrays["frames"],
        c2w=arrays["c2w"],
        intrinsics=arrays["intrinsics"],
        motion=facts["motion"],
        metric=facts["metric"],
        left_out=tuple(facts["left_out"]),
    )
    return (
        track,
        Matches((height, width), *(arrays[f"matches_{name}"] for name in _MATCHES)),
        facts["seconds"],
    )

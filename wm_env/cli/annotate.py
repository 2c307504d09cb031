"""`wm-env annotate`: poses for a film, as clips that the rest reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from wm_env.annotation import (
    CameraHeight,
    ClipRow,
    DepthModel,
    DepthWorld,
    KnownDistance,
    PathLength,
    annotate,
)
from wm_env.annotation.scale import ScaleFrom
from wm_env.annotation.store import ROWS
from wm_env.progress import Bar


@dataclass(frozen=True, kw_only=True)
class Annotate:
    """Find the poses of every shot of a film, and write those that are good enough as clips.

    Shots, poses and focal length, scale, filters: docs/clips.md. OUT gets a folder for each accepted clip,
    annotations.jsonl with a row and the reasons for every clip, poses/ and a page for each. The same command
    goes on where it was interrupted. About a second a frame of 384x384 on one core.
    """

    film: Annotated[Path, tyro.conf.Positional]
    """A film, a folder of films, or a folder of pictures."""
    out: Path
    """Folder of the clips; new, empty, or that of the same annotation."""
    backend: Literal["pycolmap", "given"] = "pycolmap"
    """Who finds the poses: pycolmap (extra `annotate`), or the clip's own tool, whose poses are filtered."""
    known_distance: tuple[float, float, float, float, float, float] | None = None
    """FRAME U1 V1 U2 V2 METRES: two pixels of a frame of the film that are so far apart in the place."""
    camera_height: float | None = None
    """Metres between the floor and the camera."""
    path_length: float | None = None
    """Metres that the camera goes in the clip."""
    depth: Path | None = None
    """Folder of a metric depth estimator of transformers, which makes metres."""
    depth_world: Literal["tiny", "tiny-pure"] | None = None
    """The depth network of an embedded world makes metres: for rendered rooms."""
    zoom: bool = False
    """Every frame has a focal length of its own; a clip is written as the longest one saw it."""
    fps: float | None = None
    """Frames per second, where nothing says them."""
    recipe: Path | None = None
    """TOML file of thresholds; what it leaves out is that of wm_env/annotation/recipe.toml."""
    device: str = "cpu"
    """Torch device of the depth estimator."""
    threads: int = 1
    """CPU threads."""
    seed: int = 0
    """Accepted for uniformity; what is drawn is always the same."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace the file of --json if it exists."""

    def run(self) -> dict[str, Any]:
        scale = self._scale()
        torch.set_num_threads(self.threads)
        with Bar(None, "annotating", unit="clip") as bar:
            found = annotate(
                self.film,
                self.out,
                backend=self.backend,
                scale=scale,
                zoom=self.zoom,
                fps=self.fps,
                recipe=self.recipe,
                threads=self.threads,
                progress=bar.to,
            )
        print("\n".join(lines(found.rows)))
        print(f"{found.out / ROWS}: every clip with its reasons; {found.out / 'pages'}: to look at")
        return {"out": str(found.out), "clips": [row.to_json() for row in found.rows]}

    def _scale(self) -> ScaleFrom | None:
        """Return what makes metres, or raise `ValueError` where several things do."""
        given: dict[str, ScaleFrom] = {}
        if self.known_distance is not None:
            frame, u1, v1, u2, v2, metres = self.known_distance
            whole = int(frame) if float(frame).is_integer() else frame
            given["--known-distance"] = KnownDistance(whole, u1, v1, u2, v2, metres)  # type: ignore[arg-type]
        if self.camera_height is not None:
            given["--camera-height"] = CameraHeight(self.camera_height)
        if self.path_length is not None:
            given["--path-length"] = PathLength(self.path_length)
        if self.depth is not None:
            given["--depth"] = DepthModel(self.depth, self.device)
        if self.depth_world is not None:
            given["--depth-world"] = DepthWorld(self.depth_world)
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both make metres; give one of them")
        return next(iter(given.values()), None)


def lines(rows: tuple[ClipRow, ...]) -> list[str]:
    """Return the rows as text: a line a clip, then how many became of each kind."""
    width = max(len(row.clip) for row in rows)
    told = []
    for row in rows:
        unit = "" if row.status != "accepted" else " (metres)" if row.metric else " (up to scale)"
        why = "; ".join([*row.reasons, *row.left_out])
        told.append(f"  {row.clip:<{width}}  {row.status}{unit}{': ' if why else ''}{why}")
    counts = Counter(row.status for row in rows)
    told.append(", ".join(f"{count} {status}" for status, count in counts.items()))
    return told

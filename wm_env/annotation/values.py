"""What goes from one stage of an annotation to the next.

film -> `Shot`, frames -> `Matches` -> `Track` (poses up to scale) -> `Structure` (points) -> `Scale`
     -> measures, reasons -> `ClipRow`, a line of annotations.jsonl

Poses are camera-to-world, x right, y down, z forward; pixels count from the corner of the picture, the centre
of the first pixel is 0.5. Legend: `F` frames of a clip, `n` those with a pose, `M` matches, `K` points, `S`
observations of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Motion = Literal["free", "rotation"]
Status = Literal["accepted", "refused", "rotation only", "too short", "failed"]


class Shot(NamedTuple):
    """A stretch of a film between two cuts.

    clip: its name. film: path of the film as given. first, last: frame numbers of the film, both included.
    kept: numbers of the frames that are looked at. fps: frames per second of those.
    """

    clip: str
    film: str
    first: int
    last: int
    kept: tuple[int, ...]
    fps: float


class Matches(NamedTuple):
    """Features that show the same point, verified by geometry, but not by any pose.

    size: height and width of the frames. features: `(F + 1,)` int64, where the features of a frame begin.
    uv: `(N, 2)` float32 pixels of all features. first, second: `(M,)` int64, numbers of features that match.
    """

    size: tuple[int, int]
    features: np.ndarray
    uv: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def frame_of(self) -> np.ndarray:
        """`(N,)` int64, the frame of every feature."""
        return np.repeat(np.arange(len(self.features) - 1), np.diff(self.features))


class Track(NamedTuple):
    """Poses of frames, of arbitrary unit unless `metric`.

    frames: `(n,)` int64 ascending. c2w: `(n, 4, 4)` float64. intrinsics: `(n, 4)` float64 fx, fy, cx, cy in
    pixels. motion: "rotation" where the camera only turned, or nobody can tell: translations are all zero and
    unknown. left_out: sentences on what was found besides and is not in it.
    """

    frames: np.ndarray
    c2w: np.ndarray
    intrinsics: np.ndarray
    motion: Motion = "free"
    metric: bool = False
    left_out: tuple[str, ...] = ()


class Structure(NamedTuple):
    """Points triangulated from matches with the poses of a track.

    points: `(K, 3)` float64 in the unit of the track. angle_deg: `(K,)` spread of the rays to each. row,
    point: `(S,)` int64, the row of the track and the point of an observation. uv: `(S, 2)` pixels. error:
    `(S,)` pixels between it and where the poses put its point, infinite behind the camera. depth: `(S,)`
    along the view axis, unit of the track; infinite for a point that is far away.
    """

    points: np.ndarray
    angle_deg: np.ndarray
    row: np.ndarray
    point: np.ndarray
    uv: np.ndarray
    error: np.ndarray
    depth: np.ndarray


class Scale(NamedTuple):
    """Metres in a unit of the track: factor, its 95% interval where one is known, and what it is from."""

    factor: float
    low: float | None
    high: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """What became of a clip; a line of annotations.jsonl.

    clip, film, first, last, fps: as of `Shot`. frames: frames looked at. status: "accepted" clips are written
    to OUT/CLIP. reasons: why it is not accepted, one a filter. metric: whether its poses are in metres.
    run: first and last frame, numbers of the film, of the unbroken run that is the clip. left_out: what is
    known besides. measures: by name, see `wm_env.annotation.measures`. scale: see `Scale`. seconds: what the
    poses took. digest: of everything that it was made from.
    """

    clip: str
    film: str
    first: int
    last: int
    fps: float
    frames: int
    status: Status
    reasons: tuple[str, ...] = ()
    metric: bool = False
    run: tuple[int, int] | None = None
    left_out: tuple[str, ...] = ()
    measures: dict[str, float | None] = field(default_factory=dict)
    scale: Scale | None = None
    seconds: float | None = None
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what goes into JSON; numbers that are not finite are null."""
        found = asdict(self)
        found["measures"] = {
            name: value if value is None or math.isfinite(value) else None
            for name, value in self.measures.items()
        }
        found["scale"] = None if self.scale is None else self.scale._asdict()
        return found

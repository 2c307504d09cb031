"""One page a clip: what became of it, frames, its path from above and from the side, errors, focal length."""

from __future__ import annotations

import base64
import html

import numpy as np
from PIL import Image

from wm_env.annotation.drawing import curve, path
from wm_env.annotation.values import ClipRow, Structure, Track
from wm_env.model.png import png_bytes

THUMBNAILS, SIDE = 6, 140
_STYLE = (
    "body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; color: #222 } "
    "table { border-collapse: collapse; font-size: 13px } td { padding: 2px 10px 2px 0 } "
    "img { margin: 0 4px 4px 0 } .status { font-size: 19px; font-weight: 600 }"
)


def clip_page(row: ClipRow, frames: np.ndarray, track: Track | None, structure: Structure | None) -> str:
    """Return a self-contained HTML page.

    frames: uint8 `(F, h, w, 3)` of the whole clip. track, structure: None where nothing was placed; frame
    numbers of the track count the frames here.
    """
    parts = [
        "<!doctype html><meta charset='utf-8'>",
        f"<title>{html.escape(row.clip)}</title><style>{_STYLE}</style><h1>{html.escape(row.clip)}</h1>",
        f"<p class='status'>{html.escape(_status(row))}</p>",
        _listed([*row.reasons, *row.left_out]),
        f"<p>Frames {row.first} to {row.last} of {html.escape(row.film)}, {row.frames} of them at "
        f"{row.fps:g} per second.</p>",
        "<p>" + "".join(_thumbnail(frames[at]) for at in _spread(len(frames), THUMBNAILS)) + "</p>",
    ]
    if track is not None:
        parts += _drawn(track, structure, "m" if row.metric else "units")
    if row.scale is not None:
        known = "" if row.scale.low is None else f", 95% interval {row.scale.low:.4g} to {row.scale.high:.4g}"
        parts.append(
            f"<p>Scale {row.scale.factor:.4g} m a unit, by {html.escape(row.scale.source)}{known}.</p>"
        )
    parts.append(_table(row.measures))
    return "\n".join([*parts, ""])


def _status(row: ClipRow) -> str:
    if row.status == "accepted":
        return "accepted, in metres" if row.metric else "accepted, up to scale: the unit is not known"
    return row.status


def _listed(sentences: list[str]) -> str:
    return (
        "<ul>" + "".join(f"<li>{html.escape(one)}</li>" for one in sentences) + "</ul>" if sentences else ""
    )


def _table(measures: dict[str, float | None]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{'-' if value is None else f'{value:.4g}'}</td></tr>"
        for name, value in measures.items()
    )
    return f"<table>{rows}</table>"


def _spread(count: int, most: int) -> list[int]:
    return [int(at) for at in np.unique(np.linspace(0, count - 1, most).astype(int))]


def _thumbnail(frame: np.ndarray) -> str:
    height, width = frame.shape[:2]
    small = Image.fromarray(frame).resize((SIDE, max(1, round(SIDE * height / width))))
    packed = base64.b64encode(png_bytes(np.asarray(small))).decode()
    return f'<img alt="a frame" src="data:image/png;base64,{packed}">'


def _drawn(track: Track, structure: Structure | None, unit: str) -> list[str]:
    """Return the drawings of a track; up is what is up for its cameras on average."""
    at = track.frames.astype(np.float64)
    parts = []
    if track.motion == "free":
        up = -track.c2w[:, :3, 1].mean(0)
        up /= np.linalg.norm(up)
        forward = track.c2w[0, :3, 2] - up * float(track.c2w[0, :3, 2] @ up)
        forward /= max(float(np.linalg.norm(forward)), 1e-9)
        right = np.cross(forward, up)
        place = track.c2w[:, :3, 3] - track.c2w[0, :3, 3]
        parts.append(path(place @ right, place @ forward, f"path from above, forward is up ({unit})"))
        parts.append(path(place @ forward, place @ up, f"path from the side, forward is right ({unit})"))
    if structure is not None and len(structure.row):
        error = [
            float(np.median(own)) if len(own := structure.error[structure.row == row]) else np.nan
            for row in range(len(track.frames))
        ]
        parts.append(curve(at, np.array(error), "median reprojection error (pixels) by frame"))
    parts.append(curve(at, track.intrinsics[:, 0], "focal length (pixels) by frame"))
    return parts

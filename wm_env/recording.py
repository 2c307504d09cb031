"""From an episode to a video: every pixel frame at the pixel frame rate, and a contact sheet.

    shots      = film(views, policy, steps)      one `Shot` a step, for one or more environments side by side
    record_video(path, shots, ...)                streams them to disk; memory does not grow with the episode

With two environments (a learned world and its twin) both get the same start and the same actions.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wm_env.core import State
from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.model.storage.atomic import atomic_path, check_writable
from wm_env.model.storage.film import film_file

Policy = Callable[[State], str]
"""Which keys to hold for the next step, such as "w" or "wd"; "" is none."""

Player = Callable[[SanaWMEnv], np.ndarray]
"""The next action of a single environment, of that environment's action type."""

DISPLAY_HEIGHT = 256  # small frames are enlarged by a whole factor up to about this
_INK, _PAPER, _GREY, _RED = (240, 240, 240), (16, 16, 20), (96, 96, 104), (230, 70, 60)
_BEACON, _SURE = (235, 190, 60), (90, 190, 110)
_CAPTION, _TRUST = 16, 60  # pixels: height of a caption, width of the bar of trust


class Shot(NamedTuple):
    """One step (or the start) of all environments.

    frames: one uint8 `(n, h, w, 3)` per environment; n is 1 for the start, K for a step. keys: what was held.
    c2w: `(n, 4, 4)` float64 absolute poses of the first environment. reward: of the first environment. trust:
    in its newest frame, None where it says none.
    """

    frames: tuple[np.ndarray, ...]
    keys: str
    c2w: np.ndarray
    reward: float
    trust: float | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How shots are drawn: labels, one per environment, and the overlay (held keys and top-down track)."""

    labels: tuple[str, ...]
    overlay: bool = False


def film(envs: Sequence[SanaWMEnv], policy: Policy, steps: int) -> Iterator[Shot]:
    """Yield the start and then `steps` steps of environments that were reset alike.

    They have `action_type="multikeys"`. The policy sees the first one's state; all get its keys. Stops early
    where the first one's episode ends.
    """
    return film_player(envs, lambda env: pressed(policy(env.state)), steps)


def film_player(envs: Sequence[SanaWMEnv], player: Player, steps: int) -> Iterator[Shot]:
    """Yield the start and then `steps` steps of environments that were reset alike.

    The player plays the first one, of any action type; all get its actions. Stops early where the first one's
    episode ends.
    """
    yield shot(envs, "", 0.0, newest_only=True)
    for _ in range(steps):
        action = player(envs[0])
        results = [env.step(action) for env in envs]
        keys = held(action, envs[0].config.action_type)
        yield shot(envs, keys, float(results[0][1]), newest_only=False)
        if results[0][2]:
            return


def pressed(keys: str) -> np.ndarray:
    """Return held keys as an action of "multikeys", `(8,)` int8."""
    return np.array([key in keys for key in KEYS], np.int8)


def held(action: np.ndarray, action_type: str) -> str:
    """Return the keys that an action holds; "" where it is of a camera."""
    if action_type == "keys":
        return KEYS[int(action) - 1] if action else ""
    if action_type == "multikeys":
        return "".join(key for key, down in zip(KEYS, action, strict=True) if down)
    return ""


def record_video(
    path: str | Path,
    shots: Iterable[Shot],
    layout: Layout,
    fps: int,
    state: State,
    *,
    overwrite: bool = True,
) -> np.ndarray:
    """Write all pixel frames to an mp4 or a looping gif; return frames `(n, E, h, w, 3)` uint8 for a sheet.

    `state` is the first environment's, for the map of the overlay. One frame of each environment E is kept
    per shot. The file appears only when it is complete and reads back; overwrite: False raises
    `FileExistsError` for one that exists.
    """
    kept = []
    track: list[np.ndarray] = []
    with atomic_path(path, overwrite=overwrite) as temporary, _writer(temporary, fps) as append:
        for shot in shots:
            for index, pose in enumerate(shot.c2w):
                track.append(pose)
                views = [frames[index] for frames in shot.frames]
                append(compose(views, layout, shot.keys, track, state, shot.trust))
            kept.append(np.stack([frames[-1] for frames in shot.frames]))
    return np.stack(kept)


def write_frames(path: str | Path, frames: Iterable[np.ndarray], fps: int, *, overwrite: bool = True) -> None:
    """Write pictures uint8 `(H, W, 3)` with even sides to an mp4 or a looping gif, whole or not at all."""
    with atomic_path(path, overwrite=overwrite) as temporary, _writer(temporary, fps) as append:
        for frame in frames:
            append(frame)


def compose(
    views: Sequence[np.ndarray],
    layout: Layout,
    keys: str,
    track: Sequence[np.ndarray],
    state: State | None,
    trust: float | None = None,
) -> np.ndarray:
    """Return one picture uint8 `(H, W, 3)` with even sides: labelled views side by side, and the overlay.

    keys, track, state are drawn by the overlay alone; without a state it has no map. trust in [0, 1]: a bar
    above the first view, None for none.
    """
    height, width = views[0].shape[:2]
    factor = max(1, DISPLAY_HEIGHT // height)
    tall, wide = height * factor, width * factor
    panel = tall if layout.overlay else 0
    canvas = Image.new("RGB", (wide * len(views) + panel, tall + _CAPTION), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (view, label) in enumerate(zip(views, layout.labels, strict=True)):
        picture = Image.fromarray(view).resize((wide, tall), Image.Resampling.NEAREST)
        canvas.paste(picture, (index * wide, _CAPTION))
        draw.text((index * wide + 4, 2), label, _INK, _font())
    if trust is not None:
        _draw_trust(draw, wide, trust)
    if layout.overlay:
        left = wide * len(views)
        if state is not None:
            _draw_map(draw, (left, _CAPTION, left + panel, _CAPTION + panel - 40), track, state)
        _draw_keys(draw, (left + 8, _CAPTION + panel - 34), keys)
    even = canvas.crop((0, 0, canvas.width + canvas.width % 2, canvas.height + canvas.height % 2))
    return np.asarray(even)


def contact_sheet(frames: np.ndarray, labels: Sequence[str], seconds: float, columns: int = 8) -> Image.Image:
    """Return frames `(n, E, h, w, 3)` as a sheet: two bands of `columns` times, one row per environment.

    `seconds` is the time between consecutive frames.
    """
    count = min(len(frames), 2 * columns)
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    height, width = frames.shape[2:4]
    factor = max(1, DISPLAY_HEIGHT // 2 // height)
    tall, wide = height * factor, width * factor
    bands = [chosen[:columns], chosen[columns:]] if len(chosen) > columns else [chosen]
    band_height = _CAPTION + tall * frames.shape[1] + 4
    sheet = Image.new("RGB", (wide * len(bands[0]), band_height * len(bands)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for band, indices in enumerate(bands):
        top = band * band_height
        for column, index in enumerate(indices):
            draw.text((column * wide + 4, top + 2), f"{index * seconds:.2f} s", _INK, _font())
            for row, view in enumerate(frames[index]):
                picture = Image.fromarray(view).resize((wide, tall), Image.Resampling.NEAREST)
                sheet.paste(picture, (column * wide, top + _CAPTION + row * tall))
        for row, label in enumerate(labels):
            draw.text(
                (4, top + _CAPTION + row * tall + 2), label, _INK, _font(), stroke_width=1, stroke_fill=_PAPER
            )
    return sheet


def save_png(path: str | Path, picture: Image.Image, *, overwrite: bool = True) -> None:
    """Write a PNG that appears only when it is complete."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        picture.save(temporary, "PNG")


def shot(envs: Sequence[SanaWMEnv], keys: str, reward: float, newest_only: bool) -> Shot:
    """Return what the environments show now; newest_only: the start, whose chunk repeats one frame."""
    state = envs[0].state
    absolute = (state.start_c2w[:, None] @ state.c2w)[0].numpy()
    trust = None if state.trust is None else float(state.trust.value[0])
    first = -1 if newest_only else 0
    frames = tuple(env.state.frames[0, first:].cpu().numpy().copy() for env in envs)
    return Shot(frames, keys, absolute[first:], reward, trust)


def check_film(path: str | Path, *, overwrite: bool = True) -> None:
    """Raise `ValueError` or `OSError` where a film cannot be written; overwrite: False, also where one is."""
    if Path(path).suffix.lower() not in (".mp4", ".gif"):
        raise ValueError(f"the film {str(path)!r} must end in .mp4 or .gif")
    check_encoder(path)
    check_writable(path, overwrite=overwrite)


def check_encoder(path: str | Path) -> None:
    """Raise `OSError` where videos of this name need a program that is missing; gifs need none."""
    if Path(path).suffix.lower() == ".gif":
        return
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise OSError(
            f"cannot write {str(path)!r}: there is no ffmpeg; pip install 'imageio[ffmpeg]', or write a .gif"
        ) from error


@contextmanager
def _writer(path: Path, fps: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a frame uint8 `(h, w, 3)` to a film, which reads back afterwards."""
    check_encoder(path)
    if path.suffix.lower() != ".gif":
        with film_file(path, fps=fps) as append:
            yield append
        return
    packed = io.BytesIO()  # all of it is in memory until its end anyway
    writer: Any = imageio.get_writer(packed, format="GIF", duration=1000 / fps, loop=0)  # ms, in steps of 10
    with writer:
        yield writer.append_data
    path.write_bytes(packed.getvalue())
    try:
        with Image.open(path) as film:
            for index in range(getattr(film, "n_frames", 1)):
                film.seek(index)
                film.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise OSError(errno.EIO, f"the film is not whole: it does not read back ({error})") from error


def _font() -> Any:
    return ImageFont.load_default(11)


def _draw_trust(draw: ImageDraw.ImageDraw, right: int, trust: float) -> None:
    """Draw trust as a bar in the caption line, up to `right`: full is sure, red below a half."""
    left, top, bottom = right - _TRUST - 4, 4, _CAPTION - 4
    draw.rectangle((left, top, left + _TRUST, bottom), _PAPER, _GREY)
    full = round(trust * (_TRUST - 2))
    if full:
        draw.rectangle((left + 1, top + 1, left + full, bottom - 1), _RED if trust < 0.5 else _SURE)
    draw.text((left - 34, 2), f"{trust:.2f}", _INK, _font())


def _draw_keys(draw: ImageDraw.ImageDraw, corner: tuple[int, int], keys: str) -> None:
    """Draw the eight keys in a row, the held ones filled."""
    x, y = corner
    for index, key in enumerate(KEYS):
        box = (x + index * 24, y, x + index * 24 + 20, y + 20)
        draw.rectangle(box, _INK if key in keys else _PAPER, _GREY)
        draw.text((box[0] + 7, y + 3), key.upper(), _PAPER if key in keys else _GREY, _font())


def _draw_map(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    track: Sequence[np.ndarray],
    state: State,
) -> None:
    """Draw the way walked so far seen from above (x right, z up), over the rooms where there is a scene."""
    left, top, right, bottom = box
    path = np.stack([pose[[0, 2], 3] for pose in track])  # (n, 2)
    rectangles: list[tuple[np.ndarray, np.ndarray, tuple[int, int, int]]] = []
    if bool(state.has_scene[0]):
        scene = state.scene
        rooms, doors, boxes, posts = scene.counts[0].tolist()
        lo, hi = scene.cell_lo[0][:, [0, 2]].numpy(), scene.cell_hi[0][:, [0, 2]].numpy()
        cells = [*range(rooms), *range(3, 3 + doors)]
        rectangles += [(lo[i], hi[i], (60, 60, 68)) for i in cells]
        box_lo, box_hi = scene.box_lo[0][:boxes, [0, 2]].numpy(), scene.box_hi[0][:boxes, [0, 2]].numpy()
        rectangles += [(a, b, _GREY) for a, b in zip(box_lo, box_hi, strict=True)]
        low = np.min([lo[i] for i in cells], axis=0)
        high = np.max([hi[i] for i in cells], axis=0)
    else:
        low, high = path.min(0) - 2.0, path.max(0) + 2.0
    span = float((high - low).max()) + 0.4
    scale = min(right - left, bottom - top) / span
    centre = (low + high) / 2

    def at(point: np.ndarray) -> tuple[float, float]:
        x = (left + right) / 2 + (point[0] - centre[0]) * scale
        return float(x), float((top + bottom) / 2 - (point[1] - centre[1]) * scale)

    for low_corner, high_corner, colour in rectangles:
        (x0, y0), (x1, y1) = at(low_corner), at(high_corner)
        draw.rectangle((x0, y1, x1, y0), colour)
    if bool(state.has_scene[0]):
        for x, z, radius, *_ in state.scene.cylinder[0, 1:posts].tolist():
            (px, py), size = at(np.array([x, z])), radius * scale
            draw.ellipse((px - size, py - size, px + size, py + size), _GREY)
        x, y = at(state.scene.beacon[0, [0, 2]].numpy())
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), _BEACON)
    if len(path) > 1:
        draw.line([at(point) for point in path], _RED, 2)
    heading = track[-1][[0, 2], 2]
    x, y = at(path[-1])
    tip = at(path[-1] + 0.5 * heading)
    draw.line([(x, y), tip], _INK, 2)
    draw.ellipse((x - 3, y - 3, x + 3, y + 3), _INK)

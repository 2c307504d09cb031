"""Films and pictures of other people, decoded by ffmpeg (of imageio) and Pillow."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
from PIL import Image, UnidentifiedImageError

from wm_env.model.pictures import upright_rgb
from wm_env.model.storage.film import Ffmpeg, ffmpeg_name

_VIDEO = re.compile(r"Stream #\d+:\d+.*: Video: (?!.*\(attached pic\))")
# without these ffmpeg's conversion to RGB is a grey level or two too dark
_EXACT = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


class ClipFiles:
    """Decodes what lies on disk; meets `wm_env.model.data.layouts.Pictures`."""

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the frames uint8 `(H, W, 3)` of a video as stored: none doubled or dropped for its clock.

        Raises `ValueError` with ffmpeg's reason where it cannot be read, or not to its end.
        """
        check_film(path)
        strict = ["-xerror", "-err_detect", "explode"]  # damage that it notices is an error, not painted over
        source = ["-i", ffmpeg_name(path), "-map", "0:V:0", "-vf", _EXACT, "-fps_mode", "passthrough"]
        output = ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
        with Ffmpeg([*strict, *source, *output], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as decoder:
            assert decoder.process.stdout is not None
            yield from _ppm_frames(decoder.process.stdout)
            if decoder.wait() != 0:
                raise ValueError(f"{path.name} cannot be decoded: {decoder.words}")

    def rate(self, path: Path) -> float:
        """Return the frames per second of a video by its time stamps; nothing is decoded.

        Raises `ValueError` where they are not even, within half a frame.
        """
        times = sorted(self._framecrc(path, ["-c", "copy"]))
        steps = np.diff(times)
        if not len(steps):
            raise ValueError(f"{path.name} does not say how many frames make a second; give fps=")
        usual = float(np.median(steps))
        if usual <= 0 or steps.min() < 0.5 * usual or steps.max() > 1.5 * usual:
            raise ValueError(
                f"{path.name} has frames {1000 * steps.min():.0f} to {1000 * steps.max():.0f} ms apart; make "
                "their rate constant, or give fps= to take them as even"
            )
        return len(steps) / (times[-1] - times[0])

    def image(self, path: Path) -> np.ndarray:
        """Return a picture as uint8 `(H, W, 3)`; raise `ValueError` where it cannot be read."""
        try:
            with Image.open(path) as opened:
                return np.asarray(upright_rgb(opened))
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path.name} is not a picture that can be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error

    def times(self, path: Path) -> list[float]:
        """Return the time in seconds of every frame of a video, in order; decodes all of it."""
        return sorted(self._framecrc(path, []))

    def _framecrc(self, path: Path, options: list[str]) -> list[float]:
        """Return the presentation times of frames, or of packets with `-c copy`."""
        source = ["-i", ffmpeg_name(path), "-map", "0:V:0", "-fps_mode", "passthrough", *options]
        found, base = [], Fraction(1)
        with Ffmpeg(
            [*source, "-f", "framecrc", "-"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as reader:
            assert reader.process.stdout is not None
            for line in reader.process.stdout:
                words = line.decode().replace(",", " ").split()
                if words[:2] == ["#tb", "0:"]:
                    base = Fraction(words[2])
                elif words and not words[0].startswith("#"):
                    found.append(float(int(words[2]) * base))
            if reader.wait() != 0:
                raise ValueError(f"{path.name} is not a video that can be read: {reader.words}")
        if not found:
            raise ValueError(f"{path.name} holds no frames")
        return found


def check_film(path: Path) -> None:
    """Raise `ValueError` for a film whose frames are no pictures of one moment in 8-bit colours.

    Interlaced frames show two moments, HDR ones (PQ, HLG) need a choice of brightness, an alpha channel may
    hide something.
    """
    said = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", ffmpeg_name(path)],
        capture_output=True,
    ).stderr.decode(errors="replace")
    stream = next((line for line in said.splitlines() if _VIDEO.search(line)), "")
    order = re.search(r"top (first|coded)|bottom (first|coded)", stream)
    if order is not None:
        raise ValueError(f"{path.name} is interlaced ({order[0]}); deinterlace it first")
    transfer = re.search(r"smpte2084|arib-std-b67", stream)
    if transfer is not None:
        raise ValueError(f"{path.name} is an HDR film ({transfer[0]}); convert it to 8-bit BT.709 first")
    alpha = re.search(r"[ ,](yuva\w*|rgba\w*|argb|bgra|abgr|gbrap\w*|ya\d+\w*|pal8)[ (,]", stream)
    if re.search(r"alpha_mode *: 1", said) or (alpha is not None and _hides_something(path)):
        raise ValueError(f"{path.name} has an alpha channel; flatten it onto a background first")


def _hides_something(path: Path) -> bool:
    """Return whether the alpha channel of a film is anywhere below 255."""
    source = ["-i", ffmpeg_name(path), "-map", "0:V:0", "-vf", "format=rgba,alphaextract"]
    options = [*source, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    with Ffmpeg(options, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as decoder:
        assert decoder.process.stdout is not None
        while block := decoder.process.stdout.read(2**20):
            if min(block) < 255:
                return True
    return False


def _ppm_frames(stream: IO[bytes]) -> Iterator[np.ndarray]:
    """Yield the pictures uint8 `(H, W, 3)` of a stream of PPM files; a cut-off last one is dropped."""
    while stream.readline().strip() == b"P6":
        width, height = (int(word) for word in stream.readline().split())
        stream.readline()  # 255
        data = stream.read(3 * width * height)
        if len(data) < 3 * width * height:
            return
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)

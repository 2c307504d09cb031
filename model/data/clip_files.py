"""Films and pictures of other people, decoded by ffmpeg (of imageio) and Pillow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
from PIL import Image, UnidentifiedImageError

from wm_env.model.storage.film import Ffmpeg, ffmpeg_name

# without these ffmpeg's conversion to RGB is a grey level or two too dark
_EXACT = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


class ClipFiles:
    """Decodes what lies on disk; meets `wm_env.model.data.layouts.Pictures`."""

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the frames uint8 `(H, W, 3)` of a video as stored: none doubled or dropped for its clock.

        Raises `ValueError` with ffmpeg's reason where it cannot be read, or not to its end.
        """
        strict = ["-xerror", "-err_detect", "explode"]  # damage that it notices is an error, not painted over
        source = ["-i", ffmpeg_name(path), "-map", "0:v:0", "-vf", _EXACT, "-fps_mode", "passthrough"]
        output = ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
        with Ffmpeg([*strict, *source, *output], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as decoder:
            assert decoder.process.stdout is not None
            yield from _ppm_frames(decoder.process.stdout)
            if decoder.wait() != 0:
                raise ValueError(f"{path.name} cannot be decoded: {decoder.words}")

    def length(self, path: Path) -> tuple[int, float]:
        """Return the number of frames of a video and their rate per second, counted: reads all of it."""
        try:
            count, seconds = imageio_ffmpeg.count_frames_and_secs(str(path.absolute()))
        except RuntimeError as error:
            raise ValueError(f"{path.name} is not a video that can be read") from error
        if count < 1 or seconds <= 0:
            raise ValueError(f"{path.name} holds no frames")
        return count, count / seconds

    def rate(self, path: Path) -> float:
        """Return the frames per second of a video as its header says."""
        reader = imageio_ffmpeg.read_frames(str(path.absolute()))
        try:
            rate = float(next(reader)["fps"])
        except (RuntimeError, OSError, KeyError, StopIteration) as error:
            raise ValueError(f"{path.name} is not a video that can be read") from error
        finally:
            reader.close()
        if rate <= 0:
            raise ValueError(f"{path.name} does not say how many frames make a second; give fps=")
        return rate

    def image(self, path: Path) -> np.ndarray:
        """Return a picture as uint8 `(H, W, 3)`; raise `ValueError` where it cannot be read."""
        try:
            with Image.open(path) as opened:
                return np.asarray(opened.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path.name} is not a picture that can be read: {error}") from error


def _ppm_frames(stream: IO[bytes]) -> Iterator[np.ndarray]:
    """Yield the pictures uint8 `(H, W, 3)` of a stream of PPM files; a cut-off last one is dropped."""
    while stream.readline().strip() == b"P6":
        width, height = (int(word) for word in stream.readline().split())
        stream.readline()  # 255
        data = stream.read(3 * width * height)
        if len(data) < 3 * width * height:
            return
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)

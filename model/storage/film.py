"""Films: frames go to ffmpeg; one counts as written when ffmpeg ended well and every frame reads back.

Colours are those of BT.709 in limited range, and the file says so.
"""

from __future__ import annotations

import errno
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from wm_env.model.interrupts import held_back

_MATRIX = "scale=out_color_matrix=bt709:out_range=limited:flags=bicubic+accurate_rnd+full_chroma_int"
_SAID = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=limited"
_COLOURS = ("-vf", f"{_MATRIX},{_SAID}", "-colorspace", "bt709", "-color_range", "tv")


class Ffmpeg:
    """An ffmpeg process that never outlives its `with` block; `words` is the last line of what it said."""

    def __init__(self, options: Sequence[str], *, stdin: int, stdout: int) -> None:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostats", *options]
        with held_back():  # an interrupt here would leave a process that nobody knows
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, process_group=0
            )
            self.words = "no reason was given"
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            words = re.sub(r"^\[[^]]*\] ", "", line.decode(errors="replace").strip())
            if words:
                self.words = words

    def wait(self) -> int:
        """Return the exit status, when all that it said is here."""
        status = self.process.wait()
        self._listener.join()
        return status

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, *_: object) -> None:
        with held_back():
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            self._listener.join()
            assert self.process.stderr is not None
            self.process.stderr.close()


@contextmanager
def film_file(path: Path, *, fps: float, crf: int = 10) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a frame uint8 `(h, w, 3)`, even sides, to a new H.264 film at `path`.

    crf: 0 loses nothing but colour resolution, 51 nearly everything. Raises `OSError` where the film cannot
    be written or does not read back, `ValueError` for frames that are none or of different sizes.
    """
    encoder: Ffmpeg | None = None
    shape: tuple[int, ...] = ()
    count = 0

    def append(frame: np.ndarray) -> None:
        nonlocal encoder, shape, count
        if encoder is None:
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] % 2 or frame.shape[1] % 2:
                raise ValueError(f"a film's frames are (h, w, 3) with even sides, not {frame.shape}")
            shape = frame.shape
            with held_back():  # an interrupt comes when the encoder has its name, and so its end
                encoder = _encoder(path, shape, fps, crf)
        if frame.dtype != np.uint8 or frame.shape != shape:
            raise ValueError(f"frame {count} is {frame.dtype} {frame.shape}; expected uint8 {shape}")
        assert encoder.process.stdin is not None
        try:
            encoder.process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            encoder.wait()
            raise _failed(encoder.words) from error
        count += 1

    try:
        yield append
        if encoder is None:
            raise ValueError("a film needs at least one frame")
        assert encoder.process.stdin is not None
        with suppress(OSError):  # its status says more
            encoder.process.stdin.close()
        if encoder.wait() != 0:
            raise _failed(encoder.words)
    finally:
        if encoder is not None:
            encoder.__exit__()
    found = count_frames(path)
    if found != count:
        raise _failed(f"{found} of its {count} frames read back")


def count_frames(path: Path) -> int:
    """Return how many frames of a film can be decoded; raise `OSError` where it ends in damage."""
    strict = ["-xerror", "-err_detect", "explode"]
    source = ["-i", ffmpeg_name(path), "-map", "0:v:0", "-fps_mode", "passthrough"]
    options = [*strict, *source, "-f", "null", "-progress", "pipe:1", "-"]
    with Ffmpeg(options, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as decoder:
        assert decoder.process.stdout is not None
        counts = [line.partition(b"=")[2] for line in decoder.process.stdout if line.startswith(b"frame=")]
        if decoder.wait() != 0:
            raise _failed(f"it does not read back: {decoder.words}")
    return int(counts[-1]) if counts else 0


def _failed(reason: str) -> OSError:
    return OSError(errno.EIO, f"the film is not whole: {reason}")


def ffmpeg_name(path: Path) -> str:
    """Return a path as ffmpeg takes it for nothing but a file, whatever characters it has."""
    return f"file:{path}"


def _encoder(path: Path, shape: tuple[int, ...], fps: float, crf: int) -> Ffmpeg:
    rate = str(Fraction(fps).limit_denominator(1_000_000))
    size = f"{shape[1]}x{shape[0]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "pipe:0", "-an"]
    coding = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(crf), *_COLOURS]
    options = ["-y", *source, *coding, ffmpeg_name(path)]
    return Ffmpeg(options, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

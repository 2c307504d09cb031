"""PNG files without an image library, for machines that have none."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from wm_env.model.storage.atomic import write_atomic


def png_bytes(image: np.ndarray) -> bytes:
    """Return the PNG of an image uint8 `(h, w, 3)`: RGB, 8 bits, no filter (PNG specification, W3C)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 (h, w, 3), not {image.dtype} {image.shape}")
    height, width = image.shape[:2]

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + piece(b"IHDR", header)
        + piece(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + piece(b"IEND", b"")
    )


def write_png(path: Path, image: np.ndarray, scale: int = 1) -> None:
    """Write an image uint8 `(h, w, 3)`, every pixel `scale` times as wide and high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, png_bytes(image.repeat(scale, 0).repeat(scale, 1)))

"""Arrays of a `.npz` file, read whole; whatever is wrong with the file is one `ValueError`."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

ARRAY_DAMAGE = (
    ValueError,  # a header that is none, and objects, which are pickles and never read
    EOFError,
    KeyError,
    OSError,
    MemoryError,  # a header that claims more than there is
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # an encrypted entry
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path, source: str | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a `.npz` file by name; source: what messages call it, default its path.

    Raises `ValueError` for a file that is none, is damaged, or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it is no .npz file")
            return {name: arrays[name] for name in arrays.files}
    except ARRAY_DAMAGE as error:
        name = repr(str(path)) if source is None else source
        raise ValueError(
            f"{name} cannot be read, it is corrupted: {error or type(error).__name__}"
        ) from error

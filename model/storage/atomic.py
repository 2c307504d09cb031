"""The one way to write: refused early where the path cannot be written, and never half-written.

A file or folder is made under a temporary name beside its place and renamed when it is complete.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_writable(path: str | Path) -> Path:
    """Return `path`, or raise `OSError` saying why a file cannot be created there; leaves nothing behind."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {str(target)!r}: it is a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist"
        )
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".wm_env-"):
            pass
    except OSError as error:
        raise OSError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
    return target


def check_folder(path: str | Path) -> Path:
    """Return `path`, or raise `OSError` saying why it is no folder that files can be written to.

    It need not exist yet; nothing is made or left behind.
    """
    target = Path(path)
    there = target.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"cannot write into {str(target)!r}: {str(there)!r} is not a folder")
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".wm_env-"):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {str(target)!r}: {error.strerror or error}") from error
    return target


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` (new or empty) on success and vanishes on failure."""
    target = check_folder(path)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{str(target)!r} is not empty; give another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success and vanishes on failure."""
    target = check_writable(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old file or the whole new one, also after a kill."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(folder: Path, name: str = r".+") -> None:
    """Remove what killed writers left in `folder`: temporaries of the files and folders called `name`.

    name: a regular expression for names without their suffix. Nothing else may be writing them.
    """
    temporary = re.compile(rf"\.({name})-[a-z0-9_]{{8}}(\.\w+)?")  # as `tempfile` calls them
    for path in folder.iterdir() if folder.is_dir() else ():
        if temporary.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""The one way to write: refused early where the path cannot be written, and never half-written.

A file or folder is made under a temporary name beside its place and renamed when it is complete. Its writer
holds a lock on it, so that what a killed writer left is told from what another one is writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

_NAME_MAX = 255  # bytes of a file's name
_TRIAL = "wm_env"  # in the name of what is made to see whether anything can be
_FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
)  # of a write that has no file's name


def expanded(path: str | Path) -> Path:
    """Return a path with `~` as the home folder; raise `FileNotFoundError` where there is none."""
    text = os.fspath(path)
    if text != "~" and not text.startswith("~/"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{text!r}: there is no home folder; set HOME, or write the path out"
        ) from error


def same_file(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths are one file, whatever links and `..` lead there, also before it exists."""
    a, b = expanded(one), expanded(other)
    if a.exists() and b.exists():
        return a.samefile(b)
    return os.path.realpath(a) == os.path.realpath(b)


def check_writable(path: str | Path, *, overwrite: bool = True) -> Path:
    """Return `path`, or raise `OSError` saying why a file cannot be created there; leaves nothing behind.

    overwrite: False refuses what exists.
    """
    target = _short_enough(expanded(path))
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {str(target)!r}: it is a folder")
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {str(target)!r}: it is no ordinary file")
    if target.exists() and not target.stat().st_mode & 0o222:
        raise PermissionError(f"cannot write {str(target)!r}: it is read-only")
    if not overwrite:
        _refuse_existing(target)
    parent = Path(os.path.realpath(target)).parent
    if not parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(target)!r}: the folder {str(parent)!r} does not exist")
    try:
        trial, handle = _new_file(parent, _TRIAL, "")
        os.close(handle)
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
    return target


def check_folder(path: str | Path) -> Path:
    """Return `path`, or raise `OSError` saying why it is no folder that files can be written to.

    It need not exist yet; nothing is made or left behind.
    """
    target = _short_enough(expanded(path))
    there = target.absolute()
    while not there.exists():
        if there.is_symlink():
            raise FileNotFoundError(f"cannot write into {str(target)!r}: {str(there)!r} is a link to nothing")
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"cannot write into {str(target)!r}: {str(there)!r} is not a folder")
    try:
        trial, handle = _new_folder(there, _TRIAL)
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            trial.rmdir()
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
    place = Path(os.path.realpath(target))
    stem = _short(place.name, "")
    remove_leftovers(place.parent, re.escape(stem))
    temporary, handle = _new_folder(place.parent, stem)
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        temporary.chmod(mode | stat.S_IRWXU)
        try:
            yield temporary
            temporary.chmod(mode)
            os.rename(temporary, place)  # fails where another writer was faster
        except OSError as error:
            _name_target(error, temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


@contextmanager
def scratch_folder(parent: str | Path, name: str) -> Iterator[Path]:
    """Yield a new hidden folder in `parent` that vanishes at the end; what killed processes left goes too."""
    home = check_folder(parent)
    home.mkdir(parents=True, exist_ok=True)
    remove_leftovers(home, re.escape(name))
    temporary, handle = _new_folder(home, name)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success and vanishes on failure.

    A link stays one and the file it leads to is written; a file that is replaced hands its permissions on.
    overwrite: False raises `FileExistsError` for what exists, also where it appears in the meantime.
    """
    target = check_writable(path, overwrite=overwrite)
    place = Path(os.path.realpath(target))
    stem = _short(place.stem, place.suffix)
    remove_leftovers(place.parent, re.escape(stem))
    temporary, handle = _new_file(place.parent, stem, place.suffix)
    try:
        mode = stat.S_IMODE((place if place.exists() else temporary).stat().st_mode)
        temporary.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
        try:
            yield temporary
            _to_disk(temporary)
            temporary.chmod(mode)
            if overwrite:
                os.replace(temporary, place)
            else:
                _move_new(temporary, place)
        except OSError as error:
            _name_target(error, temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        os.close(handle)


def write_atomic(path: str | Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write `data` so that a reader sees the old file or the whole new one, also after a kill."""
    with atomic_path(path, overwrite=overwrite) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_text(path: str | Path, text: str, *, overwrite: bool = True) -> None:
    """Write a text in UTF-8, with line ends as they are, as `write_atomic` does."""
    write_atomic(path, text.encode("utf-8"), overwrite=overwrite)


def remove_leftovers(folder: Path, name: str = r".+") -> None:
    """Remove what killed writers left in `folder`: temporaries of the files and folders called `name`.

    name: a regular expression for names without their suffix. What a living process writes stays, and so do
    hidden files of others: the names of ours end in eight hexadecimal digits.
    """
    temporary = re.compile(rf"\.({name}|{_TRIAL})-[0-9a-f]{{8}}(\.\w+)?", re.DOTALL)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for entry in os.scandir(folder):
            if temporary.fullmatch(entry.name):
                _remove_if_abandoned(entry)


def numbered(folder: Path, prefix: str, suffix: str, digits: int = 3) -> Path:
    """Return `folder/PREFIX-NUMBER SUFFIX` with a number above all that are there: none comes twice."""
    pattern = re.compile(rf"{re.escape(prefix)}-(\d+){re.escape(suffix)}")
    found = (pattern.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ()))
    taken = [int(match[1]) for match in found if match]
    return folder / f"{prefix}-{max(taken, default=-1) + 1:0{digits}d}{suffix}"


def _short_enough(target: Path) -> Path:
    longest = max((len(os.fsencode(part)) for part in target.parts), default=0)
    if longest > _NAME_MAX:
        raise OSError(
            f"cannot write '{str(target)[:60]}...': a name has {longest} bytes, at most {_NAME_MAX} fit"
        )
    return target


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(f"{str(target)!r} exists; give another name, or --overwrite to replace it")


def _move_new(temporary: Path, place: Path) -> None:
    """Give a file its name where nothing has it."""
    try:
        os.link(temporary, place)
    except FileExistsError:
        _refuse_existing(place)
    except OSError:  # a file system without hard links
        _refuse_existing(place)
        os.rename(temporary, place)


def _short(stem: str, suffix: str) -> str:
    """Return a stem that leaves room for the other parts of a temporary name."""
    room = _NAME_MAX - len(os.fsencode(suffix)) - len(".-12345678")
    return os.fsencode(stem)[:room].decode(errors="ignore") if len(os.fsencode(stem)) > room else stem


def _new_file(folder: Path, stem: str, suffix: str) -> tuple[Path, int]:
    """Return a new file under a temporary name, and the handle that keeps its lock until it is closed."""
    while True:
        path = folder / f".{stem}-{secrets.token_hex(4)}{suffix}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _lock(handle, path):
            return path, handle


def _new_folder(folder: Path, stem: str) -> tuple[Path, int]:
    """Return a new folder under a temporary name, as `_new_file`."""
    while True:
        path = folder / f".{stem}-{secrets.token_hex(4)}"
        path.mkdir()
        handle = os.open(path, os.O_RDONLY)
        if _lock(handle, path):
            return path, handle


def _lock(handle: int, path: Path) -> bool:
    """Lock what was just made while this process lives; False where it was swept away before that."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is ever swept
            fcntl.flock(handle, fcntl.LOCK_EX)
    if path.exists():
        return True
    os.close(handle)
    return False


def _remove_if_abandoned(entry: os.DirEntry[str]) -> None:
    """Remove a temporary unless a living process holds its lock."""
    try:
        handle = os.open(entry.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
    except OSError:
        return  # it is being written
    finally:
        os.close(handle)


def _to_disk(path: Path) -> None:
    """Return when the bytes of a file are on the disk; a disk that is full says so here at the latest."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _name_target(error: OSError, temporary: Path, target: Path) -> NoReturn:
    """Raise an error of the system again, with the name that the caller knows."""
    ours = error.filename is not None and str(temporary) in str(error.filename)
    nameless = error.filename is None and error.errno in _FULL
    if not (ours or nameless):
        raise error
    kind = OSError if type(error) is OSError else type(error)
    raise kind(f"cannot write {str(target)!r}: {error.strerror or error}") from error

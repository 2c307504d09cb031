"""Written means written: nothing lost, nothing half-written, nothing replaced that was not meant to be."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from wm_env.model.storage.atomic import (
    atomic_folder,
    atomic_path,
    check_folder,
    check_writable,
    expanded,
    numbered,
    remove_leftovers,
    same_file,
    write_atomic,
)

NAMES = [
    "plain.json",
    "with space.json",
    "-dash.json",
    "a:b.json",
    "per%03dcent.json",
    "line\nbreak.json",
    "quote'\".json",
    "käse.json",
    "*.json",
    ".hidden",
    "n" * 255,
    "é" * 125 + ".json",
    os.fsdecode(b"bytes\xff\xfe.json"),
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_that_the_disk_takes_is_written_and_replaced(tmp_path: Path, name: str) -> None:
    for data in (b"one", b"two"):
        write_atomic(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data
        assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("old", [None, b"what was there"])
def test_a_disk_that_is_full_at_any_byte_loses_nothing(
    tmp_path: Path, disk_with: Any, old: bytes | None
) -> None:
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    data = bytes(range(200))
    for size in (0, 1, 100, 199):
        with disk_with(size), pytest.raises(OSError, match=r"cannot write '.*a\.bin': File too large"):
            write_atomic(path, data)
        assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["a.bin"])
        assert old is None or path.read_bytes() == old
    with disk_with(200):
        write_atomic(path, data)
    assert path.read_bytes() == data


def test_a_failed_folder_vanishes_and_one_that_is_there_stays(tmp_path: Path, disk_with: Any) -> None:
    with (
        disk_with(10),
        pytest.raises(OSError, match=r"cannot write '.*out'"),
        atomic_folder(tmp_path / "out") as folder,
    ):
        (folder / "a").write_bytes(b"x" * 11)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(tmp_path / "out"):
        pass
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_of_two_writers_of_a_folder_one_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"cannot write '.*out': Directory not empty"),
        atomic_folder(tmp_path / "out") as first,
    ):
        (first / "a").write_text("first")
        with atomic_folder(tmp_path / "out") as second:
            (second / "a").write_text("second")
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out" / "a").read_text() == "second"


def test_without_overwrite_one_of_many_writers_wins_and_the_others_are_told(tmp_path: Path) -> None:
    path, told = tmp_path / "a", []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            write_atomic(path, b"%d" % number * 1000, overwrite=False)
        except FileExistsError as error:
            told.append(str(error))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(told) == 7 and all("exists; give another name" in text for text in told)
    assert len(set(path.read_bytes())) == 1 and os.listdir(tmp_path) == ["a"]


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "far" / "real.json")
    for data in (b"one", b"two"):
        write_atomic(link, data)
        assert link.is_symlink() and (tmp_path / "far" / "real.json").read_bytes() == data
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_atomic(dangling, b"")
    with pytest.raises(FileExistsError, match="exists"):
        check_writable(dangling, overwrite=False)


def test_what_is_no_ordinary_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no ordinary file"):
        write_atomic(tmp_path / "pipe", b"")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "kept").chmod(0o444)
    with pytest.raises(PermissionError, match="read-only"):
        write_atomic(tmp_path / "kept", b"")
    assert (tmp_path / "kept").read_text() == "mine"
    with pytest.raises(OSError, match="has 256 bytes, at most 255 fit"):
        write_atomic(tmp_path / ("n" * 256), b"")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_permissions_are_those_of_the_umask_or_of_the_file_before(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "new", b"")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "a").touch()
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        write_atomic(tmp_path / "old", b"x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "folder", "old")}
    assert modes == {"new": 0o666 & ~mask, "folder": 0o777 & ~mask, "old": 0o640}


KILLED = """
import os, signal, sys
from wm_env.model.storage.atomic import atomic_folder, atomic_path
with atomic_path("a.bin") as path, atomic_folder("b") as folder:
    path.write_bytes(b"half"); (folder / "x").write_bytes(b"half")
    print("there", flush=True); signal.pause()
"""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "there\n"
    temporaries = sorted(os.listdir(tmp_path))
    assert [re.sub(r"[0-9a-f]{8}", "#", name) for name in temporaries] == [".a-#.bin", ".b-#"]
    remove_leftovers(tmp_path)
    write_atomic(tmp_path / "a.bin", b"another")
    assert sorted(os.listdir(tmp_path)) == sorted([*temporaries, "a.bin"])
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    write_atomic(tmp_path / "a.bin", b"again")
    with atomic_folder(tmp_path / "b"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "b"]


def test_files_that_only_look_like_leftovers_of_others_stay(tmp_path: Path) -> None:
    for name in (".b-12345678.bin", ".a-1234567.bin", "a-12345678.bin", ".a-12345678.b.c"):
        (tmp_path / name).touch()
    before = sorted(os.listdir(tmp_path))
    write_atomic(tmp_path / "a.bin", b"")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "a.bin"])


def test_numbers_go_on_after_the_highest_whatever_was_deleted(tmp_path: Path) -> None:
    assert numbered(tmp_path / "new", "play", ".mp4").name == "play-000.mp4"
    for name in ("play-000.mp4", "play-007.mp4", "play-x.mp4", "play-009.gif", "._play-100.mp4"):
        (tmp_path / name).touch()
    assert numbered(tmp_path, "play", ".mp4").name == "play-008.mp4"
    (tmp_path / "play-1234.mp4").touch()
    (tmp_path / "play-000.mp4").unlink()
    assert numbered(tmp_path, "play", ".mp4").name == "play-1235.mp4"


def test_a_file_is_itself_by_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").touch()
    os.link(tmp_path / "a.png", tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to("a.png")
    for other in ("a.png", "./a.png", "sub/../a.png", str(tmp_path / "a.png"), "hard.png", "soft.png"):
        assert same_file("a.png", other)
    (tmp_path / "door").symlink_to("sub")
    assert same_file("sub/new.png", "door/new.png") and not same_file("sub/new.png", "new.png")


def test_the_home_folder_is_written_as_a_wave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_atomic("~/a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x" and check_folder("~/new/sub") == tmp_path / "new/sub"
    assert expanded("~strange name") == Path("~strange name")  # nobody's home
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(FileNotFoundError, match="no home folder; set HOME"):
        check_writable("~/a")


def test_an_error_of_something_else_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), atomic_path(tmp_path / "a"):
        (tmp_path / "other").read_bytes()
    assert not list(tmp_path.iterdir())

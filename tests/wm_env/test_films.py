"""A film counts as written when ffmpeg ended well and all of it reads back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wm_env.cli import BAD_INPUT, main
from wm_env.env import SanaWMEnv
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.storage.film import count_frames, film_file
from wm_env.play.session import PlaySettings, Session
from wm_env.recording import Layout, Shot, film, record_video


@pytest.fixture(scope="module")
def env() -> SanaWMEnv:
    return SanaWMEnv(world="twin", action_type="multikeys")


def shots(env: SanaWMEnv, steps: int = 6) -> Iterator[Shot]:
    env.reset(seed=0)
    return film([env], lambda state: "w", steps)


def write(env: SanaWMEnv, path: Path, **options: Any) -> None:
    some = shots(env)
    record_video(path, some, Layout(labels=("twin",)), 16, env.state, **options)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_disk_that_is_full_at_any_byte_leaves_the_old_film(
    env: SanaWMEnv, tmp_path: Path, disk_with: Any, suffix: str
) -> None:
    path = tmp_path / f"walk{suffix}"
    write(env, path)
    old = path.read_bytes()
    for size in (0, 100, len(old) // 2, len(old) - 1):
        with disk_with(size), pytest.raises(OSError, match=r"cannot write '.*walk"):
            write(env, path)
        assert path.read_bytes() == old and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "-y.mp4", "100%d.mp4", "sp ace'\n.mp4", os.fsdecode(b"\xff.mp4")]
)
def test_a_film_of_any_name_is_written_and_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = np.full((3, 32, 48, 3), 100, np.uint8)
    with film_file(Path(name), fps=16) as append:
        for frame in frames:
            append(frame)
    seen = np.stack(list(ClipFiles().frames(Path(name))))
    assert seen.shape == frames.shape and np.abs(seen.astype(int) - 100).max() <= 1
    assert ClipFiles().times(Path(name)) == [0, 1 / 16, 2 / 16] and ClipFiles().rate(Path(name)) == 16


def test_colours_come_back_as_they_were(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    frame = colours.repeat(16, 0).repeat(16, 1)
    with film_file(tmp_path / "a.mp4", fps=16, crf=0) as append:
        for _ in range(3):
            append(frame)
    seen = np.stack(list(ClipFiles().frames(tmp_path / "a.mp4")))
    centres = seen[:, 8::16, 8::16].astype(int) - colours
    assert np.abs(centres).max() <= 3 and np.abs(centres.mean(axis=(0, 1, 2))).max() < 0.25  # 8-bit YCbCr


def test_an_encoder_that_is_killed_is_an_error_and_leaves_nothing(
    env: SanaWMEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def watched(*args: Any, **options: Any) -> Any:
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr("wm_env.model.storage.film.subprocess.Popen", watched)

    def killing() -> Iterator[Shot]:
        for number, shot in enumerate(shots(env)):
            if number == 3:
                started[0].kill()
            yield shot

    with pytest.raises(OSError, match="film is not whole"):
        record_video(tmp_path / "a.mp4", killing(), Layout(labels=("x",)), 16, env.state)
    assert not list(tmp_path.iterdir())


def test_frames_that_make_no_film_are_refused(tmp_path: Path) -> None:
    def written(*frames: np.ndarray) -> None:
        with film_file(tmp_path / "a.mp4", fps=16) as append:
            for frame in frames:
                append(frame)

    with pytest.raises(ValueError, match="at least one frame"):
        written()
    with pytest.raises(ValueError, match="even sides"):
        written(np.zeros((31, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"frame 1 is uint8 \(16, 16, 3\)"):
        written(np.zeros((32, 32, 3), np.uint8), np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "b.mp4").write_bytes(b"no film")
    with pytest.raises(OSError, match="does not read back"):
        count_frames(tmp_path / "b.mp4")


STOPPED = """
import sys, time
import numpy as np
from wm_env.model.interrupts import terminated_like_interrupted
from wm_env.model.storage.atomic import atomic_path
from wm_env.model.storage.film import film_file
with terminated_like_interrupted(), atomic_path("a.mp4") as path, film_file(path, fps=16) as append:
    print("there", flush=True)
    for _ in range(10_000):
        append(np.random.randint(0, 256, (256, 256, 3), np.uint8))
"""


AS_IT_STARTS = (
    """
import os, signal, subprocess
from wm_env.model.storage import film
started = subprocess.Popen
def popen(*args, **kwargs):
    process = started(*args, **kwargs)
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    return process
film.subprocess.Popen = popen
"""
    + STOPPED
)


def test_a_signal_as_the_encoder_starts_ends_it_too(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AS_IT_STARTS], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    encoder = int(said.split()[1])  # after "there"
    with pytest.raises(ProcessLookupError):
        os.kill(encoder, 0)
    assert not list(tmp_path.iterdir())


def test_a_signal_at_any_moment_of_a_film_leaves_no_file_and_no_process(tmp_path: Path) -> None:
    for wait in (0.0, 0.02, 0.1):
        process = subprocess.Popen(
            [sys.executable, "-c", STOPPED], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        time.sleep(wait)
        process.send_signal(signal.SIGTERM)
        assert process.wait() != 0
        process.stdout.close()
        assert not list(tmp_path.iterdir())


def test_play_numbers_its_films_past_those_that_are_there(tmp_path: Path) -> None:
    settings = PlaySettings(environment={"world": "twin"}, compare=False, out=tmp_path)
    for name in ("play-000.mp4", "play-004.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    session = Session(settings)
    for _ in range(2):
        session.handle({"do": "record"})
        session.advance()
        session.handle({"do": "record"})
    found = {path.name: count_frames(path) for path in tmp_path.iterdir() if path.stat().st_size > 100}
    assert found == {"play-005.mp4": 5, "play-006.mp4": 5}
    assert (tmp_path / "play-000.mp4").read_bytes() == b"play-000.mp4"


def record(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["record", "--world", "twin", "--steps", "1", *words])
    return int(ended.value.code or 0)


def test_nothing_is_replaced_unless_it_is_said(tmp_path: Path, capsys: Any) -> None:
    for name in ("a.mp4", "b.png", "c.json"):
        (tmp_path / name).write_text("mine")
    tries = [["--out", "a.mp4"], ["--out", "b.mp4"], ["--out", "new.mp4", "--json", "c.json"]]
    for words in tries:
        full = [word if word.startswith("-") else str(tmp_path / word) for word in words]
        assert record(*full) == BAD_INPUT
        said = capsys.readouterr().err.strip()
        assert "exists" in said and "--overwrite" in said and "\n" not in said
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.png", "c.json"]
    assert {(tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {"mine"}
    everything = ["--out", str(tmp_path / "a.mp4"), "--json", str(tmp_path / "c.json"), "--overwrite"]
    assert record(*everything) == 0
    assert count_frames(tmp_path / "a.mp4") == 5 and "mine" not in (tmp_path / "c.json").read_text()


def test_what_is_read_is_never_replaced_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "dir").mkdir()
    monkeypatch.chdir(tmp_path / "dir")
    Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save("kitchen.png")
    picture = Path("kitchen.png").read_bytes()
    Path("link.png").symlink_to("kitchen.png")
    os.link("kitchen.png", "hard.png")
    tries = [
        ("../dir/kitchen.png", "kitchen.mp4"),
        ("link.png", "kitchen.mp4"),
        ("kitchen.png", "link.mp4"),
        ("kitchen.png", "hard.mp4"),
        (str(tmp_path / "dir" / "kitchen.png"), "../dir/kitchen.gif"),
    ]
    for image, out in tries:
        assert record("--world", "tiny-pure", "--image", image, "--out", out, "--overwrite") == BAD_INPUT
        assert "would replace --image" in capsys.readouterr().err
    assert record("--out", "new.mp4", "--json", "../dir/new.png", "--overwrite") == BAD_INPUT
    assert "--json would replace the contact sheet" in capsys.readouterr().err
    assert Path("kitchen.png").read_bytes() == picture
    assert sorted(os.listdir()) == ["hard.png", "kitchen.png", "link.png"]

"""Bad input to any command: one line, exit status 2, nothing left behind, nothing of the user's replaced."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wm_env.cli import COMMANDS, main
from wm_env.export.episode import load_recording
from wm_env.export.lerobot import export_lerobot
from wm_env.model.storage.atomic import atomic_folder, check_folder
from wm_env.model.training.command import build_parser

CLIP = "record --out a.mp4 --world sana-wm-bidirectional --image picture.png --trajectory"
BAD = {
    "record --out a.mp4 --world twin --threads 0": "--threads 0 must be at least 1",
    "record --out a.mp4 --world twin --seed -1": "--seed -1 must be at least 0",
    "record --out a.mp4 --world nowhere": "unknown world 'nowhere'",
    "record --out picture.mp4 --image picture.png": "would replace --image 'picture.png'",
    "record --out picture.png/x --format folder": "picture.png' is not a folder",
    "record --out x --format folder --world nowhere --workers 2": "unknown world 'nowhere'",
    f"{CLIP} empty.npz": "'empty.npz' cannot be used",
    f"{CLIP} junk.npz": "'junk.npz' cannot be used",
    f"{CLIP} still.npy --overlay": "--context belong to what is stepped",
    f"{CLIP} still.npy --threads 0": "--threads 0 must be at least 1",
    "train vae --data x --out y --steps 0": "--steps 0 must be at least 1",
    "train vae --data x --out y --seconds nan": "--seconds nan must be above 0",
    "train vae --data x --out y --device nonsense": "device='nonsense' is not a torch device",
    "train vae --data x --out y": "--data x is not a folder",
    "info --device nonsense": "device='nonsense' is not a torch device",
    "play --out picture.png": "picture.png' is not a folder",
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some good and some broken files."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (1280, 704)).save("picture.png")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04junk")
    np.save("still.npy", np.eye(4)[None].repeat(9, 0))
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(desk)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(words))
    assert ended.value.code == 2
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert complaint.startswith("wm-env ") and BAD[words] in complaint
    assert contents(desk) == before


def test_a_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"{name} needs something: pip install 'wm-env[rl]'")

    importlib.import_module("wm_env.cli.agent")
    monkeypatch.setattr("wm_env.cli.agent.importlib.import_module", absent)
    with pytest.raises(SystemExit) as ended:
        main(["agent", "train", "--out", "x"])
    assert ended.value.code == 2
    assert "pip install 'wm-env[rl]'" in capsys.readouterr().err.strip().splitlines()[-1]


def test_every_command_takes_a_seed_and_a_json_file() -> None:
    trainings = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr, attr-defined]
    for name, command in COMMANDS.items():
        module, _, cls = command.target.partition(":")
        found = vars(importlib.import_module(module))[cls]
        if isinstance(found, type):
            options = set(found.__dataclass_fields__)  # type: ignore[attr-defined]
            assert "overwrite" in options, command.target  # of that file, at the least
        else:
            options = {action.dest for action in trainings[name.removeprefix("train ")]._actions}
        assert {"seed", "json"} <= options, command.target
    assert {f"train {name}" for name in trainings} <= set(COMMANDS)


def test_a_folder_of_results_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    with pytest.raises(OSError, match="full"), atomic_folder(target) as temporary:
        (temporary / "half").touch()
        raise OSError("full")
    assert not target.exists() and not list(target.parent.iterdir())
    with atomic_folder(target) as temporary:
        (temporary / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(target):
        pass
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b" and not (tmp_path / "a").exists()


def test_a_failed_export_leaves_no_half_dataset(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no episode\.json"):
        export_lerobot([tmp_path / "missing"], tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "episode").mkdir()
    (tmp_path / "episode" / "episode.json").write_text("{}")
    (tmp_path / "episode" / "steps.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="corrupted"):
        load_recording(tmp_path / "episode")

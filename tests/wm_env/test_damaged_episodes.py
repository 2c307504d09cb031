"""Recorded episodes and camera files that were damaged: one ValueError that names what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_env.env import SanaWMEnv
from wm_env.export.episode import load_recording, play_episode, save_recording
from wm_env.model.data.layouts.video import read_camera
from wm_env.model.data.posed_clip import PosedClip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    env = SanaWMEnv(world="twin", action_type="multikeys")
    folder = tmp_path_factory.mktemp("episodes") / "episode_000000"
    return save_recording(play_episode(env, lambda state: "w", seed=0, steps=2), folder)


@pytest.fixture
def episode(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "episode_000000")


@pytest.mark.parametrize("name", ["episode.json", "steps.npz", "frames/000003.png"])
def test_damage_anywhere_in_an_episode_is_one_error(episode: Path, name: str) -> None:
    expected = load_recording(episode)
    path = episode / name
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 61)):
        data = bytearray(whole)
        data[at] ^= 1 << (at % 8)
        path.write_bytes(data)
        try:
            again = load_recording(episode)
        except ValueError:
            continue
        # a zip file has bytes that mean nothing, such as the time of day
        assert dict(again.facts) == dict(expected.facts)
        np.testing.assert_array_equal(again.frames, expected.frames)
        for field in ("c2w", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(again, field), getattr(expected, field))


def test_a_picture_of_another_episode_is_seen(episode: Path) -> None:
    shutil.copy(episode / "frames" / "000001.png", episode / "frames" / "000002.png")
    with pytest.raises(ValueError, match="SHA-256"):
        load_recording(episode)


def test_an_episode_of_the_format_before_digests_is_read(episode: Path) -> None:
    facts = json.loads((episode / "episode.json").read_text())
    assert facts.pop("format") == 2
    del facts["sha256"]
    (episode / "episode.json").write_text(json.dumps(facts))
    assert dict(load_recording(episode).facts) == facts


FACTS: list[tuple[str, Any, str]] = [
    ("seed", -1, "seed is -1"),
    ("frames_per_step", 0, "frames_per_step is 0"),
    ("frames_per_step", 10**30, "frames_per_step is"),
    ("intrinsics", [1, 2, 3], "intrinsics"),
    ("intrinsics", [1, 2, 3, "x"], "intrinsics"),
    ("settings", [], "settings is"),
    ("prompt", 3, "prompt is 3"),
    ("fps", 0, "fps is 0"),
    ("format", 3, "format is 3"),
    ("format", 1.5, "format is 1.5"),
]


@pytest.mark.parametrize(("name", "value", "says"), FACTS)
def test_an_episodes_fact_that_cannot_be_is_named(episode: Path, name: str, value: Any, says: str) -> None:
    facts = json.loads((episode / "episode.json").read_text())
    (episode / "episode.json").write_text(json.dumps({**facts, name: value}))
    with pytest.raises(ValueError, match=says):
        load_recording(episode)


@pytest.mark.parametrize("name", ["c2w", "intrinsics", "fps"])
@pytest.mark.parametrize("value", [{}, [], "x", [[]], 10**400, float("inf"), {"a": 1}, [1, [2]]])
def test_a_camera_file_with_another_value_is_one_error(tmp_path: Path, name: str, value: Any) -> None:
    values = {"c2w": np.tile(np.eye(4), (9, 1, 1)).tolist(), "intrinsics": [50.0, 50, 32, 32], "fps": 16}
    path = tmp_path / "clip.json"
    path.write_text(json.dumps({**values, name: value}))
    with pytest.raises(ValueError, match="clip"):
        if name == "fps":  # read by whoever needs a rate
            (tmp_path / "clip").mkdir()
            (tmp_path / "clip" / "0.png").touch()
            PosedClip.load(path)
        else:
            read_camera(path)


@pytest.mark.parametrize("value", [None, 3.0])
def test_intrinsics_that_are_no_list_are_named(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "clip.json"
    path.write_text(json.dumps({"c2w": np.tile(np.eye(4), (9, 1, 1)).tolist(), "intrinsics": value}))
    with pytest.raises(ValueError, match=r"intrinsics of clip\.json are"):
        read_camera(path)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, '{"c2w":' * 100_000, "1" * 5000, "\ud800"])
def test_json_that_is_none_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clip.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"clip\.json"):
        read_camera(path)

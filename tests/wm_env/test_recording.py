"""Videos, contact sheets and the command line that makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from wm_env import cli
from wm_env.agents.scripted import POLICIES, make_policy
from wm_env.env import SanaWMEnv
from wm_env.recording import Layout, compose, contact_sheet, film


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return int(ended.value.code or 0)


@pytest.fixture
def env() -> SanaWMEnv:
    made = SanaWMEnv(world="twin", action_type="multikeys")
    made.reset(seed=0)
    return made


@pytest.mark.parametrize("policy", POLICIES)
def test_a_film_holds_the_start_and_every_pixel_frame(policy: str) -> None:
    env = SanaWMEnv(world="twin", task="pointnav", action_type="multikeys")
    env.reset(seed=0)
    shots = list(film([env], make_policy(policy, 0), 3))
    assert [len(shot.frames[0]) for shot in shots] == [1, 4, 4, 4]
    assert all(shot.c2w.shape == (len(shot.frames[0]), 4, 4) for shot in shots)


def test_two_worlds_are_filmed_with_the_same_start_and_actions(env: SanaWMEnv) -> None:
    other = SanaWMEnv(world="twin", action_type="multikeys")
    other.reset(seed=0)
    for shot in film([env, other], make_policy("wander", 0), 5):
        assert np.array_equal(*shot.frames)


@pytest.mark.slow
def test_wandering_gets_around(env: SanaWMEnv) -> None:
    shots = list(film([env], make_policy("wander", 1), 80))
    positions = np.stack([shot.c2w[-1, :3, 3] for shot in shots])
    assert np.ptp(positions, axis=0)[[0, 2]].max() > 1.5
    still = np.linalg.norm(np.diff(positions, axis=0), axis=1) < 1e-3
    assert still.mean() < 0.6


def test_an_unknown_policy_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="wander, forward, orbit, goal"):
        make_policy("dance", 0)


def test_a_composed_picture_shows_each_view_enlarged(env: SanaWMEnv) -> None:
    view = env.state.frames[0, -1].numpy()
    picture = compose([view, view], Layout(labels=("a", "b")), "w", [np.eye(4)], env.state)
    assert picture.shape == (256 + 16, 512, 3)
    assert np.array_equal(picture[16::4, :256:4], view) and np.array_equal(picture[16::4, 256::4], view)


def test_the_overlay_shows_the_track_with_and_without_a_scene(env: SanaWMEnv) -> None:
    track = [np.eye(4), np.eye(4)]
    track[1][2, 3] = 1.0
    plain = env.state._replace(has_scene=env.state.has_scene & False)
    for state in (env.state, plain):
        views = [state.frames[0, -1].numpy()]
        picture = compose(views, Layout(labels=("a",), overlay=True), "wd", track, state)
        assert picture.shape == (272, 512, 3)
        assert picture[16:, 256:].std() > 5


@pytest.mark.parametrize("count", [1, 5, 61])
def test_a_contact_sheet_fits_any_number_of_frames(count: int) -> None:
    frames = np.zeros((count, 2, 64, 64, 3), np.uint8)
    sheet = contact_sheet(frames, ("a", "b"), 0.25)
    assert sheet.width == 128 * min(count, 8)


@pytest.mark.slow
def test_record_writes_a_video_a_sheet_and_json(tmp_path: Path) -> None:
    out = tmp_path / "walk.mp4"
    words = ("record", "--out", str(out), "--world", "twin", "--steps", "5", "--seed", "3", "--compare")
    assert command(*words, "--overlay", "--json", str(tmp_path / "walk.json")) == 0
    result = json.loads((tmp_path / "walk.json").read_text())
    assert (result["steps"], result["frames"], result["fps"], result["world"]) == (5, 21, 16, "twin")
    reader: Any = imageio.get_reader(out)
    assert reader.get_meta_data()["fps"] == 16 and reader.count_frames() == 21
    assert Image.open(tmp_path / "walk.png").size[0] > 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["walk.json", "walk.mp4", "walk.png"]


def test_record_starts_from_the_users_picture(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    words = ("record", "--out", str(tmp_path / "walk.mp4"), "--world", "twin")
    assert command(*words, "--image", str(tmp_path / "a.png")) == 2  # the twin has no scene for it


BAD: list[tuple[list[str], str]] = [
    (["record", "--out", "/no/such/folder/a.mp4", "--world", "twin"], "does not exist"),
    (["record", "--out", "a.avi", "--world", "twin"], "must end in .mp4 or .gif"),
    (["record", "--out", "a.mp4", "--world", "huge"], "unknown world"),
    (["record", "--out", "a.mp4", "--world", "twin", "--steps", "0"], "at least 1"),
    (["record", "--out", "a.mp4", "--world", "twin", "--seed", "-1"], "at least 0"),
    (["record", "--out", "a.mp4", "--world", "twin", "--image", "x.png", "--compare"], "no true scene"),
    (["record", "--out", "a.mp4", "--world", "sana-wm-streaming"], "wm-env download"),
    (["record", "--out", "a.mp4", "--world", "twin", "--json", "/no/such/folder/a.json"], "does not exist"),
    (["record", "--out", "a.mp4", "--policy", "goal", "--task", "explore"], "a goal to walk to"),
    (["info", "--world", "huge"], "unknown world"),
    (["dance"], "unknown command"),
]


@pytest.mark.parametrize(("words", "says"), BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    words: list[str], says: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["record"], ["record", "--out", "a.mp4", "--policy", "dance"], []])
def test_bad_usage_exits_with_two(words: list[str], capsys: Any) -> None:
    assert command(*words) == 2


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_a_seed_and_json(name: str, capsys: Any) -> None:
    assert command(*name.split(), "--help") == 0
    text = capsys.readouterr().out
    assert "--seed" in text and "--json" in text


def test_the_list_of_commands_is_shown(capsys: Any) -> None:
    assert command("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


def test_info_tells_the_worlds_as_json(tmp_path: Path, capsys: Any) -> None:
    assert command("info", "--world", "twin", "--json", str(tmp_path / "info.json")) == 0
    facts = json.loads((tmp_path / "info.json").read_text())["worlds"]["twin"]
    assert (facts["frames_per_step"], facts["fps"]) == (4, 16)
    assert "64x64" in capsys.readouterr().out


def test_a_gif_holds_every_pixel_frame_and_loops(tmp_path: Path) -> None:
    out = tmp_path / "walk.gif"
    with pytest.raises(SystemExit) as ended:
        cli.main(["record", "--out", str(out), "--world", "twin", "--steps", "2"])
    assert not ended.value.code
    with Image.open(out) as picture:
        assert picture.n_frames == 1 + 2 * 4 and picture.info["loop"] == 0 and picture.info["duration"] == 60


def test_a_missing_encoder_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise RuntimeError("no ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(SystemExit) as ended:
        cli.main(["record", "--out", str(tmp_path / "walk.mp4"), "--world", "twin"])
    assert ended.value.code == 2 and "imageio[ffmpeg]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Labelled episodes: folders that replay, Minari datasets, the LeRobot v3 layout."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import minari
import numpy as np
import pyarrow.parquet as pq
import pytest
from minari import MinariDataset

from wm_env.agents.players import make_player
from wm_env.agents.scripted import make_policy
from wm_env.cli import main
from wm_env.env import SanaWMEnv
from wm_env.export.collect import RECORDING, Job, collect
from wm_env.export.episode import Recording, load_recording, play_episode, replay, save_recording
from wm_env.export.lerobot import VIDEO, export_lerobot
from wm_env.export.minari import export_minari
from wm_env.twin import TwinWorld

STEPS, EPISODES, FRAMES = 3, 2, 12  # 4 pixel frames a step


def record(world: str = "twin", **settings: Any) -> Recording:
    env = SanaWMEnv(world=world, action_type="multikeys", **settings)
    return play_episode(env, make_policy("wander", 0), seed=5, steps=STEPS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recorded pointnav episodes."""
    job = Job(
        settings={"world": "twin", "task": "pointnav", "action_type": "multikeys"},
        make_player=make_player, policy="goal", steps=STEPS, seed=3,
        out=tmp_path_factory.mktemp("data") / "episodes",
    )  # fmt: skip
    return list(collect(job, EPISODES, workers=1))


@pytest.mark.parametrize("world", ["twin", "memory_world"])
def test_a_recorded_episode_replays_the_same_frames(
    world: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    world = world if world == "twin" else request.getfixturevalue(world)
    recording = record(world)
    again = load_recording(save_recording(recording, tmp_path / "episode"))
    assert np.array_equal(again.frames, recording.frames) and again.facts == recording.facts
    assert np.array_equal(replay(again), recording.frames)


def test_an_episode_holds_what_gymnasium_showed(tmp_path: Path) -> None:
    recording = record(task="pointnav")
    env = SanaWMEnv(world="twin", task="pointnav", action_type="multikeys")
    seen, _ = env.reset(seed=5)
    assert recording.frames.shape == (1 + FRAMES, 64, 64, 3) and recording.c2w.shape == (1 + FRAMES, 4, 4)
    for step, action in enumerate(recording.actions):
        assert np.array_equal(recording.extras["goal"][step], seen["goal"])
        assert np.array_equal(recording.frames[4 * step], seen["image"])
        seen, reward, _, _, info = env.step(action)
        assert recording.rewards[step] == reward
        assert np.array_equal(recording.c2w[4 * step + 1 : 4 * step + 5], info["c2w_frames"])


@pytest.mark.slow
def test_workers_record_what_one_process_records(folders: list[Path], tmp_path: Path) -> None:
    facts = load_recording(folders[0]).facts
    job = Job(
        settings=facts["settings"], make_player=make_player, policy="goal", steps=STEPS, seed=3, out=tmp_path
    )
    for path in collect(job, EPISODES, workers=2):
        one, other = load_recording(path), load_recording(folders[0].parent / path.name)
        assert np.array_equal(one.frames, other.frames) and one.facts == other.facts


def test_a_recording_goes_on_with_what_is_missing_and_with_nothing_else(
    folders: list[Path], tmp_path: Path
) -> None:
    job = Job(
        settings={"world": "twin", "task": "pointnav", "action_type": "multikeys"},
        make_player=make_player, policy="goal", steps=STEPS, seed=3, out=tmp_path,
    )  # fmt: skip
    stopped = collect(job, EPISODES, workers=1)
    kept = next(stopped)
    stopped.close()
    (tmp_path / ".episode_000001-abcd1234").mkdir()  # of a process that was killed
    before = kept.stat().st_mtime_ns
    done = list(collect(job, EPISODES, workers=1))
    assert kept.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(path.name for path in done), RECORDING]
    for path, expected in zip(done, folders, strict=True):
        assert np.array_equal(load_recording(path).frames, load_recording(expected).frames)
    with pytest.raises(FileExistsError, match="steps: 3 there, 4 now"):
        next(collect(dataclasses.replace(job, steps=4), EPISODES, workers=1))
    facts = json.loads((kept / "episode.json").read_text())
    (kept / "episode.json").write_text(json.dumps({**facts, "weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="changed in between"):
        list(collect(job, EPISODES + 1, workers=1))
    (tmp_path / RECORDING).unlink()
    with pytest.raises(FileExistsError, match=r"no recording\.json"):
        next(collect(job, EPISODES, workers=1))


def test_a_failed_write_leaves_no_half_episode_and_keeps_the_finished_ones(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = load_recording(folders[0])
    save_recording(recording, tmp_path / "episode_000000")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        save_recording(recording, tmp_path / "episode_000001")
    assert [path.name for path in tmp_path.iterdir()] == ["episode_000000"]
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_recording(recording, tmp_path / "episode_000000")


def test_minari_reads_back_every_step(folders: list[Path], tmp_path: Path) -> None:
    dataset = MinariDataset(export_minari(folders, tmp_path / "set"))
    assert dataset.total_episodes == EPISODES and dataset.total_steps == EPISODES * STEPS
    for path, episode in zip(folders, dataset.iterate_episodes(), strict=True):
        recording = load_recording(path)
        assert np.array_equal(episode.observations["image"], recording.frames[::4])
        assert np.allclose(episode.observations["goal"], recording.extras["goal"])
        assert np.array_equal(episode.actions, recording.actions)
        assert np.array_equal(episode.rewards, recording.rewards)
        assert episode.truncations.tolist() == [False, False, True] and not episode.terminations.any()
        every = recording.frames_per_step
        assert np.array_equal(episode.infos["c2w"], recording.c2w[::every])
        assert episode.infos["frame_index"].tolist() == [0, every, 2 * every, 3 * every]
        assert bool(episode.infos["is_success"][-1]) == recording.facts["is_success"]
    env = dataset.recover_environment()
    assert env.unwrapped.config.task == "pointnav"
    assert env.spec is not None and env.spec.max_episode_steps == STEPS  # where the recording was cut


def test_minari_loads_by_id_what_lies_in_its_folder(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    export_minari(folders, tmp_path / "rooms" / "walk-v3" / "data")
    dataset = minari.load_dataset("rooms/walk-v3")
    assert dataset.spec.dataset_id == "rooms/walk-v3" and dataset.total_episodes == EPISODES
    assert np.array_equal(dataset[1].rewards, load_recording(folders[1]).rewards)
    assert MinariDataset(export_minari(folders[:1], tmp_path / "else")).spec.dataset_id == "sana-wm/walk-v0"


def test_the_lerobot_layout_follows_its_schema(folders: list[Path], tmp_path: Path) -> None:
    out = export_lerobot(folders, tmp_path / "set")
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"]) == ("v3.0", 16)
    assert (info["total_episodes"], info["total_frames"]) == (EPISODES, EPISODES * FRAMES)
    assert info["splits"] == {"train": f"0:{EPISODES}"}

    data = pq.read_table(out / info["data_path"].format(chunk_index=0, file_index=0))
    features = {name: feature for name, feature in info["features"].items() if feature["dtype"] != "video"}
    assert set(data.column_names) == set(features)
    arrow = {"float32": "float", "int64": "int64", "bool": "bool"}
    for name, feature in features.items():
        kind, width = data.schema.field(name).type, feature["shape"][0]
        one = arrow[feature["dtype"]]
        assert str(kind) == (one if width == 1 else f"fixed_size_list<element: {one}>[{width}]"), name
    assert data["index"].to_pylist() == list(range(EPISODES * FRAMES))
    assert data["timestamp"].to_pylist()[:FRAMES] == pytest.approx([i / 16 for i in range(FRAMES)])

    episodes = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["length"] for row in episodes] == [FRAMES] * EPISODES
    assert episodes[1]["dataset_from_index"] == FRAMES and episodes[1]["dataset_to_index"] == 2 * FRAMES
    assert episodes[1][f"videos/{VIDEO}/from_timestamp"] == FRAMES / 16
    film = iio.imread(out / info["video_path"].format(video_key=VIDEO, chunk_index=0, file_index=0))
    assert film.shape == (EPISODES * FRAMES, 64, 64, 3)

    tasks = pq.read_table(out / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert {row["tasks"][0] for row in episodes} == set(tasks["task"].to_pylist())
    stats = json.loads((out / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    actions = np.array(data["action"].to_pylist())
    assert stats["action"]["mean"] == pytest.approx(actions.mean(0).tolist())
    assert stats["action"]["std"] == pytest.approx(actions.std(0).tolist(), abs=1e-6)
    assert np.shape(stats[VIDEO]["mean"]) == (3, 1, 1)
    quantiles = {
        "q01": 0.01,
        "q10": 0.1,
        "q50": 0.5,
        "q90": 0.9,
        "q99": 0.99,
    }  # of lerobot's normalizer
    pixels = np.concatenate([load_recording(path).frames[:-1].reshape(-1, 3) for path in folders]) / 255
    states = np.array(data["observation.state"].to_pylist())
    for name, q in quantiles.items():
        assert stats["observation.state"][name] == pytest.approx(np.quantile(states, q, axis=0).tolist())
        assert np.ravel(stats[VIDEO][name]) == pytest.approx(np.quantile(pixels, q, axis=0))
        own = np.quantile(states[:FRAMES], q, axis=0)
        assert episodes[0][f"stats/observation.state/{name}"] == pytest.approx(own.tolist())


def test_rewards_and_poses_survive_in_lerobot_rows(folders: list[Path], tmp_path: Path) -> None:
    out = export_lerobot(folders[:1], tmp_path / "set")
    data = pq.read_table(out / "data/chunk-000/file-000.parquet")
    recording = load_recording(folders[0])
    assert np.allclose(np.array(data["next.reward"].to_pylist())[3::4], recording.rewards)
    assert np.allclose(np.array(data["observation.state"].to_pylist())[5], recording.c2w[5, :3].reshape(-1))
    assert data["next.done"].to_pylist() == [False] * (FRAMES - 1) + [True]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["folder", "minari", "lerobot"])
def test_datasets_are_made_in_bulk_from_the_command_line(format: str, tmp_path: Path) -> None:
    out, result = tmp_path / "set", tmp_path / "result.json"
    words = ["--world", "twin", "--task", "pointnav", "--policy", "goal", "--steps", "2", "--episodes", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["record", *words, "--format", format, "--out", str(out), "--json", str(result)])
    assert not ended.value.code
    assert len(json.loads(result.read_text())["episodes"]) == 2
    expected = {"folder": "episode_000001/steps.npz", "minari": "metadata.json", "lerobot": "meta/info.json"}
    assert (out / expected[format]).is_file()


def test_bad_input_is_refused(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multikeys"):
        play_episode(SanaWMEnv(world="twin"), make_policy("wander", 0), 0, 2)
    with pytest.raises(ValueError, match="plain values"):
        play_episode(SanaWMEnv(world=TwinWorld(), action_type="multikeys"), make_policy("wander", 0), 0, 2)
    with pytest.raises(FileNotFoundError, match=r"no episode\.json"):
        load_recording(tmp_path)
    (tmp_path / "file").touch()
    for export in (export_lerobot, export_minari):
        with pytest.raises(FileExistsError, match="not empty"):
            export(folders, tmp_path)
        with pytest.raises(ValueError, match="no episodes"):
            export([], tmp_path / "none")
    changed = load_recording(folders[0])
    changed.facts["weights_sha256"] = "0" * 64  # type: ignore[index]
    with pytest.raises(ValueError, match="recorded with weights"):
        replay(changed)


def test_episodes_become_data_or_a_film_afterwards(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in folders:
        shutil.copytree(path, tmp_path / "walks-episodes" / path.name)
    (tmp_path / ".data-abcd1234").mkdir()  # of an export that was killed
    (tmp_path / "walks-episodes" / ".episode_000009-abcd1234").mkdir()  # of a recording that was

    def run(words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["export", *words.split()])
        return int(ended.value.code or 0)

    assert run("--from walks --format minari --out data") == 0
    assert MinariDataset(tmp_path / "data").total_episodes == EPISODES
    assert run("--from walks-episodes --format mp4 --out all.mp4") == 0
    assert len(iio.imread(tmp_path / "all.mp4")) == EPISODES * (1 + FRAMES)
    assert run("--from walks --format mp4 --out one.gif --only 1") == 0
    assert len(iio.imread(tmp_path / "one.gif")) == 1 + FRAMES
    before = sorted(tmp_path.iterdir())
    for words, says in (
        ("--from walks --format lerobot --out data", "must be a new or empty folder"),
        ("--from walks --format mp4 --out one.gif", "'one.gif' exists; give another name, or --overwrite"),
        ("--from walks --format mp4 --out x.avi", "must end in .mp4 or .gif"),
        ("--from walks --format mp4 --out x.mp4 --only 1 7", "has no episode_000007"),
        (
            "--from data --format mp4 --out x.mp4",
            "holds no finished episodes; `wm-env record --format folder`",
        ),
    ):
        assert run(words) == 2 and says in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert len(iio.imread(tmp_path / "one.gif")) == 1 + FRAMES
    assert run("--from walks --format mp4 --out one.gif --overwrite") == 0
    assert len(iio.imread(tmp_path / "one.gif")) == EPISODES * (1 + FRAMES)

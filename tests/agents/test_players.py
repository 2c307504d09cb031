"""One name for whoever plays: films, datasets, scores and the play page find the same player by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from wm_env.agents.evaluate import FIRST_SEED
from wm_env.agents.players import NAMES, OneSlot, find_player, held_keys, make_player
from wm_env.agents.policies import load_policy
from wm_env.agents.shipped import SHIPPED, policy_path
from wm_env.cli import main
from wm_env.env import SanaWMEnv
from wm_env.export.episode import load_recording
from wm_env.model.kinematics import KEYS
from wm_env.recording import film_player

MINE = """
import numpy as np

def right(observations, state, starts):
    return np.full(len(starts), 4)

def held(observations, state, starts):
    return np.tile([1, 0, 0, 1, 0, 0, 0, 0], (len(starts), 1))

def bad(observations, state, starts):
    return np.zeros((len(starts), 3))

def off(observations, state, starts):
    return np.full(len(starts), 9)
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_policy.py").write_text(MINE)
    return tmp_path


def run(words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_plays_an_environment_made_for_it(name: str) -> None:
    found = find_player(name)
    env = SanaWMEnv(world="twin", **found.shown())
    for _ in range(2):
        env.reset(seed=0)
        shots = list(film_player([env], found.player(seed=0), 2))
    assert len(shots) == 3 and all(set(shot.keys) <= set(KEYS) for shot in shots)
    assert (found.sha256 is None) == (name not in SHIPPED)


def test_a_copied_policy_plays_as_the_shipped_one_and_equal_seeds_play_alike(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(policy_path("objectnav").with_suffix(suffix), tmp_path / f"policy{suffix}")
    films = []
    for name in ("objectnav", str(tmp_path), str(tmp_path / "policy.safetensors")):
        env = SanaWMEnv(world="twin", **find_player(name).shown())
        env.reset(seed=3)
        films.append([shot.keys for shot in film_player([env], make_player(name, 5), 6)])
    assert films[0] == films[1] == films[2] and len(set(films[0])) > 1


def test_single_keys_are_held_where_the_environment_wants_held_ones() -> None:
    assert held_keys(np.array([0, 1, 8])).tolist() == [[0] * 8, [1] + [0] * 7, [0] * 7 + [1]]
    env = SanaWMEnv(world="twin", action_type="multikeys")
    env.reset(seed=0)
    assert OneSlot(lambda seen, state, starts: np.array([4]), "keys")(env).tolist() == [
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
    ]


def test_an_agent_is_told_the_start_of_every_episode_once() -> None:
    told: list[bool] = []

    def agent(seen: Any, state: Any, starts: np.ndarray) -> np.ndarray:
        told.append(bool(starts[0]))
        return np.array([1])

    env = SanaWMEnv(world="twin")
    player = OneSlot(agent, "keys")
    for _ in range(2):
        env.reset(seed=0)
        for _ in range(2):
            env.step(player(env))
    assert told == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "task", "says"),
    [
        ("objctnav", None, "unknown policy 'objctnav'; valid are wander, .*; did you mean objectnav"),
        ("goal", "explore", "needs a task with a goal to walk to, pointnav, objectnav, imagenav"),
        ("objectnav", "follow", "trained for task objectnav, whose goal it is shown; follow shows another"),
        ("my_policy:left", None, "module 'my_policy' has no function 'left'"),
        ("no_such_module:left", None, "No module named 'no_such_module'"),
        (".", None, "holds no policy.safetensors"),
    ],
)
def test_a_name_that_cannot_play_says_why(name: str, task: str | None, says: str, desk: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        find_player(name, task=task)


def test_a_function_of_ones_own_is_filmed_and_scored(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("record --out a.mp4 --world twin --policy my_policy:right --steps 2 --json a.json") == 0
    assert json.loads((desk / "a.json").read_text())["steps"] == 2
    assert len(iio.imread(desk / "a.mp4")) == 9
    eval_words = "--world twin --task pointnav --episodes 2 --max-episode-steps 3 --video b.mp4 --json b.json"
    assert run(f"agent eval my_policy:held {eval_words}") == 0
    scored = json.loads((desk / "b.json").read_text())
    assert [episode["steps"] for episode in scored["episodes"]] == [3, 3]
    assert len(iio.imread(desk / "b.mp4")) == 13
    assert f"b.mp4: seed {FIRST_SEED}, 3 steps" in capsys.readouterr().out
    before = sorted(desk.iterdir())
    for name, says in (("bad", "expected whole numbers (1,)"), ("off", "numbered from 0 (none) to 8")):
        assert run(f"record --out c.mp4 --world twin --policy my_policy:{name} --steps 2") == 2
        assert says in capsys.readouterr().err
    assert sorted(desk.iterdir()) == before, "a film that failed leaves nothing"


def test_a_trained_policy_records_episodes(desk: Path) -> None:
    words = "record --format folder --world twin --policy objectnav --episodes 2 --steps 3 --out set"
    assert run(words) == 0
    recording = load_recording(desk / "set" / "episode_000001")
    assert recording.facts["settings"]["task"] == "objectnav"
    env = SanaWMEnv(world="twin", **find_player("objectnav").shown())
    env.reset(seed=1)
    player = find_player("objectnav").player(seed=1)
    for action in recording.actions:
        assert np.array_equal(player(env), action)
        env.step(action)
    facts = json.loads((desk / "set" / "recording.json").read_text())
    assert facts["policy_sha256"] == find_player("objectnav").sha256


def test_the_environment_shows_what_is_seen_without_a_step() -> None:
    env = SanaWMEnv(world="twin", task="pointnav")
    seen, _ = env.reset(seed=0)
    moment = env.snapshot()
    after = env.step(1)[0]
    assert all(np.array_equal(env.look()[name], after[name]) for name in after)
    env.restore(moment)
    assert all(np.array_equal(env.look()[name], seen[name]) for name in seen)


def test_settings_of_a_policy_are_those_it_was_trained_with() -> None:
    _, trained = load_policy("objectnav")
    shown = find_player("objectnav").shown()
    assert {**trained.env_settings(), **shown} == trained.env_settings()

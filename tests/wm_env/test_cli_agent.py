"""`wm-env agent`: train, resume, score; bad input is one line and exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wm_env.cli import main

TOY = [
    *("--world", "twin", "--task", "objectnav", "--num-envs", "2", "--max-episode-steps", "6"),
    *("--rollout", "8", "--batch-size", "16", "--epochs", "1", "--evaluate-episodes", "2", "--threads", "1"),
]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["agent", *words])
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_a_policy_is_trained_resumed_and_scored(tmp_path: Path) -> None:
    out, card, scores = (str(tmp_path / name) for name in ("run", "card.json", "scores.json"))
    assert run("train", *TOY, "--steps", "16", "--out", out) == 0
    assert run("train", *TOY, "--steps", "32", "--out", out, "--resume", "--json", card) == 0
    assert json.loads(Path(card).read_text())["env_steps"] == 32
    words = ["--world", "twin", "--episodes", "3", "--threads", "1", "--deterministic"]
    assert run("eval", out, *words, "--json", scores) == 0
    found = json.loads(Path(scores).read_text())
    assert found["task"] == "objectnav" and found["max_episode_steps"] == 6
    assert len(found["episodes"]) == found["score"]["episodes"] == 3
    checkpoint = str(tmp_path / "run" / "checkpoints" / "step-16.zip")
    assert run("eval", checkpoint, *words) == 0


@pytest.mark.parametrize("agent", ["random", "wander", "goal"])
def test_scripted_agents_are_scored_by_name(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--world", "twin", "--episodes", "2", "--max-episode-steps", "5", "--threads", "1"]
    assert run("eval", agent, *words) == 0
    assert "2 episodes" in capsys.readouterr().out


def test_a_film_of_the_scored_agent_replaces_no_other_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "f.gif"
    film.write_text("mine")
    words = ["eval", "random", "--world", "twin", "--episodes", "1", "--max-episode-steps", "2"]
    assert run(*words, "--threads", "1", "--video", str(film)) == 2
    said = capsys.readouterr()
    assert "exists; give another name, or --overwrite" in said.err and "success" not in said.out
    assert film.read_text() == "mine"
    assert run(*words, "--threads", "1", "--video", str(film), "--overwrite") == 0
    assert film.read_bytes()[:3] == b"GIF"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["eval", "nobody", "--world", "twin"], "unknown policy 'nobody'"),
        (["eval", "goal", "--world", "twin", "--task", "explore"], "task with a goal"),
        (["eval", "random", "--world", "twin", "--episodes", "0"], "at least 1"),
        (["eval", "random", "--world", "twin", "--moves", "w,w"], "key combinations"),
        (["eval", "goal", "--world", "twin", "--moves", "w,a"], "random agent"),
        (["eval", "random", "--world", "twin", "--starts", "near"], "beacon"),
        (["train", "--world", "twin", "--batch-size", "1000", "--out", "x"], "must divide"),
        (["train", "--world", "twin", "--learning-rate", "-1", "--out", "x"], "learning_rate=-1.0"),
        (["train", "--world", "twin", "--gamma", "2", "--out", "x"], "gamma=2.0 must be a number in 0 .. 1"),
        (["train", "--world", "nowhere", "--out", "x"], "unknown world 'nowhere'"),
        (["train", "--world", "twin", "--resume", "--out", "x"], "no checkpoint"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    complaint = capsys.readouterr().err.strip()
    assert hint in complaint and "\n" not in complaint
    assert not list(tmp_path.iterdir())

"""The examples run as they stand, at toy size and on the twin."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import PPO

from wm_env.agents.planning import Planner, plan
from wm_env.model.data.posed_clip import PosedClip

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script as the main program, in this process (another one would import torch), on the twin."""

    def run_script(script: str, *words: str) -> str:
        path = str(EXAMPLES / script)
        monkeypatch.setattr(sys, "argv", [path, "--world", "twin", *words])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_quickstart_walks_and_saves_the_last_view(tmp_path: Path, run: Callable[..., str]) -> None:
    out = tmp_path / "view.png"
    assert "step   3" in run("quickstart.py", "--steps", "3", "--out", str(out))
    env = gym.make("SanaWM-v0", world="twin")
    env.reset(seed=0)
    env.action_space.seed(0)
    last = [env.step(env.action_space.sample())[0] for _ in range(3)][-1]
    assert np.array_equal(Image.open(out), Image.fromarray(last).resize((256, 256)))


def test_branch_futures_draws_one_row_for_every_future(tmp_path: Path, run: Callable[..., str]) -> None:
    out = tmp_path / "futures.png"
    run("branch_futures.py", "--steps", "2", "--out", str(out))
    picture = np.asarray(Image.open(out))
    assert picture.shape == (4 * 128, 3 * 128, 3)
    rows = picture.reshape(4, 128, 3, 128, 3)  # future, y, time, x, colour
    assert all(np.array_equal(row[:, 0], rows[0][:, 0]) for row in rows)  # from one moment
    assert len({row[:, 2].tobytes() for row in rows}) == 4  # to four places


def test_step_into_a_clip_films_what_was_filmed_and_what_is_imagined(
    tmp_path: Path, memory_world: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = str(EXAMPLES / "step_into_a_clip.py"), str(tmp_path / "clip.mp4")
    monkeypatch.setattr(sys, "argv", [path, "--world", memory_world, "--walk", "wd", "--out", out])
    runpy.run_path(path, run_name="__main__")
    told = capsys.readouterr().out
    assert "the poses" in told and "101 frames are committed" in told
    film = iio.imread(out)
    assert film.shape == (101 + 2 * 4, 256, 512, 3)
    blue, red = (
        np.abs(film[-1].astype(int) - colour).sum(-1) < 90 for colour in ((90, 150, 230), (230, 70, 60))
    )
    assert blue[:, 256:].sum() > 50 and red[:, 256:].sum() > 5  # both paths


@pytest.mark.slow
def test_a_film_is_annotated_checked_stepped_into_and_scored_within_a_decibel_of_its_true_poses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycolmap", reason="poses are found by pycolmap (extra annotate), not installed")
    path = str(EXAMPLES / "annotate_a_film.py")
    words = ["--out", str(tmp_path), "--size", "256", "--steps", "8", "--walk", "as"]
    monkeypatch.setattr(sys, "argv", [path, *words])
    runpy.run_path(path, run_name="__main__")
    told = capsys.readouterr().out
    assert "room-000: accepted" in told and "the poses" in told.replace("whether the poses", "the poses")
    apart = re.search(r"true ones: ([+-][\d.]+) dB", told)
    assert apart is not None and abs(float(apart[1])) < 1.0
    assert len(iio.imread(tmp_path / "walk.mp4")) == 2 * 4
    assert PosedClip.load(tmp_path / "clips" / "room-000").size == (256, 256)


def test_record_writes_a_video_and_a_sheet(tmp_path: Path, run: Callable[..., str]) -> None:
    run("record.py", "--steps", "2", "--out", str(tmp_path / "walk"))
    assert {file.name for file in tmp_path.iterdir()} == {"walk.mp4", "walk.png"}
    assert len(iio.imread(tmp_path / "walk.mp4")) == 1 + 2 * 4


@pytest.mark.slow
def test_train_ppo_trains_and_scores(tmp_path: Path, run: Callable[..., str]) -> None:
    out = tmp_path / "ppo.zip"
    words = ("--num-envs", "2", "--steps", "64", "--rollout", "32", "--episodes", "2", "--limit", "5")
    assert "2 episodes" in run("train_ppo.py", *words, "--out", str(out))
    assert PPO.load(out).num_timesteps == 64


@pytest.mark.slow
def test_plan_does_the_first_decision_of_every_plan(run: Callable[..., str]) -> None:
    printed = run("plan.py", "--candidates", "4", "--rounds", "1", "--decisions", "2").splitlines()
    env, generator = gym.make("SanaWM-PointNav-v0", world="twin").unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    planner = Planner(candidates=4, rounds=1, horizon=4, hold=3, elites=4)
    for decision in range(2):
        best = plan(env, planner, generator)
        for _ in range(planner.hold):
            left = env.step(int(best.actions[0]))[4]["distance_to_goal"]
        assert (
            printed[decision] == f"plan {decision:2d}  promised {best.value:6.2f}  {left:.2f} m to the goal"
        )


def test_drift_prints_every_row_by_second(run: Callable[..., str]) -> None:
    titles, twin, repeated, unrelated = run("drift.py", "--scenes", "2", "--seconds", "1").splitlines()
    assert "PSNR" in titles
    assert twin.startswith("twin") and "100.00 (n too small)" in twin  # the truth is perfect
    assert "100.00" not in repeated + unrelated


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_states_the_minutes_it_takes_or_the_gpu_it_needs(script: str) -> None:
    told = " ".join((EXAMPLES / script).read_text().split('"""')[1].split())
    assert re.search(r"\d+ (seconds|minutes) (of|on) one CPU core|\d+ CPU minutes|needs a GPU", told), told


@pytest.mark.slow
def test_torchrl_trains_and_says_how_it_goes(run: Callable[..., str]) -> None:
    pytest.importorskip("torchrl", reason="the extra `torchrl` is not installed")
    said = run("train_torchrl.py", "--envs", "2", "--rollout", "8", "--frames", "32", "--minibatch", "8")
    assert re.findall(r"(\d+) steps: mean reward", said) == ["16", "32"]

"""`wm-env train ...`: renders, trains in slices, refuses to overwrite a run, one line on bad input."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import pytest

from wm_env.cli import main
from wm_env.model.embedded import load_embedded


def status(*words: str | Path) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        words = ("train", "data", "--out", folder, "--split", split, "--clips", "3", "--frames", "17")
        assert status(*words) == 0
    return folder


@pytest.mark.slow
def test_a_training_is_cut_into_slices_and_leaves_losses_weights_and_card(data: Path, tmp_path: Path) -> None:
    words = ("train", "vae", "--data", data, "--out", tmp_path / "run", "--preset", "smoke", "--steps", "2")
    assert status(*words, "--seed", "4", "--json", tmp_path / "a.json") == 0
    assert status(*words, "--seed", "4", "--json", tmp_path / "b.json") == 0  # the same command goes on
    result = json.loads((tmp_path / "b.json").read_text())
    assert (result["steps"], result["finished"], result["seed"]) == (4, False, 4)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "card.json",
        "losses.jsonl",
        "state.pt",
        "vae.json",
        "vae.safetensors",
        "world",
    }
    assert load_embedded(tmp_path / "run" / "world").spec.trained_steps == 0  # no transformer yet


def test_a_run_is_resumed_only_with_its_settings(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "vae", "--data", data, "--out", tmp_path, "--preset", "smoke", "--steps", "1")
    assert status(*words, "--resume") == 2
    assert "holds no run to resume" in capsys.readouterr().err
    assert status(*words) == 0
    assert status(*words, "--resume") == 0
    assert status(*words, "--seed", "9") == 2
    assert "loop.seed: 0 -> 9" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["vae", "depth", "refiner", "world"])
def test_missing_inputs_are_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str | Path] = ["train", kind, "--data", tmp_path / "none", "--out", tmp_path / "run"]
    if kind != "vae":
        words += ["--vae", tmp_path / "none.safetensors"]
    if kind in ("refiner", "world"):
        words += ["--latents", tmp_path / "none"]
    assert status(*words, "--preset", "smoke") == 2
    error = capsys.readouterr().err
    assert "none" in error
    assert "Traceback" not in error


def test_recipes_and_options_that_cannot_be_are_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[loop]\nspeed = 3\n")
    paths = ("--data", tmp_path, "--out", tmp_path / "run")
    world = ("train", "world", *paths, "--latents", tmp_path, "--vae", tmp_path / "vae.safetensors")
    refiner = ("train", "refiner", *paths, "--latents", tmp_path, "--vae", tmp_path / "vae.safetensors")
    for words, complaint in (
        ((*world, "--recipe", recipe), "[loop] has unknown settings speed; known are total_steps"),
        ((*world, "--recipe", recipe, "--preset", "tiny"), "exclude each other"),
        ((*world, "--config", recipe), "--config is now --recipe"),
        ((*world, "--render-workers", "2"), "--render-workers is now --workers"),
        ((*world, "--learning-rat", "2"), "unknown option --learning-rat; did you mean --learning-rate?"),
        ((*world, "--preset", "huge"), "unknown preset 'huge' of world; there are base, smoke, smoke-memory"),
        (
            (*refiner, "--world", "tiny"),
            "give --latents and --vae to train on imitated errors, or --world alone",
        ),
        ((*world, "--preset", "smoke", "--lora", "2"), "lora=2 corrects trained weights"),
        ((*world, "--preset", "smoke", "--microbatches", "0"), "microbatches=0 must be at least 1"),
        ((*refiner, "--lora", "2"), "--lora 2 corrects a trained refiner; give its --world"),
        (("train", "vae", *paths, "--kl", "-1"), "--kl -1.0 is a weight and cannot be negative"),
    ):
        assert status(*words) == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("part", ["vae", "depth", "world", "refiner", "self-forcing", "distill"])
def test_a_training_alone_makes_what_it_lacks_and_ends_in_a_world(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert status("train", part, "--preset", "smoke", "--steps", "1", "--out", out) == 0
    assert "the same command goes on" in capsys.readouterr().out
    env = gym.make("SanaWM-v0", world=str(out / "world"), disable_env_checker=True)
    env.reset(seed=0)
    frame = env.step(env.action_space.sample())[0]
    assert frame.shape == (64, 64, 3) and frame.std() > 0
    env.close()
    assert {"data"} <= {path.name for path in out.iterdir()}
    assert status("train", part, "--preset", "smoke", "--steps", "1", "--out", out) == 0
    assert json.loads((out / "card.json").read_text())["steps"] == 2


def test_the_result_of_a_training_replaces_no_file_unasked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.json").write_text("mine")
    words = ["train", "data", "--clips", "1", "--frames", "9", "--out", tmp_path / "clips"]
    assert status(*words, "--json", tmp_path / "mine.json") == 2
    assert "mine.json' exists; give another name, or --overwrite" in capsys.readouterr().err
    assert not (tmp_path / "clips").exists()  # refused before any work
    assert status(*words, "--json", tmp_path / "mine.json", "--overwrite") == 0
    assert json.loads((tmp_path / "mine.json").read_text())["clips"] == 1
    vae = data / "vae.safetensors"
    latents = ["train", "latents", "--data", data, "--vae", vae, "--out", tmp_path / "z"]
    assert status(*latents, "--json", vae, "--overwrite") == 2
    assert "is the file of --vae; rename it" in capsys.readouterr().err

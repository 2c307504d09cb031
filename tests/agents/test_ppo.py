"""PPO runs: a folder that can be resumed, evaluated and watched."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from wm_env.agents import ppo
from wm_env.agents.policies import PPOSettings, ScaledReward, blindfold, load_policy
from wm_env.agents.ppo import score, train
from wm_env.agents.training_work import TrainingBar
from wm_env.model.storage.checkpoint import load_checkpoint
from wm_env.sb3 import SanaWMVecEnv

TOY = PPOSettings(
    world="twin", task="objectnav", num_envs=2, max_episode_steps=8, steps=32, rollout=8, batch_size=16,
    epochs=1, evaluate_every=16, evaluate_episodes=2, checkpoint_every=16,
    learning_rate=2e-4, gamma=0.98, gae_lambda=0.9, entropy=0.02,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a toy run."""
    folder = tmp_path_factory.mktemp("run") / "toy"
    train(TOY, folder, progress=False)
    return folder


def test_a_run_leaves_curves_checkpoints_a_card_and_a_film(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("settings.json", "progress.jsonl", "tensorboard", "checkpoints"),
        *("policy.zip", "policy.safetensors", "policy.json", "episode.mp4"),
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-16.zip", "step-32.zip"}
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    assert [line["env_steps"] for line in lines if "eval/success" in line] == [16, 32]
    card = json.loads((run / "policy.json").read_text())
    assert card["env_steps"] == 32 and set(card["scores"]) == {"twin"}
    assert set(card["scores"]["twin"]["success"]) == {"mean", "lo", "hi"}
    assert len(iio.imread(run / "episode.mp4")) <= 1 + 8 * 4


def test_the_settings_of_a_run_are_those_it_learns_with(run: Path) -> None:
    model = PPO.load(run / "policy.zip")
    learnt = (model.n_envs, model.n_steps, model.batch_size, model.n_epochs, model.learning_rate)
    assert learnt == (TOY.num_envs, TOY.rollout, TOY.batch_size, TOY.epochs, TOY.learning_rate)
    assert (model.gamma, model.gae_lambda, model.ent_coef) == (TOY.gamma, TOY.gae_lambda, TOY.entropy)


def test_rewards_are_scaled_for_the_learner_alone() -> None:
    plain, scaled = (SanaWMVecEnv(2, world="twin", max_episode_steps=4) for _ in range(2))
    learner = ScaledReward(scaled, 0.1)
    for envs in (plain, learner):
        envs.seed(0)
        envs.reset()
    for _ in range(5):  # over the end of an episode
        earned, told = (envs.step(np.array([1, 4]))[1] for envs in (plain, learner))
        assert told == pytest.approx(0.1 * earned) and earned.any()


def test_a_policy_comes_back_the_same_without_a_pickle(run: Path) -> None:
    kept, settings = load_policy(run, deterministic=True)
    pickled, _ = load_policy(run / "policy.zip", deterministic=True)
    assert settings == TOY
    assert score(kept, settings, "twin", 2) == score(pickled, settings, "twin", 2)
    seen = {"image": np.zeros((2, 64, 64, 3), np.uint8), "goal": np.eye(6, dtype=np.float32)[:2]}
    starts = np.ones(2, bool)
    assert (kept(seen, None, starts) == pickled(seen, None, starts)).all()


@pytest.mark.slow
def test_a_resumed_run_goes_on_from_its_newest_checkpoint(run: Path, tmp_path: Path) -> None:
    longer = dataclasses.replace(TOY, steps=48)
    folder = tmp_path / "run"
    run.rename(folder)
    try:
        card = train(longer, folder, resume=True, progress=False)
        assert card["env_steps"] == 48
        assert (folder / "checkpoints" / "step-48.zip").is_file()
        with pytest.raises(ValueError, match="gamma"):
            train(dataclasses.replace(longer, gamma=0.5), folder, resume=True)
        with pytest.raises(FileExistsError, match="not empty"):
            train(TOY, folder)
    finally:
        folder.rename(run)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(TOY, tmp_path / "none", resume=True)


class Watched(TrainingBar):
    """A bar that keeps what it showed: (done, total, what is done)."""

    def _move(self, running: float = 0.0) -> None:
        super()._move(running)
        SHOWN.append((self._done(), self._total(running), self._what.split(",")[0]))

    def finish(self) -> None:
        SHOWN.append((self._done(), self._done(), "finished"))


SHOWN: list[tuple[float, float, str]] = []


@pytest.mark.slow
def test_the_bar_goes_on_through_updates_evaluations_and_scores(
    pure_world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppo, "TrainingBar", Watched)
    SHOWN.clear()
    train(dataclasses.replace(TOY, world=pure_world, epochs=2), tmp_path / "run", progress=False)
    done, total, what = zip(*SHOWN, strict=True)
    kinds = [kind for kind, _ in itertools.groupby(what)]
    assert kinds == [
        *("0 of 32 learned", "evaluating", "8 of 32 learned", "16 of 32 learned"),
        *("evaluating", "24 of 32 learned", "32 of 32 learned"),
        *(f"scoring in {pure_world}", "scoring in twin", "finished"),
    ]
    assert all(before <= after for before, after in itertools.pairwise(done))
    assert all(now < whole for now, whole in zip(done[:-1], total[:-1], strict=True))


@pytest.mark.slow
def test_a_blind_recurrent_policy_trains_in_a_learned_world_and_is_scored_in_the_twin_too(
    pure_world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(
        TOY, world=pure_world, memory="lstm", blind=True, steps=16, evaluate_every=1000, checkpoint_every=1000
    )
    scored = []
    monkeypatch.setattr(ppo, "score", lambda *call, **more: scored.append(call[2:]) or score(*call, **more))
    card = train(settings, tmp_path / "run", progress=False)
    assert set(card["scores"]) == {pure_world, "twin"}
    (own,), (twin,) = scored
    assert own == pure_world and twin.spec.sees_scene
    assert load_policy(tmp_path / "run")[1].blind


@pytest.mark.slow
def test_what_a_blind_policy_learns_does_not_depend_on_the_pictures(pure_world: str, tmp_path: Path) -> None:
    small = dataclasses.replace(
        TOY,
        blind=True,
        sight="goal-color",
        action_type="multikeys",
        moves="w,a,d",
        reward_scale=0.1,
        steps=16,
    )
    learned = []
    for world in ("twin", pure_world):
        train(dataclasses.replace(small, world=world), tmp_path / Path(world).name, progress=False)
        learned.append(load_checkpoint(tmp_path / Path(world).name / "policy.safetensors")[0])
    assert set(learned[0]) == set(learned[1])
    for name, tensor in learned[0].items():
        assert torch.equal(tensor, learned[1][name]), name


def test_a_blindfold_hides_the_view_and_nothing_else() -> None:
    seen = {"image": np.ones((2, 4, 4, 3), np.uint8), "goal": np.ones((2, 3), np.float32)}
    hidden = blindfold(seen)
    assert not hidden["image"].any() and hidden["goal"].all() and seen["image"].all()
    assert not blindfold(seen["image"]).any()


def test_impossible_settings_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none, lstm"):
        PPOSettings(memory="much")
    with pytest.raises(ValueError, match="must divide"):
        PPOSettings(batch_size=1000)
    with pytest.raises(ValueError, match="multikeys"):
        PPOSettings(moves="w,a,d")
    with pytest.raises(ValueError, match="beacon"):
        PPOSettings(task="pointnav", starts="near")
    with pytest.raises(ValueError, match="goal-color"):
        PPOSettings(task="pointnav", sight="goal-color")
    with pytest.raises(FileNotFoundError, match="agent train"):
        load_policy(tmp_path)


def test_a_context_belongs_to_the_training_and_to_where_the_policy_is_used() -> None:
    told = dataclasses.replace(TOY, context="turn")
    assert told.env_settings()["context"] == told.own_world()["context"] == "turn"
    with pytest.raises(ValueError, match="unknown context 'spin'"):
        dataclasses.replace(TOY, context="spin")

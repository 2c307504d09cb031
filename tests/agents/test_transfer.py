"""Transfer: the published formulas, equal episodes in both environments, and one run from end to end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from wm_env.agents.evaluate import FIRST_SEED, RandomAgent, evaluate
from wm_env.agents.policies import PPOSettings
from wm_env.agents.transfer import players as transfer_players
from wm_env.agents.transfer.quantities import (
    BLIND,
    LEARNED,
    RANDOM,
    SIM,
    TRUE,
    TWIN,
    exploitation,
    quantities,
    ranking,
    ranks,
    returns_by_horizon,
)
from wm_env.agents.transfer.score import replay_scores
from wm_env.agents.transfer.settings import TransferSettings
from wm_env.cli import main
from wm_env.env import SanaWMEnv
from wm_env.model.metrics import iqm, probability_of_improvement
from wm_env.twin import twin_like
from wm_env.worlds import resolve_world

ROUNDED = 5e-5  # published to four digits


def test_ranking_has_its_published_values() -> None:
    found = ranking(np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.9, 0.3, 0.7, 0.75]))
    assert found.mmrv == pytest.approx(0.45, abs=ROUNDED)
    assert found.pearson == pytest.approx(-0.0252, abs=ROUNDED)
    assert found.spearman == pytest.approx(-0.2, abs=ROUNDED)
    assert found.kendall == pytest.approx(0.0, abs=ROUNDED)
    perfect = ranking(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0]))
    assert (perfect.mmrv, perfect.pearson, perfect.kendall) == pytest.approx((0.0, 1.0, 1.0))
    assert ranks(np.array([5.0, 1.0, 5.0])).tolist() == [1.5, 0.0, 1.5]
    assert ranking(np.array([1.0, 2.0]), np.array([3.0, 3.0])).pearson is None


def returns(starts: int = 40, seeds: int = 3) -> dict[tuple[str, str], np.ndarray]:
    """Return tables whose means are 9 and 6 (learned), 8 (twin), 2 (blind), 1 (random), equal spread."""
    spread = np.linspace(-0.5, 0.5, starts)[:, None] * np.ones((1, seeds))
    means = {
        (SIM, LEARNED): 9.0, (TRUE, LEARNED): 6.0, (SIM, TWIN): 7.0, (TRUE, TWIN): 8.0,
        (SIM, BLIND): 2.0, (TRUE, BLIND): 2.0, (SIM, RANDOM): 1.0, (TRUE, RANDOM): 1.0,
    }  # fmt: skip
    return {key: mean + spread for key, mean in means.items()}


def test_quantities_are_what_their_formulas_say() -> None:
    tables = returns()
    found, missing = quantities(tables, {key: table / 10 for key, table in tables.items()})
    mean = {name: one.mean for name, one in found.items()}
    assert mean["optimism"] == pytest.approx(9 - 6)
    assert mean["relative_optimism"] == pytest.approx((9 - 6) / (8 - 1))
    assert mean["transfer_ratio"] == pytest.approx((6 - 1) / (8 - 1))
    assert mean["regret"] == pytest.approx(8 - 6)
    assert mean["reverse_ratio"] == pytest.approx((7 - 1) / (9 - 1))
    assert mean["over_blind"] == pytest.approx(6 - 2)
    assert mean["over_blind_success"] == pytest.approx(0.4)
    # starts that are equally hard for everybody cancel in a paired difference
    assert found["over_blind"].lo == pytest.approx(4.0) == found["over_blind"].hi
    assert set(missing) == {"over_ablated", "over_ablated_success"}


def test_a_ratio_over_nothing_and_an_interval_of_few_starts_are_missing() -> None:
    tables = returns()
    tables[TRUE, TWIN] = tables[TRUE, RANDOM] + np.linspace(-1, 1, 40)[:, None]
    found, missing = quantities(tables, tables)
    assert "transfer_ratio" not in found and "not clearly above 0" in missing["transfer_ratio"]
    few, _ = quantities(returns(4), returns(4))
    assert few["optimism"].lo is None and "n too small" in few["optimism"].text()


def test_horizons_exploitation_and_seed_statistics_by_hand() -> None:
    rewards = [[1.0, 1.0, 1.0], [2.0]]
    assert returns_by_horizon(rewards, [1, 2, 4]).tolist() == [[1, 2, 3], [2, 2, 2]]
    # true peaks at the second checkpoint; afterwards sim gains 3 while true loses 1
    assert exploitation(np.array([0.0, 4, 7]), np.array([0.0, 3, 2])) == pytest.approx(4.0)
    assert iqm(np.array([0.0, 1, 2, 3, 4, 100, -50, 5])) == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert probability_of_improvement(np.array([1.0, 3]), np.array([1.0, 2])) == pytest.approx(0.625)


def test_a_replay_counts_a_slot_until_it_ends_anywhere() -> None:
    rewards = np.zeros((6, 2, 2))
    rewards[0, 0] = (1.0, 0.5)
    ended = np.zeros((6, 2, 2), bool)
    ended[2, 0] = (True, False)  # ends in the learned world alone; what follows is another episode
    rewards[3, 0] = (9.0, 0.0)
    ended[4, 1] = (True, True)
    found = replay_scores({"rewards": rewards.tolist(), "ended": ended.tolist()})
    assert [one.reward_gap for one in found] == [0.25, 0.0, 0.0, 0.0, 0.0, None]
    assert (found[2].precision, found[2].recall) == (0.0, None)
    assert (found[4].precision, found[4].recall) == (1.0, 1.0)


def test_an_agent_that_sees_nothing_has_equal_episodes_in_both(pure_world: str) -> None:
    space = SanaWMEnv(world="twin", task="objectnav").action_space
    truth = twin_like(resolve_world(pure_world).spec)
    both = [
        evaluate(
            RandomAgent(space, 0), [FIRST_SEED, FIRST_SEED + 1], max_episode_steps=6, world=world,
            task="objectnav",
        )
        for world in (pure_world, truth)
    ]  # fmt: skip
    assert both[0] == both[1]


TOY = PPOSettings(
    world="twin", num_envs=2, max_episode_steps=4, steps=8, rollout=4, batch_size=8, epochs=1,
    evaluate_every=100, evaluate_episodes=1,
)  # fmt: skip


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "transfer", *words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, pure_world: str) -> tuple[Path, list[str]]:
    """Folder and options of a run at toy size."""
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(TOY)))
    words = [
        "--learner",
        str(folder),
        "--world",
        pure_world,
        "--steps",
        "8",
        "--seeds",
        "1",
    ]
    words += ["--episodes", "2", "--checkpoints", "1", "--curve-episodes", "2", "--temperatures", "0"]
    words += ["--max-episode-steps", "4", "--num-envs", "2", "--threads", "1"]
    assert run(*words, "--out", str(folder / "out")) == 0
    return folder, words


@pytest.mark.slow
def test_a_run_trains_scores_and_reports_and_is_not_done_twice(toy, capsys) -> None:
    folder, words = toy
    report = json.loads((folder / "out" / "transfer.json").read_text())
    roles = [LEARNED, TWIN, BLIND, "ablate=dit", RANDOM, "scripted"]
    assert list(report["scores"]) == roles
    assert report["walked_in_both"][BLIND] is False and report["walked_in_both"][LEARNED] is True
    assert report["scores"][BLIND][SIM] == report["scores"][BLIND][TRUE]
    assert [one["temperature"] for one in report["temperature"]] == [0.0, 1.0]
    assert {one["env_steps"] for one in report["curves"][LEARNED]} == {8}
    assert all(one["reward_gap"] == 0 for one in report["replay"] if one["reward_gap"] is not None)
    assert report["claim"] is None and "n too small" in report["nulls"]["claim"]  # two starts
    page = (folder / "out" / "report.html").read_text()
    assert "n too small" in page and 'src="http' not in page and (folder / "out" / "curves.png").is_file()

    files = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*/*") if path.is_file()}
    (gone, *_) = (folder / "out" / "episodes").glob("blind*")
    lost = gone.read_text()
    gone.unlink()  # as if the run had been interrupted there
    assert run(*words, "--out", str(folder / "out")) == 0
    assert gone.read_text() == lost
    assert all(path == gone or path.stat().st_mtime_ns == before for path, before in files.items())
    assert run(*words, "--episodes", "3", "--out", str(folder / "out")) == 2
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_quick_scores_what_comes_with_the_package_and_a_policy_of_ones_own(
    toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    folder, words = toy
    monkeypatch.setattr("wm_env.agents.transfer.run.QUICK_EPISODES", 2)
    shipped = [str(one) for one in sorted((folder / "out" / "policies").iterdir())]
    monkeypatch.setattr(transfer_players, "SHIPPED", shipped)
    (tmp_path / "stands.py").write_text(
        "import numpy as np\ndef still(seen, state, starts):\n    return np.zeros(len(starts), np.int64)\n"
    )
    monkeypatch.chdir(tmp_path)
    own = ["--policy", "stands:still", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]
    assert run(*words, "--quick", *own) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["scores"]) == {LEARNED, TWIN, BLIND, "ablate=dit", "stands:still", RANDOM, "scripted"}
    assert report["scores"]["stands:still"][TRUE]["reward"]["mean"] == pytest.approx(
        -0.04
    )  # four steps' cost
    assert report["curves"] == {} and "not trained here" in report["nulls"]["curves"]
    assert run(*words, "--quick", "--policy", "stands:walks", "--out", str(tmp_path / "none")) == 2
    assert "no function 'walks'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_impossible_comparisons_are_refused() -> None:
    with pytest.raises(ValueError, match="that see pictures"):
        TransferSettings(learner=PPOSettings(obs_type="latent"))
    with pytest.raises(ValueError, match="learned world to transfer from"):
        TransferSettings(learner=PPOSettings(world="twin"))
    with pytest.raises(ValueError, match="task with a goal"):
        TransferSettings(learner=PPOSettings(task="explore"))

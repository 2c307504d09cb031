"""The policies that come with the package: whole, trained in the shipped world, and looking where they go."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from wm_env.agents.episode_starts import evaluation_seeds
from wm_env.agents.evaluate import evaluate, summarize
from wm_env.agents.policies import load_policy
from wm_env.agents.shipped import SHIPPED, policy_path
from wm_env.cli import main
from wm_env.model.embedded import world_path
from wm_env.model.storage.checkpoint import load_card, load_checkpoint

LIMIT = 2**20  # bytes of all policies together


def test_they_are_whole_and_small_and_all_listed() -> None:
    for name in SHIPPED:
        load_checkpoint(policy_path(name))  # compares the digest with the card
    assert sum(policy_path(name).stat().st_size for name in SHIPPED) <= LIMIT
    found = {path.stem for path in policy_path(SHIPPED[0]).parent.glob("*.safetensors")}
    assert found == set(SHIPPED)


@pytest.mark.weights
def test_the_card_names_the_shipped_world_that_the_policy_was_trained_in() -> None:
    card, (_, settings) = load_card(policy_path("objectnav")), load_policy("objectnav")
    assert settings.world == "tiny" and settings.task == "objectnav" and not settings.blind
    assert card["weights_sha256"] == load_card(world_path("tiny"))["sha256"], (
        "the policy was trained in other weights of tiny; train it again (docs/performance/agents.md)"
    )
    assert card["env_steps"] >= settings.steps
    assert {"hardware", "torch", "profile", "scores"} <= set(card)


def test_the_blind_control_was_trained_alike() -> None:
    """In the twin: no picture reaches it, and test_ppo.py shows that the world then makes no difference."""
    (_, seeing), (_, blind) = load_policy("objectnav"), load_policy("objectnav-blind")
    assert blind == dataclasses.replace(seeing, world="twin", blind=True)


@pytest.mark.weights
@pytest.mark.slow
def test_the_seeing_policy_reaches_more_beacons_in_the_twin_than_the_blind_one() -> None:
    found = {}
    torch.manual_seed(0)  # policies draw their actions
    for name in ("objectnav", "objectnav-blind"):
        agent, settings = load_policy(name)
        seeds = evaluation_seeds(settings.evaluate_starts, 16, "val")
        results = evaluate(
            agent,
            seeds,
            max_episode_steps=settings.max_episode_steps,
            **{**settings.env_settings(), "world": "twin"},
        )
        found[name] = summarize(results).success.mean
    assert found["objectnav"] > found["objectnav-blind"]


def test_a_shipped_policy_is_scored_by_its_name(tmp_path: Path) -> None:
    words = ["agent", "eval", "objectnav", "--world", "twin", "--episodes", "2", "--max-episode-steps", "3"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--threads", "1", "--json", str(tmp_path / "scores.json")])
    assert ended.value.code == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    assert (found["task"], found["starts"], len(found["episodes"])) == ("objectnav", "near", 2)

"""Does a policy trained in a learned world work in the true one? Training, and equal episodes in both.

Policies: trained in the learned world, trained in the twin with the same budget and settings, trained in the
learned world without seeing (blind) and without its transformer (`ablate=dit`), each with several training
seeds; a random and a scripted agent. All walk the same episodes (scene, start, goal, time limit) in both
environments, so every comparison is paired.

Poses, collisions and rewards come from the task and the true scene in both environments; what differs is the
picture. An agent that sees no picture therefore has equal episodes in both; they are walked in the twin only.

A run is a folder: `policies/ROLE-sN/` as `ppo.train` writes them, `episodes/*.json`, one file per policy,
environment and temperature. What is there is not done again. `score` turns episodes into numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_env.agents.episode_starts import evaluation_seeds
from wm_env.agents.evaluate import evaluate
from wm_env.agents.transfer.players import (
    EvaluatedPolicy,
    control_players,
    shipped_players,
    slug,
    trained_players,
    user_player,
)
from wm_env.agents.transfer.quantities import SIM, TRUE
from wm_env.agents.transfer.settings import TransferSettings
from wm_env.model.storage.atomic import atomic_path
from wm_env.progress import Bar
from wm_env.twin import twin_like
from wm_env.vector import SanaWMVectorEnv
from wm_env.worlds import resolve_world

REPLAY_WALKS = 16


def transfer(
    settings: TransferSettings,
    out: Path,
    *,
    shipped: bool = False,
    policy: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train and walk what `out` does not hold yet; return one record per policy, environment, temperature.

    shipped: score the policies that come with the package instead of training any. policy: a user's own,
    `FILE.zip`, a run's folder or `module:function`, scored beside them.
    """
    learner = settings.learner
    worlds = {SIM: resolve_world(learner.world, device=learner.device)}
    worlds[TRUE] = twin_like(worlds[SIM].spec, learner.device)
    own = [] if policy is None else [user_player(policy, settings)]
    found = shipped_players(settings) if shipped else []
    out.mkdir(parents=True, exist_ok=True)
    identity = {
        **asdict(settings),
        "weights_sha256": worlds[SIM].spec.weights_sha256,
        "shipped": shipped,
        "policy": policy,
    }
    _claim(out / "settings.json", json.loads(json.dumps(identity)))
    (out / "episodes").mkdir(exist_ok=True)
    if not shipped:
        found = list(trained_players(settings, out, progress))
    players = [*found, *own, *control_players(settings)]
    limit = learner.max_episode_steps
    walks = [(player, world, temperature) for player in players for world, temperature in _walks(player)]
    weight = _weights(worlds, settings)
    expected = [_episodes(settings, player) * limit * weight[name] for player, name, _ in walks]
    records = []
    with Bar(sum(expected), "scoring", shown=progress) as bar:
        for index, (player, name, temperature) in enumerate(walks):
            tell = _telling(bar, expected, index, weight[name], f"{player.role} in {name}")
            records.append(_record(settings, player, name, worlds[name], temperature, out / "episodes", tell))
        replay_file = out / "episodes" / "replay.json"
        if not replay_file.exists():
            bar.set_postfix_str("replay")
            _write(replay_file, replay(settings, worlds[SIM], worlds[TRUE]))
    return records


def _telling(
    bar: Bar, expected: list[float], index: int, weight: float, what: str
) -> Callable[[int, float, str], None]:
    """Return what reports the steps of one walk to the bar of all. expected: steps of every walk, weighed."""
    before = expected[index]
    expected[index] = 0.0  # as it stays where it was walked before
    bar.total = bar.total - before

    def tell(steps: int, in_all: float, episodes: str) -> None:
        expected[index] = in_all * weight
        bar.to(sum(expected[:index]) + steps * weight, sum(expected), what)

    return tell


def _weights(worlds: Mapping[str, Any], settings: TransferSettings) -> dict[str, float]:
    """Return what a step costs in each world, that of the dearest being 1, from a step of each."""
    batch = settings.learner.num_envs
    seconds = {}
    for name, world in worlds.items():
        envs = SanaWMVectorEnv(batch, world=world)
        envs.reset(seed=settings.seed)
        envs.step(np.zeros(batch, np.int64))
        started = time.perf_counter()
        envs.step(np.zeros(batch, np.int64))
        seconds[name] = time.perf_counter() - started
        envs.close()
    return {name: spent / max(seconds.values()) for name, spent in seconds.items()}


def _claim(path: Path, identity: dict[str, Any]) -> None:
    """Write what the folder is for, or raise where it is for something else."""
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != identity:
            raise ValueError(
                f"{path.parent} holds a run with other settings or weights; choose another --out"
            )
        return
    _write(path, identity)


def _walks(player: EvaluatedPolicy) -> list[tuple[str, float]]:
    """Return the (environment, temperature) that a player is walked in."""
    sim = [(SIM, temperature) for temperature in player.temperatures] if player.sees else []
    return [(TRUE, 1.0), *sim]


def _episodes(settings: TransferSettings, player: EvaluatedPolicy) -> int:
    return settings.episodes if player.checkpoint is None else settings.curve_episodes


def _record(
    settings: TransferSettings,
    player: EvaluatedPolicy,
    name: str,
    world: Any,
    temperature: float,
    folder: Path,
    report: Callable[[int, float, str], None],
) -> dict[str, Any]:
    """Return the episodes of a player in an environment, walked now or read from `folder`."""
    at = "final" if player.checkpoint is None else f"step{player.checkpoint}"
    parts = (player.role, f"s{player.seed}", at, name, f"t{temperature:g}")
    path = folder / f"{'--'.join(slug(part) for part in parts)}.json"
    count = _episodes(settings, player)
    head = {
        "role": player.role,
        "seed": player.seed,
        "checkpoint": player.checkpoint,
        "sees": player.sees,
        "environment": name,
        "temperature": temperature,
        "policy_sha256": player.digest,
        "episodes": count,
    }
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if {key: stored[key] for key in head} != head:
            raise ValueError(f"{path} belongs to another policy or count of episodes; choose another --out")
        return stored
    torch.manual_seed(settings.seed)  # the policy's own chances: the same ones in every environment
    results = evaluate(
        player.make(),
        episode_seeds(settings, count),
        num_envs=settings.learner.num_envs,
        max_episode_steps=settings.learner.max_episode_steps,
        report=report,
        **{**player.settings, "world": world, "split": "val", "temperature": temperature},
    )
    record = {**head, "results": [result._asdict() for result in results]}
    _write(path, record)
    return record


def episode_seeds(settings: TransferSettings, count: int) -> list[int]:
    """Return the seeds of the episodes: the same for every policy and environment, those of `agent eval`."""
    return evaluation_seeds(settings.learner.evaluate_starts, count, "val")


def replay(settings: TransferSettings, sim: Any, true: Any) -> dict[str, Any]:
    """Return rewards and endings of the same random actions from the same starts in both environments.

    rewards: `(T, B, 2)`, ended: `(T, B, 2)` bool, learned world first; a slot counts until it ends in either.
    """
    learner = settings.learner
    batch = min(REPLAY_WALKS, settings.episodes)
    env = {**learner.env_settings(), "split": "val"}
    envs = [
        SanaWMVectorEnv(batch, max_episode_steps=None, autoreset_mode="next_step", **{**env, "world": world})
        for world in (sim, true)
    ]
    for one in envs:
        one.reset(seed=episode_seeds(settings, batch))
    envs[0].action_space.seed(settings.seed)
    rewards, ended = [], []
    for _ in range(learner.max_episode_steps):
        actions = envs[0].action_space.sample()
        steps = [one.step(actions) for one in envs]
        rewards.append(np.stack([step[1] for step in steps], -1))
        ended.append(np.stack([step[2] for step in steps], -1))
    for one in envs:
        one.close()
    return {"rewards": np.stack(rewards).tolist(), "ended": np.stack(ended).tolist()}


def _write(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")

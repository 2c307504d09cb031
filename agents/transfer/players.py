"""Who is compared: policies trained here, those of the package, a user's own, and the controls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3 import PPO

from wm_env.agents.evaluate import Agent, RandomAgent, ScriptedAgent
from wm_env.agents.key_combinations import random_mover
from wm_env.agents.players import function_named
from wm_env.agents.policies import PolicyAgent, PPOSettings, load_policy, read_settings
from wm_env.agents.ppo import train
from wm_env.agents.sb3_files import load_zip
from wm_env.agents.scripted import make_policy
from wm_env.agents.shipped import SHIPPED, policy_path
from wm_env.agents.transfer.quantities import ABLATED, BLIND, LEARNED, RANDOM, SCRIPTED, TWIN
from wm_env.agents.transfer.settings import TransferSettings
from wm_env.env import SanaWMEnv
from wm_env.model.interrupts import Interrupted


class EvaluatedPolicy(NamedTuple):
    """A policy to score: its role, training seed and checkpoint (env steps; None: as trained).

    make: a fresh agent. settings: of the environments it acts in, without world. sees: whether it looks at
    pictures. temperatures: at which it is scored in the learned world. digest: of its file, "" without one.
    """

    role: str
    seed: int
    checkpoint: int | None
    make: Callable[[], Agent]
    settings: dict[str, Any]
    sees: bool
    temperatures: tuple[float, ...]
    digest: str


def trainings(settings: TransferSettings) -> dict[str, PPOSettings]:
    """Return what is trained, by role and for the first seed; all with one budget."""
    base = settings.learner
    roles = {
        LEARNED: base,
        TWIN: replace(base, world="twin"),
        BLIND: replace(base, blind=True),
        ABLATED: replace(base, ablate="dit"),
    }
    for temperature in settings.train_temperatures:
        roles[f"{LEARNED}, temperature {temperature:g}"] = replace(base, temperature=temperature)
    return roles


def trained_players(settings: TransferSettings, out: Path, progress: bool) -> Iterator[EvaluatedPolicy]:
    """Train every role and seed that is not trained yet; yield its final policy and its checkpoints."""
    for role, base in trainings(settings).items():
        for index in range(settings.seeds):
            learner = replace(base, seed=settings.seed + index)
            folder = out / "policies" / f"{slug(role)}-s{learner.seed}"
            if not (folder / "policy.json").exists():  # the last that a training writes
                _train(learner, folder, progress)
            yield _saved_player(folder / "policy.zip", role, learner.seed, None, settings)
            if role in (LEARNED, TWIN):
                for file in sorted(
                    folder.glob("checkpoints/step-*.zip"), key=lambda file: int(file.stem[5:])
                ):
                    yield _saved_player(file, role, learner.seed, int(file.stem[5:]), settings)


def _train(learner: PPOSettings, folder: Path, progress: bool) -> None:
    """Train into `folder`, from the newest state of an interrupted training where there is one."""
    begun = (folder / "settings.json").is_file()
    if begun and read_settings(folder) != learner:
        raise ValueError(f"{folder} holds something else than an interrupted training; choose another --out")
    try:
        train(learner, folder, resume=begun, progress=progress)
    except Interrupted as stop:  # its sentence is that of `agent train`
        raise Interrupted("", stop.signal) from None


def _saved_player(
    policy: str | Path, role: str, seed: int, checkpoint: int | None, settings: TransferSettings
) -> EvaluatedPolicy:
    """Return the player of what `load_policy` reads."""
    device = settings.learner.device
    _, trained = load_policy(policy, device)
    if trained.task != settings.learner.task:
        raise ValueError(f"policy {policy} was trained for {trained.task!r}, not {settings.learner.task!r}")
    if trained.obs_type != "rgb":
        raise ValueError(f"transfer compares policies that see pictures; {policy} sees {trained.obs_type!r}")
    judged = role == LEARNED and checkpoint is None
    return EvaluatedPolicy(
        role=role,
        seed=seed,
        checkpoint=checkpoint,
        make=lambda: load_policy(policy, device)[0],
        settings=_without_world(trained),
        sees=not trained.blind,
        temperatures=tuple(dict.fromkeys((1.0, *settings.temperatures))) if judged else (1.0,),
        digest=hashlib.sha256(policy_path(policy).read_bytes()).hexdigest(),
    )


def shipped_players(settings: TransferSettings) -> list[EvaluatedPolicy]:
    """Return the policies for the task that come with the package; their role is what their settings say."""
    players = []
    for name in SHIPPED:
        trained = load_policy(name)[1]
        if trained.task == settings.learner.task:
            players.append(_saved_player(name, role_of(trained), trained.seed, None, settings))
    if not players:
        raise ValueError(
            f"no policy for {settings.learner.task!r} comes with this package; leave out --quick"
        )
    return players


def learner_settings(source: str | None, task: str) -> PPOSettings:
    """Return the settings of a run's folder or of a shipped policy; None: of the one shipped for `task`."""
    if source is not None:
        folder = Path(source)
        return read_settings(folder) if folder.is_dir() else load_policy(source)[1]
    found = [trained for trained in (load_policy(name)[1] for name in SHIPPED) if trained.task == task]
    ours = [trained for trained in found if role_of(trained) == LEARNED]
    return ours[0] if ours else PPOSettings(task=task)


def role_of(trained: PPOSettings) -> str:
    """Return the role that a training plays in a comparison."""
    if trained.blind:
        return BLIND
    if trained.ablate is not None:
        return f"ablate={trained.ablate}"
    return TWIN if trained.world == "twin" else LEARNED


def user_player(policy: str, settings: TransferSettings) -> EvaluatedPolicy:
    """Return a user's policy: a folder or file of `agent train`, a plain SB3 PPO `.zip`, `module:function`.

    The function is an `evaluate.Agent`: called with (observations, core state, starts) it returns actions of
    the action type of `settings.learner`. A plain `.zip` sees and acts as that does, too.
    """
    path = Path(policy)
    saved = path.is_dir() or path.suffix == ".safetensors" or policy in SHIPPED
    if saved or any((home / "settings.json").is_file() for home in (path.parent, path.parent.parent)):
        return _saved_player(policy, policy, 0, None, settings)
    return _plain_player(path, policy, settings) if path.exists() else _function_player(policy, settings)


def _plain_player(path: Path, role: str, settings: TransferSettings) -> EvaluatedPolicy:
    model = load_zip(PPO, path, device=settings.learner.device)
    wanted = SanaWMEnv(**settings.learner.env_settings()).action_space
    if model.action_space != wanted:
        raise ValueError(f"{path} acts in {model.action_space}, the task in {wanted}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _own(lambda: PolicyAgent(model, blind=False), role, settings, digest)


def _function_player(policy: str, settings: TransferSettings) -> EvaluatedPolicy:
    found = function_named(policy)
    return _own(lambda: found, policy, settings, "")


def _own(make: Callable[[], Agent], role: str, settings: TransferSettings, digest: str) -> EvaluatedPolicy:
    """Return a player that acts as `settings.learner` does and looks at pictures for all we know."""
    return EvaluatedPolicy(role, 0, None, make, _without_world(settings.learner), True, (1.0,), digest)


def control_players(settings: TransferSettings) -> list[EvaluatedPolicy]:
    """Return the random agent, with the learner's own choices, and the scripted one; neither looks."""
    learner = settings.learner
    env = _without_world(learner)
    space = SanaWMEnv(**learner.env_settings()).action_space

    def chance() -> Agent:
        return (
            random_mover(learner.moves, settings.seed) if learner.moves else RandomAgent(space, settings.seed)
        )

    def expert() -> Agent:
        return ScriptedAgent(lambda seed: make_policy("goal", seed), settings.seed)

    return [
        EvaluatedPolicy(RANDOM, 0, None, chance, env, False, (1.0,), ""),
        EvaluatedPolicy(SCRIPTED, 0, None, expert, env | {"action_type": "multikeys"}, False, (1.0,), ""),
    ]


def _without_world(settings: PPOSettings) -> dict[str, Any]:
    return {name: value for name, value in settings.env_settings().items() if name != "world"}


def slug(text: str) -> str:
    """Return `text` as part of a file name."""
    return "".join(char if char.isalnum() or char in "=." else "-" for char in text).strip("-")

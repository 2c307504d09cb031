"""PPO by Stable-Baselines3 on the batched environment: one world call a step for all slots.

A run is a folder:

    settings.json       every setting; a resumed run must have the same ones (but for the length)
    progress.jsonl      one line of SB3's measures a rollout, and one an evaluation
    tensorboard/        the same curves
    checkpoints/        step-N.zip, SB3's own files
    policy.zip          the newest policy, SB3's own file
    policy.safetensors  its weights alone, and policy.json, its card: what was trained and how well it did, in
                        its own world and in the twin; this pair can be handed on
    episode.mp4         one episode of the trained policy

A resumed run continues from the newest checkpoint with fresh episodes; SB3 keeps no environment state.
Needs the extra `rl`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wm_env.agents.episode_starts import evaluation_seeds, training_scenes
from wm_env.agents.evaluate import FIRST_SEED, Agent, Score, evaluate, summarize
from wm_env.agents.key_combinations import Moves, MovingAgent, RandomTurns
from wm_env.agents.policies import (
    Blindfold,
    PolicyAgent,
    PPOSettings,
    ScaledReward,
    algorithm,
    policy_kind,
    read_settings,
    save_policy,
)
from wm_env.bench.provenance import hardware
from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.model.storage.atomic import atomic_path
from wm_env.model.storage.checkpoint import load_card
from wm_env.recording import Layout, Shot, record_video, shot
from wm_env.sb3 import SanaWMVecEnv
from wm_env.worlds import twin_of

try:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
    from stable_baselines3.common.vec_env import VecEnv, VecMonitor
except ImportError as error:
    raise ImportError("wm_env.agents.ppo needs Stable-Baselines3: pip install 'wm-env[rl]'") from error


def train(
    settings: PPOSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train, evaluate and record into the folder `out`; return its card.

    Without `resume` the folder must be new or empty. With it, `steps` may have grown.
    """
    folder = Path(out)
    newest = _newest(folder, settings, resume)
    envs = SanaWMVecEnv(
        settings.num_envs,
        max_episode_steps=settings.max_episode_steps,
        split=settings.split,
        scene=training_scenes(settings.starts, settings.scenes, settings.split),
        **settings.own_world(),
    )
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    _write_json(folder / "settings.json", asdict(settings))
    done = 0 if newest is None else int(newest.stem.removeprefix("step-"))
    watched = _as_trained(envs, settings, settings.seed + done)
    if newest is None:
        model = _model(settings, watched)
    else:
        model = algorithm(settings).load(newest, env=watched, device=settings.device)
        model.set_random_seed(settings.seed + model.num_timesteps)  # the first episodes shall not come again
    curves = TensorBoardOutputFormat(str(folder / "tensorboard"))
    model.set_logger(Logger(str(folder), [curves, _LogWriter(folder)]))
    diary = _TrainingCallback(settings, folder, progress, model.num_timesteps)
    started = time.perf_counter()
    left = settings.steps - model.num_timesteps
    if left > 0:
        model.learn(left, callback=diary, reset_num_timesteps=False)
    seconds = time.perf_counter() - started - diary.evaluating
    _checkpoint(model, folder)
    _atomically(folder / "policy.zip", model.save)
    agent = _agent(model, settings)
    spec = envs.envs.world.spec
    worlds: dict[str, Any] = {settings.world: settings.world}
    if not spec.sees_scene:
        worlds["twin"] = twin_of(envs.envs.world, settings.device)
    profile = envs.envs.profile()
    card = {
        "env_steps": model.num_timesteps,
        "hardware": hardware(),
        "torch": torch.__version__,
        "profile": {
            "seconds": seconds,
            "world": profile["world_seconds"] + profile["world_reset_seconds"],
            "environment": profile["seconds"] - profile["world_seconds"] - profile["world_reset_seconds"],
            "learner": seconds - profile["seconds"],
        },
        "scores": {name: score(agent, settings, world).to_dict() for name, world in worlds.items()},
    }
    save_policy(folder / "policy.safetensors", model.policy, settings, spec, card)
    record_episode(agent, settings, folder / "episode.mp4", settings.world)
    envs.close()
    return load_card(folder / "policy.safetensors")


def score(agent: Agent, settings: PPOSettings, world: Any, episodes: int | None = None) -> Score:
    """Return the score on `val` scenes of a world; number and starts as in the settings unless given.

    Only in the world of the settings the temperature and the ablation of training hold.
    """
    count = settings.evaluate_episodes if episodes is None else episodes
    own = settings.own_world() if world == settings.world else settings.env_settings()
    results = evaluate(
        agent,
        evaluation_seeds(settings.evaluate_starts, count, "val"),
        num_envs=settings.num_envs,
        max_episode_steps=settings.max_episode_steps,
        **{**own, "world": world, "split": "val"},
    )
    return summarize(results)


def record_episode(agent: Agent, settings: PPOSettings, path: str | Path, world: str) -> None:
    """Write the episode of the first evaluation seed as an mp4: every pixel frame, held keys and a map."""
    env = SanaWMEnv(**{**settings.own_world(), "world": world, "split": "val"})
    seen, _ = env.reset(seed=FIRST_SEED)
    shots = _shots(agent, env, seen, settings)
    record_video(path, shots, Layout(labels=(world,), overlay=True), env.world.spec.fps, env.state)


def _shots(agent: Agent, env: SanaWMEnv, seen: Any, settings: PPOSettings) -> Iterator[Shot]:
    """Yield the start and every step of the agent's episode."""
    yield shot([env], "", 0.0, newest_only=True)
    for step in range(settings.max_episode_steps):
        batched = {name: view[None] for name, view in seen.items()} if isinstance(seen, dict) else seen[None]
        action = agent(batched, env.state, np.array([step == 0]))[0]
        seen, reward, terminated, _, _ = env.step(action)
        yield shot([env], _held(action, settings.action_type), reward, newest_only=False)
        if terminated:
            return


def _held(action: Any, action_type: str) -> str:
    if action_type == "keys":
        return KEYS[int(action) - 1] if action else ""
    if action_type == "multikeys":
        return "".join(key for key, down in zip(KEYS, action, strict=True) if down)
    return ""


class _LogWriter(KVWriter):
    """SB3's measures as JSON lines, appended."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.jsonl"

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        row: dict[str, float] = {"env_steps": step}
        row |= {name: float(value) for name, value in key_values.items() if np.ndim(value) == 0}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Nothing is held open."""


class _TrainingCallback(BaseCallback):
    """Checkpoints, evaluations and the progress bar, at their intervals of env steps."""

    def __init__(self, settings: PPOSettings, folder: Path, progress: bool, done: int) -> None:
        super().__init__()
        self._settings, self._folder = settings, folder
        self._checkpointed = self._evaluated = done
        self._bar = tqdm(
            total=settings.steps,
            initial=done,
            unit="step",
            desc="training",
            disable=not progress,
            mininterval=1,
        )
        self.evaluating = 0.0  # seconds

    def _on_step(self) -> bool:
        now, settings = self.num_timesteps, self._settings
        self._bar.update(settings.num_envs)
        if now - self._checkpointed >= settings.checkpoint_every:
            self._checkpointed = now
            _checkpoint(self.model, self._folder)
        if now - self._evaluated >= settings.evaluate_every:
            self._evaluated = now
            started = time.perf_counter()
            found = score(_agent(self.model, settings), settings, settings.world)
            for name, value in (("success", found.success), ("spl", found.spl), ("return", found.reward)):
                self.logger.record(f"eval/{name}", value.mean)
            self.logger.dump(now)
            self._bar.set_postfix(success=f"{found.success.mean:.2f}")
            self.evaluating += time.perf_counter() - started
        return True

    def _on_training_end(self) -> None:
        self._bar.close()


def _as_trained(envs: SanaWMVecEnv, settings: PPOSettings, seed: int) -> Any:
    """Return the environment as the learner meets it; `seed` is that of the turns before an episode."""
    seen: VecEnv = Blindfold(envs) if settings.blind else envs
    if settings.lead_in:
        seen = RandomTurns(seen, settings.lead_in, seed)
    watched: VecEnv = VecMonitor(Moves(seen, settings.moves) if settings.moves else seen)
    return ScaledReward(watched, settings.reward_scale) if settings.reward_scale != 1 else watched


def _agent(model: Any, settings: PPOSettings) -> Agent:
    """Return the policy in training as an agent of the bare environment."""
    chooser = PolicyAgent(model, settings.blind)
    return MovingAgent(chooser, settings.moves) if settings.moves else chooser


def _model(settings: PPOSettings, envs: Any) -> Any:
    kind, arguments = policy_kind(settings, envs.observation_space)
    return algorithm(settings)(
        kind,
        envs,
        policy_kwargs=arguments,
        n_steps=settings.rollout,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy,
        seed=settings.seed,
        device=settings.device,
    )


def _newest(folder: Path, settings: PPOSettings, resume: bool) -> Path | None:
    """Return the checkpoint to go on from, None for a fresh run; refuse folders that do not fit."""
    checkpoints = sorted(folder.glob("checkpoints/step-*.zip"), key=lambda file: int(file.stem[5:]))
    if resume:
        if not checkpoints:
            raise FileNotFoundError(f"{str(folder)!r} holds no checkpoint to resume from")
        old, new = asdict(read_settings(folder)), asdict(settings)
        odd = [f"{name}: {old[name]!r} then, {new[name]!r} now" for name in new if old[name] != new[name]]
        odd = [text for text in odd if not text.startswith("steps:")]
        if odd:
            raise ValueError("a resumed run keeps its settings; " + "; ".join(odd))
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty; resume it or give another folder")
    return checkpoints[-1] if resume else None


def _checkpoint(model: Any, folder: Path) -> None:
    _atomically(folder / "checkpoints" / f"step-{model.num_timesteps}.zip", model.save)


def _atomically(path: Path, write: Callable[[Path], None]) -> None:
    with atomic_path(path) as temporary:
        write(temporary)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")

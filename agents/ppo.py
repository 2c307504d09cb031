"""PPO by Stable-Baselines3 on the batched environment: one world call a step for all slots.

A run is a folder:

    settings.json       every setting; a resumed run must have the same ones (but for the length)
    progress.jsonl      one line of SB3's measures a rollout, and one an evaluation
    tensorboard/        the same curves
    checkpoints/        step-N.zip, SB3's own files, N the steps that it has learned from
    policy.zip          the newest policy, SB3's own file; replaced every minute and when a signal comes
    policy.safetensors  its weights alone, and policy.json, its card: what was trained and how well it did, in
                        its own world and in the twin; this pair can be handed on
    episode.mp4         one episode of the trained policy

A resumed run continues from the newest of these with fresh episodes; SB3 keeps no environment state. A
rollout that has not been learned from when a run ends is lost and not counted. SIGINT and SIGTERM save.
Needs the extra `rl`.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_env.agents.episode_starts import evaluation_seeds, training_scenes
from wm_env.agents.evaluate import FIRST_SEED, Agent, Score, evaluate, summarize
from wm_env.agents.key_combinations import Moves, MovingAgent, RandomTurns
from wm_env.agents.players import OneSlot
from wm_env.agents.policies import (
    Blindfold,
    PolicyAgent,
    PPOSettings,
    ScaledReward,
    algorithm,
    policy_kind,
    save_policy,
)
from wm_env.agents.run_folder import NEWEST, check_run, open_run, steps_of
from wm_env.agents.sb3_files import load_zip
from wm_env.agents.training_work import Plan, Report, TrainingBar
from wm_env.bench.provenance import hardware
from wm_env.env import SanaWMEnv
from wm_env.model.interrupts import Guard, Interrupted, caught
from wm_env.model.storage.atomic import atomic_path
from wm_env.model.storage.checkpoint import load_card
from wm_env.progress import Bar
from wm_env.recording import Layout, Shot, film_player, record_video
from wm_env.sb3 import SanaWMVecEnv
from wm_env.worlds import twin_of

try:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor
except ImportError as error:
    raise ImportError("wm_env.agents.ppo needs Stable-Baselines3: pip install 'wm-env[rl]'") from error

SAVE_SECONDS = 60.0  # at most this long between two states, but for a rollout, in which nothing is learned


def train(
    settings: PPOSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train, evaluate and record into the folder `out`; return its card.

    Without `resume` the folder must be new or empty. With it, `steps` may have grown. Raises `Interrupted`
    with one sentence, after saving, if SIGINT or SIGTERM ended it.
    """
    folder = Path(out)
    check_run(folder, settings, resume)
    with caught() as guard:
        try:
            with guard.abandoning():
                envs = SanaWMVecEnv(
                    settings.num_envs,
                    max_episode_steps=settings.max_episode_steps,
                    split=settings.split,
                    scene=training_scenes(settings.starts, settings.scenes, settings.split),
                    **settings.own_world(),
                )
        except Interrupted as stop:
            raise Interrupted(
                "interrupted before anything began; give the same command", stop.signal
            ) from None
        try:
            return _trained(settings, folder, envs, guard, progress)
        finally:
            envs.close()


def _trained(
    settings: PPOSettings, folder: Path, envs: SanaWMVecEnv, guard: Guard, progress: bool
) -> dict[str, Any]:
    """Train in `envs`, evaluate and record; return the card."""
    newest = open_run(folder, settings)
    done = 0 if newest is None else steps_of(newest)
    watched = _as_trained(_Stoppable(envs, guard), settings, settings.seed + done)
    if newest is None:
        model = _model(settings, watched)
    else:
        model = load_zip(algorithm(settings), newest, env=watched, device=settings.device)
        model.set_random_seed(settings.seed + model.num_timesteps)  # the first episodes shall not come again
    curves = TensorBoardOutputFormat(str(folder / "tensorboard"))
    model.set_logger(Logger(str(folder), [curves, _LogWriter(folder)]))
    spec = envs.envs.world.spec
    worlds: dict[str, Any] = {settings.world: settings.world}
    if not spec.sees_scene:
        worlds["twin"] = twin_of(envs.envs.world, settings.device)
    work = _plan(settings, model.num_timesteps, len(worlds))
    with closing(TrainingBar(work, functools.partial(Bar, shown=progress))) as bar:
        diary = _TrainingCallback(model, settings, folder, bar, guard)
        seconds = _learned(model, settings, folder, diary)
        profile = envs.envs.profile()
        try:
            with guard.abandoning():
                scores = _scored(_agent(model, settings), settings, folder, worlds, bar)
        except Interrupted as stop:
            raise Interrupted(
                f"stopped; all {model.num_timesteps} steps are learned and saved in {folder}, the scores are "
                "missing: go on with --resume",
                stop.signal,
            ) from None
        bar.finish()
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
        "scores": scores,
    }
    save_policy(folder / "policy.safetensors", model.policy, settings, spec, card)
    return load_card(folder / "policy.safetensors")


def _learned(model: Any, settings: PPOSettings, folder: Path, diary: _TrainingCallback) -> float:
    """Train to the number of steps and save; return the seconds, those of evaluations apart."""
    diary.save()
    started = time.perf_counter()
    left = settings.steps - model.num_timesteps
    try:
        if left > 0:
            model.learn(left, callback=diary, reset_num_timesteps=False)
    except Interrupted as stop:
        diary.save()
        raise Interrupted(
            f"stopped; {diary.learned} of {settings.steps} steps are learned and saved in {folder}, "
            "go on with --resume",
            stop.signal,
        ) from None
    seconds = time.perf_counter() - started - diary.evaluating
    diary.finish()
    return seconds


def _scored(
    agent: Agent, settings: PPOSettings, folder: Path, worlds: dict[str, Any], bar: TrainingBar
) -> dict[str, Any]:
    """Return the scores by world, and film the first episode."""
    scores = {}
    for name, world in worlds.items():
        watched = bar.evaluation(f"scoring in {name}", final=True)
        scores[name] = score(agent, settings, world, report=watched).to_dict()
    record_episode(agent, settings, folder / "episode.mp4", settings.world, bar.film)
    return scores


def _plan(settings: PPOSettings, learned: int, scored: int) -> Plan:
    return Plan(
        learned=learned,
        steps=settings.steps,
        slots=settings.num_envs,
        rollout=settings.num_envs * settings.rollout,
        every=settings.evaluate_every,
        scored=scored,
        episodes=settings.evaluate_episodes,
        limit=settings.max_episode_steps,
    )


def _silent(done: int, total: float, what: str) -> None:
    """Report to nobody."""


def score(
    agent: Agent, settings: PPOSettings, world: Any, episodes: int | None = None, report: Report = _silent
) -> Score:
    """Return the score on `val` scenes of a world; number and starts as in the settings unless given.

    Only in the world of the settings the temperature and the ablation of training hold. report: as in
    `evaluate`.
    """
    count = settings.evaluate_episodes if episodes is None else episodes
    own = settings.own_world() if world == settings.world else settings.env_settings()
    results = evaluate(
        agent,
        evaluation_seeds(settings.evaluate_starts, count, "val"),
        num_envs=settings.num_envs,
        max_episode_steps=settings.max_episode_steps,
        report=report,
        **{**own, "world": world, "split": "val"},
    )
    return summarize(results)


def record_episode(
    agent: Agent,
    settings: PPOSettings,
    path: str | Path,
    world: str,
    watch: Callable[[int], None] = lambda step: None,
) -> None:
    """Write the episode of the first evaluation seed as an mp4: every pixel frame, held keys and a map.

    watch: told the steps that are filmed.
    """
    env = SanaWMEnv(**{**settings.own_world(), "world": world, "split": "val"})
    env.reset(seed=FIRST_SEED)

    def shots() -> Iterator[Shot]:
        player = OneSlot(agent, settings.action_type)
        for step, shot in enumerate(film_player([env], player, settings.max_episode_steps)):
            yield shot
            watch(step)

    record_video(path, shots(), Layout(labels=(world,), overlay=True), env.world.spec.fps, env.state)


class _LogWriter(KVWriter):
    """SB3's measures as JSON lines, appended."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.jsonl"

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        row: dict[str, float] = {"env_steps": step}
        row |= {name: float(value) for name, value in key_values.items() if np.ndim(value) == 0}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Nothing is held open."""


class _Stoppable(VecEnvWrapper):
    """The same environment, whose steps a signal leaves at once: what they were to show is not needed."""

    def __init__(self, venv: VecEnv, guard: Guard) -> None:
        super().__init__(venv)
        self._guard = guard

    def reset(self) -> Any:
        with self._guard.abandoning():
            return self.venv.reset()

    def step_wait(self) -> Any:
        with self._guard.abandoning():
            return self.venv.step_wait()


class _TrainingCallback(BaseCallback):
    """Saving, evaluations, and what the progress bar is told.

    `learned`: env steps that the weights have learned from. It grows with the first gradient step on a
    rollout, and only then is there anything to save.
    """

    def __init__(
        self, model: Any, settings: PPOSettings, folder: Path, bar: TrainingBar, guard: Guard
    ) -> None:
        super().__init__()
        self.model, self._guard = model, guard  # SB3 sets the same model again when it begins
        self._settings, self._folder = settings, folder
        self.learned = self._checkpointed = self._evaluated = model.num_timesteps
        self._saved = time.monotonic()
        model.policy.optimizer.register_step_post_hook(self._on_gradient_step)
        self._bar = bar
        self._gradient_steps, self._whole = 0, settings.epochs * settings.num_envs * settings.rollout
        self.evaluating = 0.0  # seconds

    def save(self) -> None:
        """Write the newest state; steps that it has not learned from do not count."""
        self._write(self._folder / NEWEST)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Write the state at the end, as a checkpoint too."""
        self.learned = self.model.num_timesteps
        self._settle()
        self._write(self._folder / "checkpoints" / f"step-{self.learned}.zip")
        self.save()

    def _write(self, path: Path) -> None:
        collected, self.model.num_timesteps = self.model.num_timesteps, self.learned
        try:
            with atomic_path(path) as temporary:
                self.model.save(temporary)
        finally:
            self.model.num_timesteps = collected

    def _on_gradient_step(self, *_: Any) -> None:
        """Count the rollout; here, between two whole steps of the optimizer, a training may end."""
        self.learned = self.model.num_timesteps
        self._gradient_steps += 1
        self._bar.learn(self._gradient_steps * self._settings.batch_size / self._whole)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()
        with self._guard.abandoning():
            pass

    def _settle(self) -> None:
        self._gradient_steps = 0
        self._bar.settle()

    def _on_rollout_start(self) -> None:
        self._settle()
        if self.learned - self._checkpointed >= self._settings.checkpoint_every:
            self._checkpointed = self.learned
            self._write(self._folder / "checkpoints" / f"step-{self.learned}.zip")

    def _on_step(self) -> bool:
        now, settings = self.num_timesteps, self._settings
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self._bar.collect(now, sum(episode["l"] < settings.max_episode_steps for episode in ended))
        if now - self._evaluated >= settings.evaluate_every:
            self._evaluated = now
            started = time.perf_counter()
            with self._guard.abandoning():
                watched = self._bar.evaluation("evaluating", final=False)
                found = score(_agent(self.model, settings), settings, settings.world, report=watched)
            for name, value in (("success", found.success), ("spl", found.spl), ("return", found.reward)):
                self.logger.record(f"eval/{name}", value.mean)
            self.logger.dump(now)
            self.evaluating += time.perf_counter() - started
        return True


def _as_trained(envs: VecEnv, settings: PPOSettings, seed: int) -> Any:
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

"""`wm-env agent train` and `wm-env agent eval`: train PPO policies and score any agent."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from wm_env.cli.options import Ablate, Device, Dtype, Split, Task, Temperature, World
from wm_env.env import SanaWMEnv
from wm_env.progress import Bar, over
from wm_env.recording import Layout, check_film, film_player, record_video

# Upper layers, named by string.
_PPO, _PLAYERS = "wm_env.agents.ppo", "wm_env.agents.players"
_EVALUATE, _STARTS = "wm_env.agents.evaluate", "wm_env.agents.episode_starts"

SCRIPTED = ("random", "wander", "forward", "orbit", "goal")


@dataclass(frozen=True, kw_only=True)
class AgentTrain:
    """Train a PPO policy into the folder OUT: checkpoints, curves, a card with its scores, an episode."""

    out: Path
    """Folder of the run, new or empty; with --resume the folder of an earlier run."""
    world: World = "tiny"
    task: Task = "objectnav"
    context: Literal["none", "turn", "walk"] = "none"
    """What is shown of the scene before every episode: a turn on the spot, or a walk to the start."""
    steps: int = 200_000
    """Env steps over all slots; a step is a chunk of frames."""
    num_envs: int = 16
    """Slots, stepped in one model call."""
    max_episode_steps: int = 120
    """Time limit of an episode in env steps."""
    starts: Literal["any", "near", "in-view"] = "any"
    """Episodes trained on (objectnav): any; one or two rooms and the beacon within 30 steps; also in view."""
    scenes: int = 512
    """Scene seeds that near or in-view starts are drawn from."""
    lead_in: int = 0
    """Most steps that a training episode turns away before actions count; with --action-type multikeys."""
    action_type: Literal["keys", "multikeys", "camera"] = "keys"
    """Action space."""
    moves: str = ""
    """Key combinations the policy chooses among, such as w,a,d; goes with --action-type multikeys."""
    obs_type: Literal["rgb", "latent"] = "rgb"
    """What the policy sees."""
    obs_size: int | None = None
    """Side of the observed picture in pixels; the world's own by default."""
    sight: Literal["pixels", "goal-color"] = "pixels"
    """Pixels through SB3's convolutions, or only where the goal's colour is and how bright the rest."""
    hidden: int = 64
    """Width of the layer between sight and action, with --sight goal-color."""
    memory: Literal["none", "lstm"] = "none"
    """Whether the policy remembers; "lstm" is sb3-contrib's RecurrentPPO."""
    temperature: Temperature = 1.0
    ablate: Ablate = None
    dtype: Dtype = None
    blind: bool = False
    """Zero the picture: the baseline that cannot see."""
    rollout: int = 128
    """Env steps of a slot between updates."""
    batch_size: int = 256
    """Samples of a gradient step; must divide num-envs x rollout."""
    epochs: int = 4
    """Passes over each rollout."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    gamma: float = 0.99
    """Discount a step."""
    entropy: float = 0.01
    """Weight of the entropy bonus."""
    reward_scale: float = 1.0
    """Factor on the rewards that the learner sees."""
    evaluate_starts: Literal["any", "near", "in-view"] = "any"
    """Episodes scored on, as --starts."""
    evaluate_every: int = 50_000
    """Env steps between evaluations on unseen scenes."""
    evaluate_episodes: int = 50
    """Episodes of an evaluation."""
    checkpoint_every: int = 50_000
    """Env steps between checkpoints."""
    resume: bool = False
    """Go on from the newest checkpoint in OUT; every other setting must be as it was, --steps may grow."""
    device: Device = "cpu"
    threads: int = 2
    """CPU threads of torch."""
    seed: int = 0
    """Seed of episodes, policy and noise."""
    json: Path | None = None
    """File for the card as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        ppo = importlib.import_module(_PPO)
        own = ("out", "resume", "threads", "json", "overwrite")
        settings = {name: value for name, value in vars(self).items() if name not in own}
        _use(self.threads, self.seed)
        card = ppo.train(ppo.PPOSettings(**settings), self.out, resume=self.resume)
        for world, found in card["scores"].items():
            low, mean, high = (found["success"][name] for name in ("lo", "mean", "hi"))
            print(f"{self.out}: in {world}: success {mean:.2f} [{low:.2f}, {high:.2f}]")
        return card


@dataclass(frozen=True, kw_only=True)
class AgentEval:
    """Score an agent: a shipped policy, a run of `agent train`, or a scripted agent."""

    agent: tyro.conf.Positional[str]
    """objectnav, objectnav-blind (shipped); folder or file of a run; random, wander, forward, orbit, goal;
    module:function, called with (observations, state, starts)."""
    world: World = "tiny"
    task: Task | None = None
    """Task; a run's own by default, pointnav for a scripted agent."""
    context: Literal["none", "turn", "walk"] | None = None
    """What is shown before every episode; a run's own by default, none for a scripted agent."""
    episodes: int = 100
    """Episodes; episode i has the same scene, start and goal in every world."""
    starts: Literal["any", "near", "in-view"] | None = None
    """Episodes played, as in `agent train`; a run's own by default, any for a scripted agent."""
    moves: str = ""
    """Key combinations that the random agent draws from, such as w,a,d; all keys by default."""
    max_episode_steps: int | None = None
    """Time limit in env steps; a run's own by default, 120 for a scripted agent."""
    num_envs: int = 16
    """Slots, stepped in one model call."""
    split: Split = "val"
    deterministic: bool = False
    """Take the policy's most likely action instead of drawing."""
    video: Path | None = None
    """Film (.mp4 or .gif) of the agent in the first of the episodes, played once more after the scores."""
    device: Device = "cpu"
    threads: int = 2
    """CPU threads of torch."""
    seed: int = 0
    """Seed of an agent's own chances; the episodes are fixed."""
    json: Path | None = None
    """File for the scores as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if self.episodes < 1 or self.num_envs < 1:
            raise ValueError(f"--episodes {self.episodes} and --num-envs {self.num_envs} must be at least 1")
        if self.video is not None:
            check_film(self.video, overwrite=self.overwrite)
        _use(self.threads, self.seed)
        scoring = importlib.import_module(_EVALUATE)
        found = importlib.import_module(_PLAYERS).find_player(
            self.agent,
            task=self.task or ("pointnav" if self.agent in SCRIPTED else None),
            device=self.device,
            deterministic=self.deterministic,
            moves=self.moves,
        )
        starts = found.starts if self.starts is None else self.starts
        chosen = importlib.import_module(_STARTS)
        chosen.check_starts(starts, found.settings["task"])
        limit = found.max_episode_steps if self.max_episode_steps is None else self.max_episode_steps
        settings = {**found.settings, "world": self.world, "device": self.device, "split": self.split}
        if self.context is not None:
            settings["context"] = self.context
        seeds = chosen.evaluation_seeds(starts, self.episodes, self.split)
        with Bar(None, "evaluating", leave=False) as bar:
            results = scoring.evaluate(
                found.make(self.seed),
                seeds,
                num_envs=self.num_envs,
                max_episode_steps=limit,
                report=bar.to,
                **settings,
            )
        score = scoring.summarize(results)
        print(f"{self.agent} in {self.world}, {settings['task']}: {score}")
        if self.video is not None:
            self._film(found, settings, int(seeds[0]), limit)
        return {
            "agent": self.agent,
            **{name: settings[name] for name in ("world", "task", "split")},
            "context": settings.get("context", "none"),
            "starts": starts,
            "max_episode_steps": limit,
            "score": score.to_dict(),
            "episodes": [result._asdict() for result in results],
        }

    def _film(self, found: Any, settings: dict[str, Any], seed: int, limit: int) -> None:
        """Play the first episode once more, by itself, and write the film."""
        assert self.video is not None  # `run` has asked
        shown = {**settings, **found.shown()}
        env = SanaWMEnv(**shown, threads=self.threads)
        env.reset(seed=seed)
        layout = Layout(labels=(f"{self.agent} in {self.world}",), overlay=True)
        bar = over(film_player([env], found.player(self.seed), limit), limit + 1, "filming")
        frames = record_video(
            self.video, bar, layout, env.world.spec.fps, env.state, overwrite=self.overwrite
        )
        print(f"{self.video}: seed {seed}, {len(frames) - 1} steps")


def _use(threads: int, seed: int) -> None:
    if threads < 1 or seed < 0:
        raise ValueError(f"--threads {threads} must be at least 1 and --seed {seed} at least 0")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)

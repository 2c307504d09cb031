"""One player's session: keys in, frames out, and moments that can be kept. Knows no screen.

A learned world and its twin may run side by side: same start, same keys, the truth beside the dream. Times
are env steps; a step is K pixel frames.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.model.storage.atomic import numbered
from wm_env.model.storage.facts import shown, whole
from wm_env.play.futures import Future, imagine
from wm_env.recording import Layout, Player, Shot, check_encoder, held, pressed, record_video, shot
from wm_env.snapshots import Snapshot
from wm_env.tasks import make_task
from wm_env.twin import twin_like

BRANCH_STEPS = 8
MAX_RECORDED = 4096  # steps kept in memory while recording; then the film is written
COMMANDS = (
    *("keys", "pause", "step", "reset", "new_scene", "prompt"),
    *("record", "save", "restore", "branch", "take", "policy"),
)
_NEARER = "metres nearer the goal, 10 for reaching it"
LEARNED = (
    "weights",
    "refiner",
    "dtype",
    "ablate",
    "offload",
    "frame_size",
    "precision",
    "refiner_history",
    "window",
    "camera_dtype",
    "trust",
)  # settings the twin has not
REWARDS = {  # what a reward counts; another task's is its own affair
    "explore": "floor seen for the first time, m2",
    "follow": "0 on the reference walk, less off it",
    **dict.fromkeys(("pointnav", "objectnav", "imagenav"), _NEARER),
}


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """What is played.

    environment: keyword arguments of `SanaWMEnv`, but for its action type; "new scene" counts up from a scene
    that is given. compare: the twin runs beside the world. out: folder for films. seed: of the first episode.
    policy: name of who may play instead of the keyboard, made for an episode by `player(seed)`; it begins.
    """

    environment: dict[str, Any]
    compare: bool = True
    out: Path = Path("play")
    seed: int = 0
    policy: str = ""
    player: Callable[[int], Player] | None = None

    def __post_init__(self) -> None:
        if self.compare and self.environment.get("image") is not None:
            raise ValueError("an image of one's own has no true scene: play it without the twin")


class View(NamedTuple):
    """What there is to see.

    frames, twin: uint8 `(n, h, w, 3)`, the pixel frames since the last view (twin None where none runs).
    futures: uint8 `(4, h, w, 3)`, the last frames of the imagined futures, or None. facts: plain values for
    the page.
    """

    frames: np.ndarray
    twin: np.ndarray | None
    futures: np.ndarray | None
    facts: dict[str, Any]


class Session:
    """Holds the environments of one player; every method is called from one thread at a time."""

    def __init__(self, settings: PlaySettings) -> None:
        self._settings = settings
        self._env = SanaWMEnv(action_type="multikeys", **settings.environment)
        self._envs = [self._env]
        labels = [self._env.world.spec.label]
        if settings.compare and not self._env.world.spec.sees_scene:
            # what only the learned world takes is left to it
            same = {name: value for name, value in settings.environment.items() if name not in LEARNED}
            same["world"] = twin_like(self._env.world.spec)
            self._envs.append(SanaWMEnv(action_type="multikeys", **same))
            labels.append("twin (truth)")
        self._labels = tuple(labels)
        self._task = make_task(self._env.config.task).name
        self._walk = secrets.token_hex(4)
        self._seed, self._scene = settings.seed, settings.environment.get("scene")
        self._held = ""
        self._player: Player | None = None
        self._policy_plays = settings.player is not None
        self.paused = False
        self._film: list[Shot] | None = None
        self._film_path, self._recorded = self._next_film(), ""
        self._kept: list[Snapshot] = []
        self._futures: tuple[Future, ...] = ()
        self._ran = True  # before the futures were imagined
        self._message, self._reward, self._total = "", 0.0, 0.0
        self._fresh: tuple[np.ndarray, ...] = ()
        self._start(self._seed)

    @property
    def seconds_per_step(self) -> float:
        """How long a step lasts on screen."""
        return 1 / self._env.steps_per_second

    @property
    def running(self) -> bool:
        """Whether time goes on by itself."""
        return not self.paused and not self._ended

    def handle(self, message: dict[str, Any]) -> None:
        """Do what a page asks: `{"do": one of COMMANDS, ...}`; raise `ValueError` for anything else."""
        do = str(message.get("do"))
        simple: dict[str, Callable[[], None]] = {
            "step": self._single_step,
            "reset": self._reset,
            "new_scene": self._new_scene,
            "record": self._toggle_film,
            "save": self._save,
            "restore": self._restore,
            "branch": self._branch,
            "policy": self._toggle_policy,
        }
        self._message = ""
        if do == "keys":
            self._held = _keys(message.get("held"))
        elif do == "pause":
            self.paused = not self.paused
        elif do == "prompt":
            self._tell(message.get("text"))
        elif do == "take":
            self._take(message.get("slot"))
        elif do in simple:
            simple[do]()
        else:
            raise ValueError(f"unknown command {do!r}; known are {', '.join(COMMANDS)}")

    def advance(self) -> View:
        """Move one step with the keys held now, or as the policy does (nothing moves after an end)."""
        if not self._ended:
            self._step(self._next_keys())
        return self.view()

    def view(self) -> View:
        """Return what is to be seen, without moving."""
        frames = self._fresh
        futures = np.stack([future.frame for future in self._futures]) if self._futures else None
        info = {
            "walk": self._walk,
            "labels": list(self._labels),
            "held": self._shown_keys if self._policy_plays else self._held,
            "policy": self._settings.policy,
            "policy_plays": self._policy_plays,
            "keys": KEYS,
            "step": int(self._env.state.chunk[0]),
            "trained_steps": self._env.trained_steps,
            "task": self._task,
            "reward_is": REWARDS.get(self._task, ""),
            "reward": self._reward,
            "total": self._total,
            "collision": bool(self._env.state.collided[0]),
            "trust": self._trust(),
            "paused": self.paused,
            "ended": self._ended,
            "recording": 0 if self._film is None else len(self._film),
            "film": str(self._film_path),
            "recorded": self._recorded,
            "kept": len(self._kept),
            "kept_step": self._kept[0].steps if self._kept else None,
            "futures": [{"label": future.label, "ended": future.ended} for future in self._futures],
            "prompt": self._env.prompt,
            "seed": self._seed,
            "scene": int(self._env.state.scene_seed[0]) if bool(self._env.state.has_scene[0]) else None,
            "message": self._message,
        }
        return View(frames[0], frames[1] if len(frames) > 1 else None, futures, info)

    def greet(self) -> None:
        """Let a page that has come back go on: no key is held, and it is told where it is."""
        self._held = ""
        self._message = f"back in your walk at step {int(self._env.state.chunk[0])}"

    def close(self) -> None:
        """Write the film in progress, if there is one, and forget the episodes."""
        if self._film is not None:
            self._toggle_film()
        for env in self._envs:
            env.close()
        self._kept, self._futures, self._player = [], (), None  # moments hold whole states

    # ------------------------------------------------------------------------------------------------------

    @property
    def _ended(self) -> bool:
        return bool(self._env.state.terminated[0])

    def _trust(self) -> float | None:
        """Return the trust in what is seen, None where the world says none."""
        trusted = self._env.state.trust
        return None if trusted is None else float(trusted.value[0])

    def _start(self, seed: int) -> None:
        for env in self._envs:
            env.reset(seed=seed, options=None if self._scene is None else {"scene": self._scene})
        self._seed, self._futures, self._reward, self._total = seed, (), 0.0, 0.0
        self._fresh_player()
        self._seen(newest_only=True)

    def _tell(self, text: Any) -> None:
        """Set the prompt, and say that it is."""
        if not isinstance(text, str):
            raise ValueError(f"a prompt is a text, not a {type(text).__name__}")
        for env in self._envs:
            env.set_prompt(text)
        self._message = f"prompt set; {self._labels[0]} is told {text!r} from the next step on"

    def _step(self, keys: str) -> None:
        results = [env.step(pressed(keys)) for env in self._envs]
        self._reward, self._futures, self._shown_keys = float(results[0][1]), (), keys
        self._total += self._reward
        self._seen(newest_only=False, keys=keys)
        if self._ended:
            self._message = "the episode has ended; reset, restore or ask for a new scene"

    def _next_keys(self) -> str:
        if self._policy_plays and self._player is not None:
            return held(self._player(self._env), "multikeys")
        return self._held

    def _fresh_player(self) -> None:
        """Let a player with a memory forget: it has not seen what led to this moment."""
        make = self._settings.player
        self._player, self._shown_keys = None if make is None else make(self._seed), ""

    def _toggle_policy(self) -> None:
        if self._settings.player is None:
            raise ValueError("there is no policy to play; start with `wm-env play --policy NAME`")
        self._policy_plays = not self._policy_plays
        self._message = f"{self._settings.policy} plays" if self._policy_plays else "you play"

    def _seen(self, newest_only: bool, keys: str = "") -> None:
        now = shot(self._envs, keys, self._reward, newest_only)
        self._fresh = now.frames
        if self._film is not None:
            self._film.append(now)
            if len(self._film) >= MAX_RECORDED:
                self._toggle_film()

    def _single_step(self) -> None:
        self.paused = True
        if not self._ended:
            self._step(self._next_keys())

    def _reset(self) -> None:
        self._start(self._seed)
        self._message = "at the start again: the same scene and noise"

    def _new_scene(self) -> None:
        if isinstance(self._scene, int):
            self._scene += 1
        self._start(self._seed + 1)
        pictured = self._settings.environment.get("image") is not None
        self._message = "the same picture with other noise" if pictured else "a new scene"

    def _toggle_film(self) -> None:
        if self._film is None:
            check_encoder("play.mp4")
            self._film = [shot(self._envs, "", 0.0, newest_only=True)]
            self._film_path, self._recorded = self._next_film(), ""
            self._message = f"recording; stop writes {self._film_path}"
            return
        out = self._settings.out
        out.mkdir(parents=True, exist_ok=True)
        self._recorded = str(self._write_film(out, self._film).resolve())
        self._film = None  # only now: a full disk loses nothing, the button can be pressed again
        self._film_path = self._next_film()
        self._message = f"recorded {self._recorded}"

    def _next_film(self) -> Path:
        """Return where the next film goes, as long as no other session writes one before."""
        out = self._settings.out
        return (numbered(out, "play", ".mp4") if out.is_dir() else out / "play-000.mp4").resolve()

    def _write_film(self, out: Path, shots: list[Shot]) -> Path:
        """Write a film under the next free number; other sessions may write at the same time."""
        layout = Layout(labels=self._labels, overlay=True)
        while True:
            path = numbered(out, "play", ".mp4")
            try:
                record_video(path, shots, layout, self._env.world.spec.fps, self._env.state, overwrite=False)
            except FileExistsError:
                continue
            return path

    def _save(self) -> None:
        self._kept = [env.snapshot() for env in self._envs]
        self._message = f"kept the moment at step {self._kept[0].steps}"

    def _restore(self) -> None:
        if not self._kept:
            raise ValueError("no moment has been kept yet; press save first")
        for env, moment in zip(self._envs, self._kept, strict=True):
            env.restore(moment)
        self._futures = ()
        self._fresh_player()
        self._seen(newest_only=True)
        self._message = f"back at step {self._kept[0].steps}"

    def _branch(self) -> None:
        """Imagine where four keys lead from this moment."""
        if self._ended:
            raise ValueError("the episode has ended: it has no futures")
        if not self._futures:
            self._ran, self.paused = not self.paused, True
        self._futures = imagine(self._env, BRANCH_STEPS)
        ahead = BRANCH_STEPS * self.seconds_per_step
        self._message = f"{len(self._futures)} futures, {ahead:g} s ahead: choose one, or go on from here"

    def _take(self, slot: Any) -> None:
        """Go on from one of the imagined futures; the twin walks the same way."""
        if not self._futures:
            raise ValueError("there are no futures to choose from; press branch first")
        if not whole(slot, 0, len(self._futures) - 1):
            raise ValueError(f"future {shown(slot)} is not one of 0 to {len(self._futures) - 1}")
        chosen = self._futures[slot]
        for env in self._envs[1:]:
            for _ in range(chosen.steps):
                if not bool(env.state.terminated[0]):
                    env.step(pressed(chosen.keys))
        self._env.restore(chosen.moment)
        self.paused = not self._ran
        self._futures, self._reward = (), chosen.reward
        self._total += chosen.reward
        self._fresh_player()
        self._seen(newest_only=True)
        self._message = f"went {chosen.label}: step {chosen.moment.steps}"


def _keys(held: Any) -> str:
    if not isinstance(held, str) or set(held) - set(KEYS):
        raise ValueError(f"held keys {held!r} are not among {KEYS}")
    return held

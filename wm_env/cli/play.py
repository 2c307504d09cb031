"""`wm-env play`: walk through a world in a local browser page."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_env.cli.options import (
    CameraDtype,
    Context,
    Device,
    Dtype,
    FrameSize,
    Image,
    Offload,
    Precision,
    Prompt,
    Refiner,
    RefinerHistory,
    Scene,
    Split,
    Task,
    Weights,
    Window,
    World,
)
from wm_env.config import EnvConfig
from wm_env.contexts import SCENE_CONTEXTS
from wm_env.model.storage.atomic import check_folder
from wm_env.model.trust_calibration import known_calibration
from wm_env.play.session import PlaySettings, Session
from wm_env.recording import Player

_PLAYERS = "wm_env.agents.players"  # an upper layer, named by string


@dataclass(frozen=True, kw_only=True)
class Play:
    """Serve a page on this machine only: walk by keyboard or watch a policy, pause, step, record, branch."""

    world: World = "tiny"
    policy: str | None = None
    """Who plays until you press P: names, folders and functions as in `wm-env record --policy`."""
    deterministic: bool = False
    """Let a trained policy take its most likely action instead of drawing."""
    task: Task | None = None
    """Task; a trained policy's own by default, pointnav for goal, else explore."""
    solo: bool = False
    """Do not run the true twin beside the world. (A picture or clip of your own has none.)"""
    port: int = 8017
    """Port on 127.0.0.1; 0 takes a free one."""
    out: Path = Path("play")
    """Folder for recorded films; made when the first one is written."""
    scene: Scene = None
    split: Split = "val"
    image: Image = None
    context: Context = "none"
    prompt: Prompt = None
    weights: Weights = None
    refiner: Refiner = "default"
    dtype: Dtype = None
    offload: Offload = ("text",)
    frame_size: FrameSize = None
    precision: Precision = "bf16"
    refiner_history: RefinerHistory = 10
    window: Window = None
    camera_dtype: CameraDtype = "float32"
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    seed: int = 0
    """Seed of the first scene; "new scene" counts up, and so it does --scene."""
    json: Path | None = None
    """File for the settings played, as JSON, written at the end."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port {self.port} must be from 0 to 65535")
        check_folder(self.out)
        from wm_env.play.web import listen_on, serve  # a missing extra is told before any weight is read

        with listen_on(self.port) as listening:
            torch.set_num_threads(self.threads)
            shown, player = self._player()
            environment = {
                **shown,
                "world": self.world,
                "scene": self.scene,
                "split": self.split,
                "context": self.context,
                "weights": None if self.weights is None else str(self.weights),
                "refiner": self.refiner,
                "dtype": self.dtype,
                "offload": self.offload,
                "frame_size": self.frame_size,
                "precision": self.precision,
                "refiner_history": self.refiner_history,
                "window": self.window,
                "camera_dtype": self.camera_dtype,
                "device": self.device,
                "prompt": self.prompt,
                "image": None if self.image is None else str(self.image),
            }
            environment["trust"] = self._is_calibrated(environment)
            settings = PlaySettings(
                environment=environment,
                compare=not self.solo and self.image is None and self.context in ("none", *SCENE_CONTEXTS),
                out=self.out,
                seed=self.seed,
                policy=self.policy or "",
                player=player,
            )
            Session(settings).close()  # whatever is wrong is told here, not in the browser
            serve(settings, listening, lambda address: print(invitation(address), flush=True))
        return {**environment, "policy": self.policy, "out": str(self.out), "seed": self.seed}

    def _is_calibrated(self, environment: dict[str, Any]) -> bool:
        """Return whether the page can show how far the world is to be trusted."""
        spec = EnvConfig(**environment).load_world().spec
        return known_calibration(self.world, spec) is not None

    def _player(self) -> tuple[dict[str, Any], Callable[[int], Player] | None]:
        """Return the settings that a policy plays in, and what makes it for an episode."""
        if self.policy is None:
            return {"task": self.task or "explore"}, None
        found = importlib.import_module(_PLAYERS).find_player(
            self.policy, task=self.task, device=self.device, deterministic=self.deterministic
        )
        shown = found.shown()
        kind = shown.pop("action_type")
        if kind != "multikeys":
            raise ValueError(f"the page shows held keys; {self.policy!r} acts in {kind!r}: film it by record")
        return shown, found.player


def invitation(address: str) -> str:
    """Return where to play; over ssh, also how another machine's browser gets there."""
    said = f"play at {address} (Ctrl+C ends)"
    reached = os.environ.get("SSH_CONNECTION", "").split()  # their address and port, ours and ours
    if len(reached) != 4:
        return said
    port = address.rstrip("/").rpartition(":")[2]
    other = "" if reached[3] == "22" else f" -p {reached[3]}"
    return (
        f"{said}\nover ssh: run `ssh -N -L {port}:127.0.0.1:{port}{other} {reached[2]}` on your own machine, "
        "then open that address there"
    )

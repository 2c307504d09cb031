"""`wm-env play`: walk through a world in a local browser page."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_env.cli.options import Context, Device, Image, Prompt, Split, Task, World
from wm_env.model.storage.atomic import check_folder
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
    """Do not run the true twin beside the world."""
    port: int = 8017
    """Port on 127.0.0.1; 0 takes a free one."""
    out: Path = Path("play")
    """Folder for recorded films; made when the first one is written."""
    split: Split = "val"
    image: Image = None
    context: Context = "none"
    prompt: Prompt = None
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch."""
    seed: int = 0
    """Seed of the first scene; "new scene" counts up."""
    json: Path | None = None
    """File for the settings played, as JSON, written at the end."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port {self.port} must be from 0 to 65535")
        check_folder(self.out)
        torch.set_num_threads(self.threads)
        shown, player = self._player()
        environment = {
            **shown,
            "world": self.world,
            "split": self.split,
            "context": self.context,
            "device": self.device,
            "prompt": self.prompt,
            "image": None if self.image is None else str(self.image),
        }
        settings = PlaySettings(
            environment=environment,
            compare=not self.solo and self.image is None,
            out=self.out,
            seed=self.seed,
            policy=self.policy or "",
            player=player,
        )
        Session(settings).close()  # whatever is wrong is told here, not in the browser
        from wm_env.play.web import serve

        serve(settings, self.port, lambda address: print(f"play at {address} (Ctrl+C ends)", flush=True))
        return {**environment, "policy": self.policy, "out": str(self.out), "seed": self.seed}

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

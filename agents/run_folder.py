"""The folder of a PPO run: whose it is, how far it got, and what a killed process left in it.

`policy.zip` is the newest state: the first is written before the first step, so a folder that holds
`settings.json` can be gone on with, whatever ended it.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from wm_env.agents.policies import PPOSettings, read_settings
from wm_env.model.storage.atomic import remove_leftovers, write_atomic

NEWEST = "policy.zip"


def check_run(folder: Path, settings: PPOSettings, resume: bool) -> None:
    """Raise `OSError` or `ValueError` with the way out where `folder` does not fit; changes nothing.

    Without `resume` the folder must be new, empty or hold what a process killed at its start left. With it,
    it must hold a run of the same settings, but for the number of steps.
    """
    begun = (folder / "settings.json").is_file()
    if not resume:
        if begun:
            raise FileExistsError(
                f"{str(folder)!r} is not empty: it holds a run; go on with --resume or give another folder"
            )
        if folder.exists() and any(not path.name.startswith(".settings-") for path in folder.iterdir()):
            raise FileExistsError(f"{str(folder)!r} is not empty; give another folder")
        return
    if not begun:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no checkpoint to resume from; leave out --resume to begin a run"
        )
    old, new = asdict(read_settings(folder)), asdict(settings)
    odd = [f"{name}: {old[name]!r} then, {new[name]!r} now" for name in new if old[name] != new[name]]
    odd = [text for text in odd if not text.startswith("steps:")]
    if odd:
        raise ValueError("a resumed run keeps its settings; " + "; ".join(odd))


def open_run(folder: Path, settings: PPOSettings) -> Path | None:
    """Return the state to go on from, None to begin at step 0, in a folder that `check_run` let pass.

    What killed processes left is removed, and lines of `progress.jsonl` from after that state are dropped.
    """
    begun = (folder / "settings.json").is_file()
    folder.mkdir(parents=True, exist_ok=True)
    for home in (folder, folder / "checkpoints"):
        remove_leftovers(home)
    write_atomic(folder / "settings.json", (json.dumps(asdict(settings), indent=2) + "\n").encode())
    (folder / "checkpoints").mkdir(exist_ok=True)  # a run that has begun has settings
    saved = [*folder.glob("checkpoints/step-*.zip"), *folder.glob(NEWEST)]
    newest = max(saved, key=steps_of, default=None)
    if begun:
        done = 0 if newest is None else steps_of(newest)
        print(f"{folder}: goes on after step {done}" + ("" if saved else ", for none was saved"))
        _drop_after(folder / "progress.jsonl", done)
    return newest


def steps_of(saved: Path) -> int:
    """Return the env steps that a policy saved by SB3 has learned from; no pickle in it is opened."""
    try:
        with zipfile.ZipFile(saved) as file:
            return int(json.loads(file.read("data"))["num_timesteps"])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{str(saved)!r} is no policy that SB3 saved ({error}); delete it") from error


def _drop_after(path: Path, done: int) -> None:
    """Drop the lines of later steps from `progress.jsonl`, and one that was cut off."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    kept = "".join(line for line in lines if json.loads(line)["env_steps"] <= done)
    if kept != text:
        write_atomic(path, kept.encode())

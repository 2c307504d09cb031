"""Files of Stable-Baselines3 run what they hold: a warning comes before, whoever loads one."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from wm_env.agents.policies import PPOSettings, load_policy
from wm_env.agents.ppo import train
from wm_env.agents.run_folder import open_run
from wm_env.agents.sb3_files import load_zip
from wm_env.agents.transfer.players import user_player
from wm_env.agents.transfer.settings import TransferSettings

pytest.importorskip("stable_baselines3", reason="the extra rl is not installed")


class Planted:
    """What somebody put into a policy: it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def policy_with(content: Planted, path: Path) -> Path:
    text = base64.b64encode(cloudpickle.dumps(content)).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        planted = {":type:": "x", ":serialized:": text}
        file.writestr("data", json.dumps({"num_timesteps": 1, "policy_class": planted}))
        file.writestr("_stable_baselines3_version", "2.9.2")
    return path


SMALL = PPOSettings(
    world="twin", task="objectnav", num_envs=1, rollout=8, steps=8, batch_size=8, max_episode_steps=4
)


def by_eval(zipped: Path) -> None:
    load_policy(zipped)


def by_resume(zipped: Path) -> None:
    train(SMALL, zipped.parent, resume=True, progress=False)


def by_transfer(zipped: Path) -> None:
    user_player(str(zipped), TransferSettings(learner=dataclasses.replace(SMALL, world="tiny")))


def plain(zipped: Path) -> None:
    (zipped.parent / "settings.json").unlink()
    user_player(str(zipped), TransferSettings(learner=dataclasses.replace(SMALL, world="tiny")))


@pytest.mark.parametrize("load", [by_eval, by_resume, by_transfer, plain])
def test_nothing_is_unpickled_before_a_warning(load: Callable[[Path], Any], tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    open_run(tmp_path / "run", SMALL)
    zipped = policy_with(Planted(proof), tmp_path / "run" / "policy.zip")
    said = []

    def note(message: Warning | str, *_: object, **__: object) -> None:
        said.append((str(message), proof.exists()))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        with pytest.raises(ValueError, match="no policy that"):  # after what was planted ran
            load(zipped)
    ours = [found for found in said if "holds pickles" in found[0]]
    assert ours and not ours[0][1] and str(zipped) in ours[0][0]
    assert proof.is_dir()  # it ran, as SB3 does: the warning is all that stands before it


def test_a_file_that_is_no_policy_is_one_sentence(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("data", "{}")
    for content, says in ((None, "no policy that"), (b"PK nothing", "wasn't a zip-file")):
        if content is not None:
            (tmp_path / "a.zip").write_bytes(content)
        with pytest.warns(UserWarning, match="holds pickles"), pytest.raises(ValueError, match=says):
            load_zip(PPO, tmp_path / "a.zip", device="cpu")

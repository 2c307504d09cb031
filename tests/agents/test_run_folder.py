"""The folder of a PPO run can be gone on with whatever ended it, or says what to do."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import pytest

from wm_env.agents.policies import PPOSettings
from wm_env.agents.run_folder import check_run, open_run, steps_of

SETTINGS = PPOSettings(world="twin", task="objectnav")


def save(path: Path, steps: int) -> Path:
    """Write what `steps_of` reads of a policy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", json.dumps({"num_timesteps": steps, "policy_class": {":serialized:": "gAWV"}}))
    return path


def test_a_run_goes_on_from_the_state_that_learned_most(tmp_path: Path) -> None:
    assert open_run(tmp_path, SETTINGS) is None
    older = save(tmp_path / "checkpoints" / "step-900.zip", 900)
    newest = save(tmp_path / "policy.zip", 1000)
    check_run(tmp_path, SETTINGS, resume=True)
    assert open_run(tmp_path, SETTINGS) == newest and steps_of(newest) == 1000
    newest.unlink()  # runs of 0.1 had none before their end
    assert open_run(tmp_path, SETTINGS) == older


def test_a_run_that_was_killed_at_any_file_can_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".settings-abcd1234.json").touch()  # killed while the first file was written
    check_run(tmp_path, SETTINGS, resume=False)
    assert open_run(tmp_path, SETTINGS) is None and capsys.readouterr().out == ""
    (tmp_path / ".policy-abcd1234.zip").write_bytes(b"PK")  # while the first state was written
    check_run(tmp_path, SETTINGS, resume=True)
    assert open_run(tmp_path, SETTINGS) is None
    assert "goes on after step 0, for none was saved" in capsys.readouterr().out
    save(tmp_path / "policy.zip", 32)
    (tmp_path / "checkpoints" / ".step-48-abcd1234.zip").write_bytes(b"PK")  # while a later one was
    rows = [json.dumps({"env_steps": steps}) for steps in (16, 32, 48)]
    (tmp_path / "progress.jsonl").write_text("\n".join([*rows, rows[0][:5]]))
    open_run(tmp_path, SETTINGS)
    assert "goes on after step 32\n" in capsys.readouterr().out
    assert (tmp_path / "progress.jsonl").read_text().splitlines() == rows[:2]
    assert not list(tmp_path.rglob(".*"))


def test_what_does_not_fit_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="leave out --resume"):
        check_run(tmp_path / "none", SETTINGS, resume=True)
    open_run(tmp_path, SETTINGS)
    with pytest.raises(FileExistsError, match="go on with --resume or give another folder"):
        check_run(tmp_path, SETTINGS, resume=False)
    check_run(tmp_path, dataclasses.replace(SETTINGS, steps=1), resume=True)
    with pytest.raises(ValueError, match=r"gamma: 0\.99 then, 0\.5 now"):
        check_run(tmp_path, dataclasses.replace(SETTINGS, gamma=0.5), resume=True)
    (tmp_path / "policy.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="delete it"):
        open_run(tmp_path, SETTINGS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(FileExistsError, match="is not empty; give another folder"):
        check_run(tmp_path / "other", SETTINGS, resume=False)

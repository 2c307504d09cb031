"""The code of the documentation runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import wm_env

PAGE = Path(__file__).resolve().parents[2] / "docs/environment.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0][:40] for block in BLOCKS])
def test_a_printed_example_runs(
    block: str, pure_world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = gym.make("SanaWM-v0", world=pure_world)
    env.reset(seed=0)
    names: dict[str, Any] = {"gym": gym, "wm_env": wm_env, "env": env}
    exec(re.sub(r'(make(_vec)?\("[^"]*")', rf'\1, world="{pure_world}"', block), names)


def test_every_task_and_type_is_documented() -> None:
    from wm_env.actions import ACTION_TYPES
    from wm_env.observations import OBS_TYPES
    from wm_env.registration import TASK_IDS
    from wm_env.tasks import TASKS

    text = PAGE.read_text()
    named = [f"`{name}`" for name in (*TASKS, *TASK_IDS)]
    named += [f'`"{name}"`' for name in (*ACTION_TYPES, *OBS_TYPES)]
    assert [name for name in named if name not in text] == []

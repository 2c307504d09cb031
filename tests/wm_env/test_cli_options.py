"""An option that is a setting of the environment says what docs/api.md says of it."""

from __future__ import annotations

import dataclasses
import importlib
import typing

import pytest

from wm_env.cli import COMMANDS
from wm_env.config import EnvConfig
from wm_env.documented import fields_of

# commands whose option of that name is something else, or more than the setting
OTHERS = {
    ("info", "world"): "which of all worlds to describe",
    ("agent eval", "task"): "the run's own by default",
    ("record", "task"): "a policy's own by default",
    ("play", "task"): "a policy's own by default",
    ("record", "trust"): "drawn, as a bar",
    ("bench drift", "world"): "several worlds",
    ("bench drift", "context"): "of every walk",
    ("bench throughput", "dtype"): "several, one variant each",
    ("bench throughput", "world"): "several",
    ("bench transfer", "task"): "the tasks that have a goal",
    ("annotate", "depth"): "a depth estimator that makes metres",
    ("annotate", "device"): "of the depth estimator",
    ("context check", "world"): "whose depth network looks at the pictures",
    ("context check", "intrinsics"): "of the clip",
    ("train parts", "world"): "a world to take apart",
    ("train import", "device"): "of the decoder and the depth network",
    ("agent train", "action_type"): "those that a policy of this package can have",
    ("agent train", "obs_type"): "those that a policy of this package can see",
    ("agent train", "obs_size"): "a side alone",
    ("agent train", "context"): "those of scenes, that the tasks need",
    ("agent eval", "context"): "the same, and a run's own by default",
}


def own_fields() -> list[tuple[str, str]]:
    """Return every (command, option) whose name is that of a setting."""
    settings = {field.name for field in dataclasses.fields(EnvConfig)}
    found = []
    for name, command in COMMANDS.items():
        module, _, cls = command.target.partition(":")
        target = vars(importlib.import_module(module))[cls]
        if isinstance(target, type):
            found += [(name, f.name) for f in dataclasses.fields(target) if f.name in settings]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("command", "option"), own_fields())
def test_an_option_has_the_text_of_its_setting(command: str, option: str) -> None:
    module, _, cls = COMMANDS[command].target.partition(":")
    hints = typing.get_type_hints(vars(importlib.import_module(module))[cls], include_extras=True)
    marks = getattr(hints[option], "__metadata__", ())
    if (command, option) in OTHERS:
        assert marks == (), f"{command} --{option} has the setting's text; take it off the list"
        return
    said = fields_of(EnvConfig)[option].split("; in Python ")[0]
    assert [mark.help.lower() for mark in marks] == [said.lower()], f"{command} --{option}"


def test_every_exception_is_an_option() -> None:
    assert set(OTHERS) <= set(own_fields())

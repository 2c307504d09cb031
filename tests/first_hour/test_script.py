"""The script of the first hour: what it lists and chooses, and that it stops where something fails."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script() -> Iterator[ModuleType]:
    """The script as a module; the working folder is as before afterwards."""
    found = importlib.util.spec_from_file_location("first_hour", Path(__file__).with_name("first_hour.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    before = Path.cwd()
    yield module
    os.chdir(before)


def test_there_are_twenty_actions_and_what_they_need_comes_before(script: ModuleType) -> None:
    names = [action.name for action in script.ACTIONS]
    assert len(names) == len(set(names)) == 20
    for place, action in enumerate(script.ACTIONS):
        assert action.does.__doc__ and set(action.needs) <= set(names[:place])


def test_some_are_done_with_what_they_need(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--list", "--only", "minari", "clip"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "episodes",
        "clip",
        "minari",
    ]
    with pytest.raises(SystemExit, match="no action walk; there are install, demo"):
        script.main(["--only", "walk"])


def test_the_first_action_that_fails_ends_the_hour(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Path] = []

    def right() -> None:
        """Right."""
        done.append(Path.cwd())

    def wrong() -> None:
        """Wrong."""
        script.python("print('said before'); raise SystemExit(3)")

    assert script.hour([script.Action("a", right), script.Action("b", wrong), script.Action("c", right)]) == 1
    told = capsys.readouterr().out
    assert "a: Right." in told and re.search(r"b: stuck\n.*exit status 3\nsaid before", told)
    assert len(done) == 1 and not done[0].exists()
    assert script.hour([script.Action("a", right)]) == 0
    assert "1 actions of the first hour work" in capsys.readouterr().out


def test_a_command_that_fails_is_shown_and_one_that_should_is_not(script: ModuleType) -> None:
    with pytest.raises(script.Stuck, match="unknown command 'recrod'; did you mean `wm-env record`"):
        script.wm("recrod")
    assert "did you mean" in script.wm("recrod", status=2)


def test_the_first_hour_is_done_where_it_is_said_to_be() -> None:
    readme, make = ROOT / ".ci" / "readme", ROOT / "Makefile"
    assert "python tests/first_hour/first_hour.py" in readme.read_text(encoding="utf-8")
    assert re.search(r"^first-hour: .*\n\t.*tests/first_hour/first_hour.py", make.read_text(), re.M)
    assert ".ci/readme" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")

"""What the pages and the heads of the examples print exists: commands, options, Python code, names.

A line that begins with a command is a whole command and is parsed as it stands. A command within a sentence,
or one with `...` in it, may lack words: then the command and its options must exist.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import pytest
import tyro

import wm_env
from wm_env.actions import ACTION_TYPES
from wm_env.cli import COMMANDS, TRAIN, main
from wm_env.model.training.command import build_parser
from wm_env.observations import OBS_TYPES
from wm_env.registration import TASK_IDS
from wm_env.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HEADS = sorted((ROOT / "examples").glob("*.py"))
PROGRAMS = r"(?:wm-env (?=[a-z])|python -m wm_env\.|python examples/)"


class Printed(NamedTuple):
    """A command: its words, and whether they are all."""

    words: list[str]
    whole: bool


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    """Return a page, or the docstring at the head of a script, with continued lines joined."""
    text = path.read_text() if path.suffix == ".md" else path.read_text().split('"""')[1]
    return text.replace("\\\n", " ")


def commands(text: str) -> Iterator[Printed]:
    """Yield every command that is printed on a line of its own or, in backquotes, within a sentence."""
    for line in re.findall(rf"^\s*({PROGRAMS}.+)$", text, re.M):
        words = shlex.split(line, comments=True)
        yield Printed(words, "..." not in words)
    for code in re.findall(rf"`({PROGRAMS}[^`]+)`", text):
        yield Printed(shlex.split(code), False)


def problem(command: Printed, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Return what is wrong with a command, None where nothing is."""
    program, *words = command.words
    if program == "python":
        return problem_of_script(words)
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    if name is None:
        group = any(other.startswith(f"{words[0]} ") for other in COMMANDS) and not words[1:]
        return None if group else "no such command"
    if command.whole:
        module, _, cls = COMMANDS[name].target.partition(":")
        if name.startswith("train ") and COMMANDS[name].target == TRAIN:
            return refused_training([name.removeprefix("train "), *words[2:]])
        try:
            tyro.cli(vars(importlib.import_module(module))[cls], args=words[len(name.split()) :])
        except SystemExit as refused:
            return None if refused.code == 0 else "refused: " + "".join(capsys.readouterr())
        return None
    with pytest.raises(SystemExit) as asked:
        main([*name.split(), "--help"])
    told = capsys.readouterr().out
    options = [word for word in words if word.startswith("--")]
    missing = [option for option in options if not re.search(rf"{option}(?![\w-])", told)]
    return f"no options {missing}" if missing or asked.value.code != 0 else None


def refused_training(words: list[str]) -> str | None:
    """Return why the command line of the trainings would refuse these words; "..." or none stand for more."""
    unfinished = "..." in words or not any(word.startswith("--") for word in words)
    try:
        build_parser().parse_args([word for word in words if word != "..."])
    except ValueError as refused:
        return None if unfinished and "required" in str(refused) else f"refused: {refused}"
    return None


def problem_of_script(words: list[str]) -> str | None:
    """Return what is wrong with `python FILE ...` or `python -m MODULE ...`; its options are in its code."""
    if words[0] == "-m":
        _, module, *rest = words
        if module == "wm_env.model.training":
            return refused_training(rest)
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{module}.__main__")
        path = None if spec is None or spec.origin is None else Path(spec.origin)
    else:
        path, rest = ROOT / words[0], words[1:]
    if path is None or not path.is_file():
        return "no such file"
    missing = [word for word in rest if word.startswith("--") and f'"{word}"' not in path.read_text()]
    return f"no options {missing}" if missing else None


@pytest.mark.parametrize("path", [*PAGES, *HEADS], ids=name_of)
def test_every_printed_command_exists_with_its_options(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {shlex.join(command.words): problem(command, capsys) for command in commands(text_of(path))}
    assert {line: wrong for line, wrong in found.items() if wrong} == {}


def test_every_command_is_printed_somewhere() -> None:
    lines = [shlex.join(command.words) for page in PAGES for command in commands(text_of(page))]
    assert [name for name in COMMANDS if not any(f"wm-env {name} " in f"{line} " for line in lines)] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("    wm-env record --out walk.mp4 --steps 3   # a walk", None),
        ("wm-env record --out walk.mp4 \\\n  --step-count 3", "step-count"),
        ("wm-env record --steps three", "refused"),
        ("wm-env recite", "no such command"),
        ("wm-env train refiner --lora 4 ...", None),
        ("wm-env train refiner --laura 4 ...", "--laura"),
        ("see `wm-env record --trajectory` and more", None),
        ("see `wm-env record --trajectories`", "--trajectories"),
        ("python -m wm_env.kernels.bench --json x", None),
        ("python -m wm_env.kernels.bench --jason x", "--jason"),
        ("python -m wm_env.kernels.bank", "no such file"),
        ("python examples/quickstart.py --steps 3", None),
        ("python examples/slowstart.py", "no such file"),
    ],
)
def test_a_wrong_command_is_found(text: str, wrong: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = commands(text.replace("\\\n", " "))
    found = problem(command, capsys)
    assert found is None if wrong is None else wrong in (found or "")


# Python -----------------------------------------------------------------------------------------------------


def on(world: str) -> Callable[[str], str]:
    """Return the change that makes every environment of a block, but the twin, one on `world`."""
    return lambda code: re.sub(r'((?:make|make_vec)\("SanaWM-(?!Twin)[^"]*")', rf'\1, world="{world}"', code)


def small(code: str, world: str) -> str:
    """Return code of the agents page, on `world` and with less to train, where it names no world itself."""
    sizes = (
        ('task="pointnav"', f'world="{world}", task="pointnav"'),
        ("VecEnv(16,", "VecEnv(2,"),
        ("learn(256)", "learn(32)"),
    )
    for old, new in sizes if 'world="twin"' not in code else ():
        code = code.replace(old, new)
    return code


def started(world: str) -> dict[str, Any]:
    """Return what the blocks of the environment page begin with."""
    env = gym.make("SanaWM-v0", world=world)
    env.reset(seed=0)
    return {"gym": gym, "wm_env": wm_env, "env": env}


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


APART = [
    "docs/environment.md",
    "docs/agents.md",
    "docs/scaling.md",
]  # pages whose blocks each stand on their own
NEEDS_RELEASED_WEIGHTS = "docs/released_weights.md"  # run in tests/model/released, on random weights


def test_the_readmes_python_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "README.md"):
        exec(block, names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "block"),
    [
        pytest.param(page, block, id=f"{Path(page).stem}: {block.splitlines()[0][:40]}")
        for page in APART
        for block in blocks(ROOT / page)
    ],
)
def test_a_printed_example_runs(
    page: str, block: str, pure_world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if page == "docs/environment.md":
        world = "tiny-pure" if "trust" in block.lower() else pure_world  # trust needs a calibration
        exec(on(world)(block), started(pure_world))
    elif page == "docs/scaling.md":
        needed = re.findall(r'needs: pip install "wm-env\[(\w+)\]"', block)
        for extra in needed:
            pytest.importorskip(extra, reason=f"the extra `{extra}` is not installed")
        exec(block.replace('task="objectnav"', f'task="objectnav", world="{pure_world}"'), {})
    else:
        exec(small(block, pure_world), {})


def test_no_page_prints_python_that_nobody_runs() -> None:
    pages = {name_of(page) for page in PAGES if blocks(page)}
    assert pages == {"README.md", *APART, NEEDS_RELEASED_WEIGHTS}


def test_every_task_id_and_type_is_in_the_guide_of_the_environment() -> None:
    text = (ROOT / "docs/environment.md").read_text()
    named = [f"`{name}`" for name in (*TASKS, *TASK_IDS)]
    named += [f'`"{name}"`' for name in (*ACTION_TYPES, *OBS_TYPES)]
    assert [name for name in named if name not in text] == []

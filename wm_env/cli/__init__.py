"""The `wm-env` command: a table of subcommands, each loaded when it is asked for.

A command is a frozen dataclass (its fields are the options, their docstrings the help) with
`run() -> dict`, the JSON result; those of the trainings are one function of the command's name and its words,
for they also run on a bare checkout (`model/training/command.py`). To add one, write a module and a row in
`COMMANDS`.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wm_env import __version__
from wm_env.model.interrupts import Interrupted, end_process, terminated_like_interrupted
from wm_env.model.names import nearest
from wm_env.model.options import check_options, check_result
from wm_env.model.storage.atomic import expanded, write_text
from wm_env.progress import close_bars


class Command(NamedTuple):
    """Where a command lives, `"module:Dataclass"` or `"module:function"`, and a line of help.

    again: how it goes on after a signal.
    """

    target: str
    help: str
    again: str = "nothing half-written is left"


TRAIN = "wm_env.cli.train:train"
SAME = "the same command goes on"
COMMANDS = {
    "info": Command("wm_env.cli.info:Info", "versions, worlds and their weights"),
    "download": Command(
        "wm_env.cli.download:Download", "fetch released weights", "the same command fetches what is missing"
    ),
    "record": Command(
        "wm_env.cli.record:Record",
        "walk through a world and write a video",
        "finished episodes of a dataset are kept and the same command goes on; a video starts over",
    ),
    "annotate": Command(
        "wm_env.cli.annotate:Annotate",
        "find the poses of a film, and make clips of it",
        "finished stages and clips are kept; the same command goes on",
    ),
    "context check": Command("wm_env.cli.context:ContextCheck", "whether a clip's poses fit its pictures"),
    "export": Command(
        "wm_env.cli.export:Export",
        "recorded episodes as LeRobot or Minari data, or as a film",
        "the episodes are as they were; the same command starts over",
    ),
    "bench drift": Command(
        "wm_env.cli.bench:Drift",
        "how a world drifts over long episodes; HTML report",
        "finished groups of walks are kept; the same command goes on",
    ),
    "bench throughput": Command(
        "wm_env.cli.bench:Throughput",
        "cost of a step by batch size and length",
        "nothing is kept, for timings belong to one run; the same command starts over",
    ),
    "bench fidelity": Command(
        "wm_env.cli.bench:Fidelity",
        "truth of frames by horizon, beside baselines",
        "finished rows are kept; the same command goes on",
    ),
    "bench context": Command(
        "wm_env.cli.bench_context:BenchContext",
        "what more pictures of a place are worth to a world",
        "finished rows are kept; the same command goes on",
    ),
    "bench trust": Command(
        "wm_env.cli.bench_trust:BenchTrust",
        "whether a world's trust and surprise are right",
        "finished parts are kept; the same command goes on",
    ),
    "bench annotate": Command(
        "wm_env.cli.bench_annotate:BenchAnnotate",
        "poses that are found in films, against the truth",
        "finished films and tracks are kept; the same command goes on",
    ),
    "bench published": Command(
        "wm_env.cli.bench_published:Published",
        "run a SANA-WM-Bench folder in the published layout",
        "finished videos are kept; the same command goes on",
    ),
    "bench transfer": Command(
        "wm_env.cli.bench_transfer:Transfer",
        "score policies of a learned world in the true one",
        "trainings and finished scores are kept; the same command goes on",
    ),
    "trust calibrate": Command(
        "wm_env.cli.trust:Calibrate", "learn how far a world's frames can be trusted", "nothing is kept"
    ),
    "surprise": Command("wm_env.cli.trust:FilmSurprise", "how unexpected a film is to a world, by chunk"),
    "train data": Command(TRAIN, "render clips of procedural scenes", SAME),
    "train import": Command("wm_env.cli.train_import:TrainImport", "check recorded clips and make them data"),
    "train parts": Command("wm_env.cli.train_import:TrainParts", "take a world apart, to train it further"),
    "train vae": Command(TRAIN, "train the autoencoder and its depth network", SAME),
    "train depth": Command(TRAIN, "train the depth network further", SAME),
    "train latents": Command(TRAIN, "encode clips with the autoencoder", SAME),
    "train refiner": Command(TRAIN, "train the pixel refiner", SAME),
    "train world": Command(TRAIN, "train the transformer", SAME),
    "train self-forcing": Command(TRAIN, "train a world on its own rollouts", SAME),
    "train distill": Command(TRAIN, "train a world of fewer denoising steps", SAME),
    "train judge": Command(TRAIN, "train the network that finds floor and ceiling in pictures", SAME),
    "train imagine": Command(TRAIN, "train the embedded worlds by one recipe, within a budget", SAME),
    "play": Command(
        "wm_env.cli.play:Play",
        "walk through a world in a local browser page",
        "films in progress are written",
    ),
    "agent train": Command("wm_env.cli.agent:AgentTrain", "train a PPO policy in a world"),
    "agent eval": Command("wm_env.cli.agent:AgentEval", "score a trained or scripted agent"),
}

BAD_INPUT = 2  # exit status of bad usage and of bad input
INTERRUPTED = 130  # of a command that was ended by Ctrl+C, as shells count it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and exit: 0 on success only, 2 with one line on standard error on bad input.

    arguments: by default those of this process, which then ends at once after a signal.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends nothing
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        sys.exit(0 if words else BAD_INPUT)
    if words[0] == "--version":
        print(f"wm-env {__version__}")
        sys.exit(0)
    if words[0] == "--completion":
        sys.exit(_completion(words[1:]))
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    group = {name: command for name, command in COMMANDS.items() if name.startswith(f"{words[0]} ")}
    if name is None and group and words[1:2] in ([], ["-h"], ["--help"]):
        print(overview(group))
        sys.exit(0 if words[1:] else BAD_INPUT)
    if name is None:
        sys.exit(_complain("wm-env", _no_command(words, group)))
    status = run(name, words[len(name.split()) :])
    if status > INTERRUPTED - signal.SIGINT and arguments is None:
        end_process(status)
    sys.exit(status)


def run(name: str, words: Sequence[str]) -> int:
    """Parse the options of command `name`, run it, write its JSON result; return the exit status.

    SIGINT and SIGTERM end it alike: one line, and 128 plus the signal's number.
    """
    try:
        with terminated_like_interrupted():
            return _run(name, words)
    except KeyboardInterrupt as stop:
        close_bars()
        print(f"wm-env {name}: {str(stop) or f'interrupted; {COMMANDS[name].again}'}", file=sys.stderr)
        return 128 + stop.signal if isinstance(stop, Interrupted) else INTERRUPTED
    finally:
        close_bars()


def _run(name: str, words: Sequence[str]) -> int:
    import gymnasium as gym
    import tyro

    from wm_env.cli.words import options_of, refuse

    who = f"wm-env {name}"
    module, _, cls = COMMANDS[name].target.partition(":")
    try:
        found = vars(importlib.import_module(module))[cls]
        if not isinstance(found, type):
            found(name, words)
            return 0
        refuse(options_of(found), words)
        command: Any = _at_home(tyro.cli(found, args=list(words), prog=who))
        check_options(vars(command))
        if command.json is not None:
            check_result(vars(command))
        result = command.run()
        if command.json is not None:
            write_json(command.json, result, overwrite=command.overwrite)
    except (ValueError, OSError, ImportError, FloatingPointError, gym.error.Error) as error:
        close_bars()
        return _complain(who, str(error))
    return 0


def overview(commands: Mapping[str, Command] = COMMANDS) -> str:
    """Return the list of commands."""
    width = max(len(name) for name in commands)
    rows = [f"  {name:<{width}}  {command.help}" for name, command in commands.items()]
    usage = "usage: wm-env COMMAND [options]; `wm-env COMMAND --help` lists them"
    own = [
        "",
        "  --version           print the version",
        "  --completion SHELL  print what makes bash or zsh complete commands, options and values",
    ]
    return "\n".join([usage, "", *rows, *(own if commands is COMMANDS else [])])


def _no_command(words: Sequence[str], group: Mapping[str, Command]) -> str:
    """Return what is said of words that begin with no command. group: commands of the first word."""
    said = " ".join(words[: 2 if group else 1])
    both = " ".join(words[:2])
    near = nearest(both, COMMANDS) if group else nearest(both, COMMANDS) or nearest(words[0], COMMANDS)
    last = {name.split()[-1]: name for name in group or COMMANDS}
    near = near or [last[word] for word in nearest(words[1 if group else 0], last)]
    where = f"`wm-env {words[0]} --help`" if group else "`wm-env --help`"
    hint = f"did you mean `wm-env {near[0]}`?" if near else f"{where} lists them"
    return f"unknown command {said!r}; {hint}"


def _completion(words: Sequence[str]) -> int:
    from wm_env.cli.completion import SHELLS, script

    if len(words) != 1 or words[0] not in SHELLS:
        return _complain("wm-env", f"--completion takes one shell: {', '.join(SHELLS)}")
    print(script(words[0], COMMANDS))
    return 0


def write_json(path: Path, result: dict[str, Any], *, overwrite: bool = True) -> None:
    """Write a command's result; the file appears only when it is complete."""
    write_text(path, json.dumps(result, indent=2) + "\n", overwrite=overwrite)


def _at_home(command: Any) -> Any:
    """Return a command with `~` in its paths as the home folder, and a prompt in UTF-8 in any locale."""
    values: dict[str, Any] = {
        name: expanded(value) for name, value in vars(command).items() if isinstance(value, Path)
    }
    if isinstance(vars(command).get("prompt"), str):
        values["prompt"] = os.fsencode(command.prompt).decode("utf-8", "replace")
    return dataclasses.replace(command, **values)


def _complain(who: str, what: str) -> int:
    print(f"{who}: error: {' '.join(what.split())}", file=sys.stderr)
    return BAD_INPUT

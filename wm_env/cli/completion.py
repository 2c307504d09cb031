"""Completion in bash and zsh: a script with the words of every command, made from the commands themselves."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from wm_env.cli.words import options_of
from wm_env.model.training.command import build_parser

SHELLS = ("bash", "zsh")
TOP = ("--help", "--version", "--completion")
_HEAD = """# completion of wm-env, made by `wm-env --completion SHELL`
_wm_env() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} words=""
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then"""
_TAIL = """  if [[ -n $words ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi
}"""


def script(shell: str, commands: Mapping[str, Any]) -> str:
    """Return the script. commands: rows of the table of commands, by name; each is imported here."""
    table = {name: _values(name, command.target) for name, command in commands.items()}
    groups: dict[str, list[str]] = {}
    for name in commands:
        first, _, second = name.partition(" ")
        groups.setdefault(first, []).extend([second] if second else [])
    seconds = {first: names for first, names in groups.items() if names}
    lines = [
        _HEAD,
        f'    COMPREPLY=($(compgen -W "{" ".join([*groups, *TOP])}" -- "$cur"))',
        "    return",
        "  fi",
    ]
    lines += ['  if [[ $command = "--completion" ]]; then', f'    words="{" ".join(SHELLS)}"', "  fi"]
    lines += ['  case "$command" in']
    for first, names in seconds.items():
        listed = " ".join(names)
        lines.append(
            f'    {first}) if [[ $COMP_CWORD -eq 2 ]]; then words="{listed}"; '
            'else command="$command ${COMP_WORDS[2]}"; fi ;;'
        )
    lines += ["  esac", '  case "$command $prev" in']
    lines += [
        f'    "{name} {option}") words="{" ".join(choices)}" ;;'
        for name, options in table.items()
        for option, choices in options.items()
        if choices
    ]
    lines += ["  esac", '  if [[ $cur == -* ]]; then case "$command" in']
    lines += [f'    "{name}") words="{" ".join(options)}" ;;' for name, options in table.items()]
    lines += ["  esac; fi", _TAIL]
    if shell == "zsh":
        lines.append("autoload -U +X bashcompinit && bashcompinit")
    return "\n".join([*lines, "complete -o default -F _wm_env wm-env"])


def _values(name: str, target: str) -> dict[str, tuple[str, ...]]:
    """Return the options of a command and the fixed values of each, () where it takes any or none."""
    module, _, attribute = target.partition(":")
    found = vars(importlib.import_module(module))[attribute]
    if not isinstance(found, type):
        options = build_parser().options_of(name.removeprefix("train "))
        return {
            option: tuple(str(choice) for choice in action.choices or ())
            for option, action in options.items()
            if option.startswith("--")
        }
    table: dict[str, tuple[str, ...]] = {"--help": ()}
    for each in options_of(found):
        if not each.positional:
            table |= {each.name: each.choices} | ({each.negative: ()} if each.negative else {})
    return table

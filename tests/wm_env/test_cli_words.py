"""A wrong word on the command line is answered by one line with the nearest; completion knows all words."""

from __future__ import annotations

import importlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from wm_env import __version__
from wm_env.cli import COMMANDS, main
from wm_env.cli.completion import script
from wm_env.cli.words import options_of, refuse

SAID = {
    "recrod": "wm-env: error: unknown command 'recrod'; did you mean `wm-env record`?",
    "bench drif": "wm-env: error: unknown command 'bench drif'; did you mean `wm-env bench drift`?",
    "benc drift": "wm-env: error: unknown command 'benc'; did you mean `wm-env bench drift`?",
    "drift": "wm-env: error: unknown command 'drift'; did you mean `wm-env bench drift`?",
    "agent frobnicate": "wm-env: error: unknown command 'agent frobnicate'; `wm-env agent --help` lists them",
    "frobnicate": "wm-env: error: unknown command 'frobnicate'; `wm-env --help` lists them",
    "--completion fish": "wm-env: error: --completion takes one shell: bash, zsh",
    "record": "--out is required",
    "agent eval": "AGENT is required",
    "record --outt x.mp4": "unknown option --outt; did you mean --out?",
    "record --out x.mp4 --zzz": "unknown option --zzz; --help lists the options",
    "record walk.mp4": "'walk.mp4' belongs to no option; did you mean --out walk.mp4?",
    "record --out": "--out needs a value",
    "record --out x --compare=yes": "--compare takes no value, but got 'yes'",
    "record --out x --steps three": "--steps 'three' is not a whole number",
    "record --out x --frame-size 704": "--frame-size needs 2 values",
    "record --out x --task objectNav": "pointnav, objectnav, imagenav, follow; did you mean objectnav?",
    "bench fidelity --out x --splits val heldut": "did you mean heldout?",
    "download sana-wm-streamin": "did you mean sana-wm-streaming?",
    "agent eval objctnav": "did you mean objectnav?",
    "train import --frm x": "unknown option --frm; did you mean --from?",
    "train vae --oot x": "unknown option --oot; did you mean --out?",
    "train vae --out x y": "'y' belongs to no option",
    "train data --out x --split vall": "did you mean val?",
    "train vae --out x --preset tinny": "did you mean tiny?",
}


@pytest.mark.parametrize("words", SAID)
def test_a_wrong_word_is_answered_by_one_line_with_the_nearest(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(words))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert SAID[words] in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "--out x --scene None --temperature-of-nothing --help",
        "--out=x --no-compare --offload --frame-size 704 1280 --steps 1_000 --prompt -",
        "--out x --offload text vae --scene -3",
    ],
)
def test_what_the_parser_takes_is_not_refused(words: str) -> None:
    refuse(options_of(importlib.import_module("wm_env.cli.record").Record), shlex.split(words))


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"wm-env {__version__}\n"


def test_a_group_without_a_command_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench"])
    told = capsys.readouterr().out
    assert [name for name in COMMANDS if f"  {name}  " in told] == [
        name for name in COMMANDS if name.startswith("bench ")
    ]


def test_bash_completes_commands_options_and_values() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    lines = [
        ("wm-env", "rec"),
        ("wm-env", "bench", ""),
        ("wm-env", "record", "--overl"),
        ("wm-env", "record", "--task", "ob"),
        ("wm-env", "train", "vae", "--pre"),
        ("wm-env", "train", "data", "--split", ""),
    ]
    asks = [
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; _wm_env; "
        'echo "${COMPREPLY[*]}"'
        for words in lines
    ]
    asked = "\n".join([script("bash", COMMANDS), *asks])
    out = subprocess.run([bash, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "record",
        " ".join(name.split()[1] for name in COMMANDS if name.startswith("bench ")),
        "--overlay",
        "objectnav",
        "--preset",
        "train val heldout",
    ]
    assert "bashcompinit" in script("zsh", COMMANDS)

"""Commands that are stopped in the middle, by Ctrl-C, SIGTERM or SIGKILL, end, leave no mess, and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from wm_env.agents.run_folder import steps_of
from wm_env.cli import bench as cli_bench
from wm_env.cli import main
from wm_env.export.episode import load_recording
from wm_env.model.interrupts import SIGNALS

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = 120, 30  # seconds a command may take to begin its work on a busy machine, and to end


class Told(NamedTuple):
    """What a command said and its exit status."""

    status: int
    out: str
    err: str


def command(*words: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "wm_env.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stopped(*words: str, folder: Path, begun: Callable[[], bool], sent: signal.Signals) -> Told:
    """Return what a command says that gets the signal `sent` as soon as `begun()`, with all its processes.

    SIGTERM is sent to the command alone, as process managers do.
    """
    process = command(*words, folder=folder)
    try:
        deadline = time.monotonic() + BEGIN
        while not begun() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None and begun(), process.communicate()
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        out, err = process.communicate(timeout=END)  # its workers hold the same pipes: they have ended too
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Told(process.returncode, out, err)


def finished(*words: str, folder: Path) -> Told:
    process = command(*words, folder=folder)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return Told(process.returncode, out, err)


def last_line(told: Told) -> str:
    """Return what a command said last, without the progress bars before it."""
    assert "Traceback" not in told.err, told.err
    return told.err.strip().splitlines()[-1]


def hidden(folder: Path) -> list[Path]:
    """Return the temporary files and folders of our writers."""
    return [path for path in folder.rglob(".*") if ".cache" not in path.parts]


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_is_one_line_that_says_how_to_go_on(
    sent: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def work(*_: object, **__: object) -> None:
        signal.raise_signal(sent)

    monkeypatch.setattr(cli_bench.drift, "run", work)
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "drift", "--out", str(tmp_path / "out")])
    assert ended.value.code == 128 + sent
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.endswith(
        "wm-env bench drift: interrupted; finished groups of walks are kept; the same command goes on"
    )
    assert [signal.getsignal(each) for each in SIGNALS] == before


WALK = ("--world", "twin", "--task", "pointnav", "--policy", "wander", "--seed", "3")


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of six episodes that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    finished(
        "record",
        *WALK,
        "--format",
        "folder",
        "--episodes",
        "6",
        "--steps",
        "20",
        "--out",
        "set",
        folder=folder,
    )
    return folder / "set"


def same_walks(found: Path, expected: Path) -> bool:
    assert [path.name for path in sorted(found.iterdir())] == [
        path.name for path in sorted(expected.iterdir())
    ]
    for path in sorted(expected.glob("episode_*")):
        one, other = load_recording(path), load_recording(found / path.name)
        if not np.array_equal(one.frames, other.frames) or one.facts != other.facts:
            return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "workers", "sent"),
    [
        ("folder", "2", signal.SIGINT),
        ("folder", "2", signal.SIGKILL),
        ("minari", "1", signal.SIGTERM),
    ],
)
def test_a_stopped_recording_keeps_its_episodes_and_goes_on_with_the_missing(
    format: str, workers: str, sent: signal.Signals, walks: Path, tmp_path: Path
) -> None:
    words = ["record", *WALK, "--format", format, "--episodes", "6", "--steps", "20", "--workers", workers]
    words += ["--out", "set"]
    home = tmp_path / ("set" if format == "folder" else "set-episodes")
    first = home / "episode_000000"
    told = stopped(*words, folder=tmp_path, begun=first.is_dir, sent=sent)
    if sent != signal.SIGKILL:
        assert told.status == 128 + sent
        assert "the same command goes on" in last_line(told)
        assert not hidden(tmp_path)
    kept = first.stat().st_mtime_ns
    assert len(list(home.glob("episode_*"))) < 6
    finished(*words, folder=tmp_path)
    assert first.stat().st_mtime_ns == kept
    assert not hidden(tmp_path)
    assert same_walks(home, walks)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "sign"), [("minari", "metadata.json"), ("lerobot", "meta")])
def test_a_killed_export_is_replaced_by_the_same_command(format: str, sign: str, tmp_path: Path) -> None:
    words = ["record", *WALK, "--format", format, "--episodes", "4", "--steps", "120", "--out", "set"]

    def exporting() -> bool:
        return any(path.name.startswith(".set-") for path in tmp_path.iterdir())

    stopped(*words, folder=tmp_path, begun=exporting, sent=signal.SIGKILL)
    assert hidden(tmp_path) and not (tmp_path / "set").exists()
    finished(*words, folder=tmp_path)
    assert (tmp_path / "set" / sign).exists() and not hidden(tmp_path)


POLICY = (
    *(
        "--world",
        "twin",
        "--task",
        "objectnav",
        "--num-envs",
        "2",
        "--max-episode-steps",
        "6",
        "--rollout",
        "8",
    ),
    *("--batch-size", "4", "--epochs", "4", "--evaluate-episodes", "2", "--threads", "1", "--steps", "320"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "sent"),
    [
        ("progress.jsonl", signal.SIGINT),
        ("progress.jsonl", signal.SIGKILL),
        ("settings.json", signal.SIGKILL),
    ],
)
def test_a_stopped_policy_goes_on_from_all_that_it_learned(
    first: str, sent: signal.Signals, tmp_path: Path
) -> None:
    words, out = ["agent", "train", *POLICY, "--out", "run"], tmp_path / "run"
    temporary = Path(first)

    def begun() -> bool:
        return any(out.glob(f"*{temporary.stem}*{temporary.suffix}"))

    told = stopped(*words, folder=tmp_path, begun=begun, sent=sent)
    saved = steps_of(out / "policy.zip") if (out / "policy.zip").is_file() else 0
    if sent != signal.SIGKILL:
        assert told.status == 128 + sent and not hidden(tmp_path)
        assert f"{saved} " in last_line(told) and "go on with --resume" in last_line(told)
        assert 16 <= saved < 320
    again = ("--resume",) if (out / "settings.json").is_file() else ()  # killed before that: nothing begun
    told = finished(*words, *again, folder=tmp_path)
    assert not again or f"goes on after step {saved}" in told.out
    assert json.loads((out / "policy.json").read_text())["env_steps"] == 320
    rows = [json.loads(line)["env_steps"] for line in (out / "progress.jsonl").read_text().splitlines()]
    assert rows == sorted(rows) and rows[-1] <= 320 and not hidden(tmp_path)


DRIFT = (
    *("bench", "drift", "--world", "twin", "--scenes", "4", "--batch", "1", "--horizon", "6s"),
    *("--trajectories", "forward,idle", "--pose-every", "0", "--out", "out"),
)
FIDELITY = (
    *("bench", "fidelity", "--world", "twin", "--splits", "val", "heldout", "--scenes", "3"),
    *("--horizons", "4", "8", "--long-steps", "8", "--still-steps", "1", "--out", "out"),
)
TIMES = {"date", "command", "cost"}  # what two runs never have in common


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "rows", "report"),
    [(DRIFT, "rows.jsonl", "drift.json"), (FIDELITY, "fidelity-twin.jsonl", "fidelity-twin.json")],
)
def test_a_stopped_benchmark_keeps_its_rows_and_ends_with_the_same_numbers(
    words: tuple[str, ...], rows: str, report: str, tmp_path: Path
) -> None:
    for name in ("whole", "stopped", "killed"):
        (tmp_path / name).mkdir()
    finished(*words, folder=tmp_path / "whole")
    expected = (tmp_path / "whole" / "out" / rows).read_text()
    for name, sent in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        file = tmp_path / name / "out" / rows

        def begun(file: Path = file) -> bool:
            return file.is_file() and file.read_text().count("\n") > 1

        told = stopped(*words, folder=tmp_path / name, begun=begun, sent=sent)
        if sent == signal.SIGTERM:
            assert told.status == 128 + sent and not hidden(tmp_path / name)
            assert "kept; the same command goes on" in last_line(told)
        kept = file.read_text()
        assert expected.startswith(kept) and len(kept) < len(expected)
        finished(*words, folder=tmp_path / name)
        assert file.read_text() == expected and not hidden(tmp_path / name)
        found, whole = (json.loads((tmp_path / run / "out" / report).read_text()) for run in (name, "whole"))
        assert {key: value for key, value in found.items() if key not in TIMES} == {
            key: value for key, value in whole.items() if key not in TIMES
        }


@pytest.mark.slow
def test_stopped_timings_start_over(tmp_path: Path) -> None:
    words = ["bench", "throughput", "--world", "twin", "--envs", "1", "--length", "0", "--out", "out"]
    out = tmp_path / "out"
    told = stopped(*words, "--steps", "100000", folder=tmp_path, begun=out.is_dir, sent=signal.SIGTERM)
    assert told.status == 128 + signal.SIGTERM and "starts over" in last_line(told)
    assert not list(out.iterdir())
    finished(*words, "--steps", "2", folder=tmp_path)
    assert (out / "throughput.json").is_file()


@pytest.mark.slow
def test_a_stopped_comparison_of_policies_goes_on_with_its_trainings(pure_world: str, tmp_path: Path) -> None:
    words = ["agent", "train", *POLICY, "--task", "pointnav", "--steps", "16", "--out", "learner"]
    finished(*words, folder=tmp_path)
    words = ["bench", "transfer", "--world", pure_world, "--task", "pointnav", "--learner", "learner"]
    words += [
        "--steps",
        "32",
        "--seeds",
        "1",
        "--checkpoints",
        "1",
        "--max-episode-steps",
        "4",
        "--threads",
        "1",
    ]
    words += [
        "--episodes",
        "2",
        "--curve-episodes",
        "2",
        "--num-envs",
        "2",
        "--temperatures",
        "0",
        "--out",
        "out",
    ]

    def begun() -> bool:
        return any((tmp_path / "out").glob("policies/*/progress.jsonl"))

    told = stopped(*words, folder=tmp_path, begun=begun, sent=signal.SIGTERM)
    assert told.status == 128 + signal.SIGTERM and not hidden(tmp_path)
    assert "kept; the same command goes on" in last_line(told)
    assert "goes on after step" in finished(*words, folder=tmp_path).out
    assert (tmp_path / "out" / "transfer.json").is_file() and not hidden(tmp_path)
